"""`kit serve`: the page in a browser, and who may ask the server what."""

import base64
import http.client
import io
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from flask.testing import FlaskClient
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from pipeline import serve
from pipeline.artifacts import Workspace
from pipeline.errors import KitError
from pipeline.serve import LIMIT_MB, address, build_app, listen
from pipeline.training.predict import fit_oof_temperature, predict_pictures, read_fold_models, top_classes
from tests.browser import Browser, until
from tests.conftest import make_picture
from tests.test_cli import KIT, refused
from tests.test_cli_predict import CLASSES, here, trained

__all__ = ["here", "trained"]  # fixtures
NAMES = ["red", "green", "<b>blue</b>"]
OWN = {"Host": "localhost:8000", "Origin": "http://localhost:8000"}


class Colours:
    """Predicts the share of each colour channel, and knows how many asked at once."""

    def __init__(self) -> None:
        self.now, self.most = 0, 0

    def __call__(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.now += 1
        self.most = max(self.most, self.now)
        time.sleep(0.01)
        self.now -= 1
        channels = picture.reshape(-1, 3).sum(axis=0, dtype=np.float64)
        return np.asarray(channels / channels.sum(), dtype=np.float32)


def client_of(predict: Any, *, host: str = "127.0.0.1") -> FlaskClient:
    app = build_app(predict, classes=NAMES, title="x <i>on</i> y", facts={"Classes": "3"}, host=host)
    client: FlaskClient = app.test_client()
    return client


def png(colour: tuple[int, int, int], *, size: tuple[int, int] = (30, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


# --- The server


def test_the_answer_to_a_picture() -> None:
    answer = client_of(Colours()).post("/predict", data=png((0, 30, 90)), headers=OWN)
    assert answer.status_code == 200
    found = answer.get_json()
    assert [one["class"] for one in found["classes"]] == ["<b>blue</b>", "green", "red"]
    assert [one["probability"] for one in found["classes"]] == pytest.approx([0.75, 0.25, 0])
    assert (found["height"], found["width"]) == (20, 30)
    assert found["picture"].startswith("data:image/webp;base64,")
    assert 0.01 <= found["seconds"] < 60


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"no picture", "not a picture"), (b"", "is empty"), (png((1, 2, 3))[:60], "cannot be read")],
)
def test_what_is_no_picture_is_said_to_be_none(content: bytes, problem: str) -> None:
    answer = client_of(Colours()).post("/predict", data=content, headers=OWN)
    assert problem in answer.get_json()["problem"]
    assert "classes" not in answer.get_json()
    assert "0x" not in answer.get_json()["problem"]


def test_a_request_has_a_largest_size() -> None:
    client, limit = client_of(Colours()), LIMIT_MB * 1_000_000
    fits = png((9, 9, 9)) + bytes(limit - len(png((9, 9, 9))))
    assert client.post("/predict", data=fits, headers=OWN).status_code == 200
    answer = client.post("/predict", data=fits + b"0", headers=OWN)
    assert answer.status_code == 413
    assert answer.get_json() == {"problem": f"this picture is larger than {LIMIT_MB} MB"}


def test_a_picture_has_a_largest_number_of_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "LIMIT_PIXELS", 600)
    client = client_of(Colours())
    assert "classes" in client.post("/predict", data=png((9, 9, 9)), headers=OWN).get_json()
    answer = client.post("/predict", data=png((9, 9, 9), size=(601, 1)), headers=OWN)
    assert answer.get_json()["problem"] == "this picture has 601 × 1 pixels, more than 600 in all"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:9", "Origin": "http://127.0.0.1:9"}, 200),
        ({"Host": "[::1]:9", "Origin": "http://[::1]:9"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:8001"}, 403),
        ({"Origin": "https://localhost:8000"}, 403),
        ({"Origin": None}, 403),
        ({"Host": "evil.example", "Origin": "http://evil.example"}, 403),  # a name that is let point here
        ({"Host": "localhost.evil.example:8000", "Origin": "http://localhost.evil.example:8000"}, 403),
        ({"Host": "127.0.0.1.evil.example", "Origin": "http://127.0.0.1.evil.example"}, 403),
        ({"Host": "[", "Origin": "http://["}, 403),
    ],
    ids=str,
)
def test_pages_from_elsewhere_are_refused(headers: dict[str, str | None], status: int) -> None:
    asked, colours = {name: value for name, value in (OWN | headers).items() if value is not None}, Colours()
    answer = client_of(colours).post("/predict", data=png((9, 9, 9)), headers=asked)
    assert answer.status_code == status
    assert colours.most == (status == 200)  # a refusal comes before any work
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_page_is_not_shown_to_a_name_from_elsewhere() -> None:
    client = client_of(Colours(), host="My-Machine")
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 403
    page = client.get("/", headers={"Host": "my-machine:8000"})
    assert page.status_code == 200
    assert "x &lt;i&gt;on&lt;/i&gt; y" in page.text
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/setup.cfg", "/static/setup.cfg", "/../setup.cfg", "/predict", "/%2e%2e/etc/passwd"])
def test_no_file_is_served(path: str) -> None:
    assert client_of(Colours()).get(path, headers=OWN).status_code in {404, 405}


def test_one_picture_is_predicted_at_a_time() -> None:
    colours = Colours()
    client = client_of(colours)

    def ask(number: int) -> float:
        answer = client.application.test_client().post("/predict", data=png((100, number, 0)), headers=OWN)
        return float(answer.get_json()["classes"][0]["probability"])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(16)))
    assert found == pytest.approx([100 / (100 + number) for number in range(16)])
    assert colours.most == 1


def test_a_fault_of_ours_is_not_silent(caplog: pytest.LogCaptureFixture) -> None:
    def broken(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise RuntimeError("out of memory")

    answer = client_of(broken).post("/predict", data=png((9, 9, 9)), headers=OWN)
    assert answer.status_code == 500
    assert "the terminal shows why" in answer.get_json()["problem"]
    assert "out of memory" not in answer.text
    assert "out of memory" in caplog.text


def test_a_port_that_is_taken_and_a_package_that_is_missing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        before = signal.getsignal(signal.SIGTERM)
        assert f"cannot listen on 127.0.0.1, port {port}" in refused("serve", "colours", "--port", str(port))
        assert signal.getsignal(signal.SIGTERM) == before
    assert "the address to listen on is empty" in refused("serve", "colours", "--host", "")
    with pytest.raises(KitError, match="cannot listen on no such host"):
        listen("no such host", 0)
    monkeypatch.setattr(serve, "_PACKAGES", ("flask", "no_such_package"))
    message = refused("serve", "colours")
    assert "not installed: no_such_package" in message
    assert "kaggle-image-kit[serve]" in message


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_the_address_that_is_said_answers(host: str) -> None:
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with listen(host, 0) as listening:
        said = urlsplit(address(listening))
        assert said.hostname == {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        socket.create_connection((said.hostname, said.port), timeout=5).close()


@pytest.mark.parametrize(
    ("host", "how"),
    [
        ("0.0.0.0", "by this machine's IP address"),
        ("::", "by this machine's IP address"),
        ("desk", "localhost or desk"),
    ],
)
def test_who_asks_by_another_name_is_told_the_right_one(host: str, how: str) -> None:
    answer = client_of(Colours(), host=host).get("/", headers={"Host": "table:8000"})
    assert answer.status_code == 403
    assert answer.get_json()["next"].endswith(how)


# --- The page


@dataclass
class Served:
    """A running `kit serve colours`."""

    process: subprocess.Popen[str]
    address: str
    root: Path
    said: str


@pytest.fixture(scope="module")
def served(trained: Path) -> Iterator[Served]:
    words = [*KIT, "serve", "colours", "--port", "0"]
    with subprocess.Popen(
        words, cwd=trained, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        watchdog = threading.Timer(180, process.kill)
        watchdog.start()
        try:
            said = ""
            while "ready: " not in said:
                line = process.stdout.readline() if process.stdout else ""
                assert line, process.stderr.read() if process.stderr else ""
                said += line
            watchdog.cancel()
            yield Served(process, re.findall(r"ready: (\S+)", said)[0], trained, said)
        finally:
            watchdog.cancel()
            process.kill()


def expected(served: Served, paths: Sequence[Path]) -> list[list[tuple[str, str]]]:
    """What `kit predict` says of pictures: classes and shares as the page writes them, the likeliest first."""
    workspace = Workspace(served.root)
    models = read_fold_models(workspace, "tiny", "colours")
    temperature = fit_oof_temperature(models, workspace)
    assert temperature is not None
    found = predict_pictures(paths, models=models, temperature=temperature.value)[CLASSES].to_numpy()
    return [
        [(name, f"{value:.1%}".replace("%", " %")) for name, value in top_classes(row, CLASSES, count=5)]
        for row in found
    ]


def shown(browser: Browser) -> list[list[tuple[str, str]]]:
    script = """
        const texts = (row) => [...row.children].slice(0, 2).map((cell) => cell.textContent);
        const rows = (item) => [...item.querySelectorAll(".chances li")].map(texts);
        return [...document.querySelectorAll(".predicted > li")].map(rows);
    """
    return [[(name, share) for name, share in rows] for rows in browser.run(script)]


def wait(browser: Browser, *, items: int) -> None:
    """Until so many pictures have their answer, and the page says so."""
    until(lambda: len(browser.find_all(".predicted > li:not([aria-busy])")) >= items)
    until(lambda: "predicted" in browser.find("#status").text)


def give(browser: Browser, how: str, path: Path) -> None:
    """Drop a file beside the field, or paste it."""
    script = """
        const bytes = Uint8Array.from(atob(arguments[1]), (letter) => letter.charCodeAt(0)), data = new DataTransfer();
        data.items.add(new File([bytes], arguments[2]));
        const options = { bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data };
        const event = arguments[0] === "drop" ? new DragEvent("drop", options) : new ClipboardEvent("paste", options);
        return document.querySelector("footer").dispatchEvent(event);
    """
    taken_over = not browser.run(script, how, base64.b64encode(path.read_bytes()).decode(), path.name)
    assert taken_over  # the browser would open the picture else


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A picture of each class; the second as a telephone writes it that was held upright."""
    paths = [make_picture(tmp_path / f"{name} <b>&.png", colour=at, seed=70) for at, name in enumerate(CLASSES)]
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(paths[1]) as image:
        paths[1] = tmp_path / "phone.jpg"
        image.transpose(Image.Transpose.ROTATE_90).save(paths[1], exif=exif)
    return paths


def test_pictures_that_are_chosen_dropped_and_pasted(served: Served, pictures: list[Path], browser: Browser) -> None:
    assert "probabilities calibrated by temperature" in served.said
    browser.open(served.address)
    browser.find("#choose").send_keys("\n".join(map(str, pictures[:2])))
    wait(browser, items=2)
    give(browser, "drop", pictures[2])
    wait(browser, items=3)
    give(browser, "paste", pictures[0])
    wait(browser, items=4)
    first, second, third = expected(served, pictures)
    assert shown(browser) == [first, third, first, second]  # the newest first; several at once in their order
    assert browser.find("#status").text == "1 picture predicted."
    widths = browser.run(
        "return [...document.querySelectorAll('.track div')].slice(0, 3).map((bar) => bar.style.width)"
    )
    assert [round(float(width.rstrip("%")), 1) for width in widths] == [float(share.rstrip(" %")) for _, share in first]
    assert browser.find_all(".file")[1].text == pictures[2].name  # as it is, whatever it is called
    assert browser.find_all(".about")[3].text.startswith("40 × 32 pixels, ")  # the telephone's, upright
    assert browser.broken_pictures() == []
    assert browser.complaints() == []


def test_what_is_no_picture_or_too_large_says_so(
    served: Served, pictures: list[Path], tmp_path: Path, browser: Browser
) -> None:
    text, large = tmp_path / "notes.txt", tmp_path / "large.png"
    text.write_text("no picture")
    large.write_bytes(pictures[0].read_bytes() + bytes(LIMIT_MB * 1_000_000))
    browser.open(served.address)
    browser.find("#choose").send_keys("\n".join(map(str, [text, large, pictures[2]])))
    wait(browser, items=3)
    problems = [one.text for one in browser.find_all(".predicted .bad")]
    assert problems == [
        "This is not a picture, or of a format that is not known here.",
        f"This file has {LIMIT_MB}.0 MB; up to {LIMIT_MB} MB are taken.",
    ]
    assert shown(browser) == [[], [], *expected(served, [pictures[2]])]
    assert browser.find("#status").text == "1 picture predicted, 2 could not be."
    assert browser.complaints() == []


def focused(browser: Browser) -> str:
    return str(browser.run("return document.activeElement.id || document.activeElement.className"))


def press(browser: Browser, key: str, *, holding: str = "") -> None:
    """Press a key where the focus is; the driver's shorter way would take it for a file's name in a file field."""
    keys = ActionChains(browser.driver)
    if holding:
        keys.key_down(holding)
    keys.send_keys(key)
    if holding:
        keys.key_up(holding)
    keys.perform()


def test_by_keyboard_alone(served: Served, pictures: list[Path], browser: Browser) -> None:
    browser.open(served.address)
    for _ in range(3):  # the skip link, the colours, the field
        press(browser, Keys.TAB)
    assert focused(browser) == "choose"
    assert browser.run("return getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"
    # The dialog in which files are chosen is the system's: that Enter asks for it is seen, then it is spared.
    browser.run("choose.addEventListener('click', (event) => { event.preventDefault(); window.asked = true; })")
    press(browser, Keys.ENTER)
    assert browser.run("return window.asked")
    browser.find("#choose").send_keys("\n".join(map(str, pictures)))
    wait(browser, items=3)
    browser.run("choose.focus()")
    press(browser, Keys.TAB)
    assert focused(browser) == "clear"
    press(browser, Keys.TAB)
    assert focused(browser) == "enlarge"
    press(browser, Keys.ENTER)
    press(browser, Keys.ARROW_RIGHT)
    assert browser.find("#enlarged .file").text == "phone.jpg"
    assert len(browser.find_all("#enlarged .chances li")) == 3
    press(browser, Keys.ESCAPE)
    until(lambda: "phone.jpg" in browser.run("return document.activeElement.getAttribute('aria-label')"))
    press(browser, Keys.TAB, holding=Keys.SHIFT)
    press(browser, Keys.TAB, holding=Keys.SHIFT)
    assert focused(browser) == "clear"
    press(browser, Keys.ENTER)
    assert shown(browser) == []
    assert focused(browser) == "choose"
    assert browser.complaints() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_on_a_telephone_nothing_is_wider_than_the_page(
    served: Served, pictures: list[Path], theme: str, browser: Browser
) -> None:
    browser.open(served.address, width=390, height=844, theme=theme)
    assert browser.overflow() == 0
    long = pictures[0].with_name("l" * 120 + ".png")
    long.write_bytes(pictures[0].read_bytes())
    browser.find("#choose").send_keys("\n".join(map(str, [long, pictures[1]])))
    wait(browser, items=2)
    assert browser.overflow() == 0
    browser.find(".enlarge").click()
    assert browser.overflow() == 0
    assert browser.complaints() == []


# --- The program


def test_it_listens_on_this_machine_alone_and_serves_no_file(served: Served) -> None:
    host, port = urlsplit(served.address).hostname, urlsplit(served.address).port
    assert host == "127.0.0.1"
    assert port is not None
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=5).close()  # this machine by another address
    for path in ("/../competitions/tiny/data/train.csv", "/colours.yaml", "//etc/passwd"):
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.request("GET", path)
        assert connection.getresponse().status == 404
        connection.close()


def test_ctrl_c_ends_it_and_the_page_says_so(served: Served, pictures: list[Path], browser: Browser) -> None:
    browser.open(served.address)
    served.process.send_signal(signal.SIGINT)
    stdout, stderr = served.process.communicate(timeout=60)
    assert served.process.returncode == 0
    assert stdout == "\nended; no picture was kept\n"
    assert "Traceback" not in stderr
    browser.find("#choose").send_keys(str(pictures[0]))
    wait(browser, items=1)
    assert browser.find(".bad").text == "The server does not answer. Does kit serve still run?"
    assert browser.complaints() != []
