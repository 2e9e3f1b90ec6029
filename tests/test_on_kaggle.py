"""What a kernel does on Kaggle besides training: finding its inputs, going on from others, saying how it ended."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipeline.artifacts import read_json, write_json
from pipeline.competition import Competition
from pipeline.errors import DataError, KitError, OutOfTime, RecipeError
from pipeline.on_kaggle import Session, find_folders, holds, process_started, session
from pipeline.recipe import load_recipe
from pipeline.rehearsal.server import Rehearsal
from pipeline.session import training_seconds
from pipeline.submit import kernel as kernel_module
from pipeline.submit.job import Job
from pipeline.submit.kaggle_client import Kaggle
from tests.rehearsal.conftest import PlainRunner, until, write_kernel

FILES = ["sample_submission.csv", "train.csv", "train", "test"]
RUN = Path("runs", "tiny", "demo")
RECIPE = load_recipe("demo").model_dump(mode="json")
JOB = Job("tiny", "demo", RECIPE, 600.0, "kit-train-tiny-demo-files", FILES, build="a-build")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /kaggle."""
    root = tmp_path / "kaggle"
    for name in ("input", "working"):
        (root / name).mkdir(parents=True)
    monkeypatch.setenv("KAGGLE_ROOT", str(root))
    monkeypatch.setenv("KERAS_HOME", "")  # so that what a session says is forgotten after the test
    return root


@pytest.fixture
def folder(tmp_path: Path, tiny_competition: Competition) -> Path:
    """Where the payload was unpacked."""
    target = tmp_path / "unpacked" / "competitions" / "tiny"
    target.mkdir(parents=True)
    shutil.copyfile(tiny_competition.folder / "competition.yaml", target / "competition.yaml")
    return tmp_path / "unpacked"


@pytest.fixture
def data(tmp_path: Path, tiny_competition: Competition) -> Path:
    """The competition's data, to be attached."""
    return tiny_competition.folder / "data"


@pytest.fixture
def start(root: Path, folder: Path) -> Callable[..., Session]:
    return lambda **changes: Session(asdict(replace(JOB, **changes)), folder, root)


Start = Callable[..., Session]


def write_files(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")


def shown(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, through links."""
    places = [Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in places}


def names(found: Iterator[Path], inputs: Path) -> list[str]:
    return [path.relative_to(inputs).as_posix() for path in found]


def test_the_nearest_folder_comes_first_and_nothing_below_it(tmp_path: Path) -> None:
    write_files(tmp_path, dict.fromkeys(("a/b/c/mark", "a/b/mark", "z/mark", "y/y/mark", "1/2/3/4/5/mark"), ""))
    write_files(tmp_path, {"1/2/3/4/x/6/mark": "too deep", "mark/other": "a folder"})
    (tmp_path / "link").symlink_to(tmp_path / "y", target_is_directory=True)

    def fits(folder: Path) -> bool:
        return (folder / "mark").is_file()

    assert names(find_folders(tmp_path, fits), tmp_path) == ["z", "a/b", "link/y", "y/y", "1/2/3/4/5"]
    assert list(find_folders(tmp_path / "z", fits)) == [tmp_path / "z"]
    assert next(find_folders(tmp_path / "mark", fits), None) is None


@pytest.mark.parametrize("mount", ["tiny", "competitions/tiny", "datasets/somebody/cards/inner"])
def test_the_data_is_found_wherever_it_is_mounted(start: Start, root: Path, data: Path, mount: str) -> None:
    write_files(root / "input", {"a/train.csv": "of another one", "a/sample_submission.csv": "", "a/test/a.jpg": ""})
    (root / "input" / mount).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(data, root / "input" / mount)
    run = start()
    for _ in range(2):
        assert run.competition.slug == "tiny"
    found = run.folder / "competitions" / "tiny" / "data"
    assert found.resolve() == root / "input" / mount


@pytest.mark.parametrize("inner", ["", "train/"])
def test_zipped_data_is_shown_as_it_is_unpacked_here(start: Start, root: Path, data: Path, inner: str) -> None:
    """Some competitions' folders are attached as zips, which hold the folder or its files."""
    place = root / "input" / "competitions" / "tiny"
    place.mkdir(parents=True)
    for name in ("train.csv", "sample_submission.csv"):
        shutil.copyfile(data / name, place / name)
    shutil.copytree(data / "test", place / "test")
    with zipfile.ZipFile(place / "train.zip", "w") as archive:
        for picture in (data / "train").iterdir():
            archive.write(picture, inner + picture.name)
    before = shown(root / "input")
    assert start().competition.slug == "tiny"
    assert shown(start().folder / "competitions" / "tiny" / "data") == shown(data)
    assert shown(root / "input") == before, "Kaggle's input is read only"


def test_what_a_zip_stands_for(tmp_path: Path) -> None:
    write_files(tmp_path, {"train.zip": "", "labels.csv.zip": "", "there/a.jpg": "", "there/test.zip": ""})
    for name in ("train", "train/images", "labels.csv", "there", "there/a.jpg"):
        assert holds(tmp_path, name), name
    for name in ("test", "trai", "labels", "there/b.jpg", "there/test"):
        assert not holds(tmp_path, name), name


def test_a_damaged_zip_is_named_and_kept(start: Start, root: Path) -> None:
    write_files(root / "input" / "tiny", {"train.zip": "no zip", "train.csv": ""})
    with pytest.raises(DataError, match=r"train\.zip is damaged") as refused:
        _ = start(files=["train.csv", "train"]).competition
    assert refused.value.next_step == "attach it again"
    assert (root / "input" / "tiny" / "train.zip").is_file()


def test_data_that_is_not_attached_is_named_with_what_is(start: Start, root: Path) -> None:
    with pytest.raises(DataError, match="attached are: nothing") as refused:
        _ = start().competition
    assert f"no folder below {root / 'input'} holds sample_submission.csv, train.csv, train, test" in str(refused.value)
    write_files(root / "input", {"competitions/cars/train.csv": "", "datasets/me/train/a.jpg": ""})
    with pytest.raises(DataError, match="data of the competition tiny; attached are: competitions/cars, datasets/me"):
        _ = start().competition


def attach_bundle(root: Path, files: Mapping[str, str], *, sha256: str = "f" * 64) -> Path:
    place = root / "input" / "datasets" / "me" / JOB.bundle
    write_files(place, files)
    write_json(place / f"{JOB.bundle}.json", {"competition": "tiny", "experiment": "demo", "sha256": sha256})
    return place


def test_a_kernel_runs_with_its_own_bundle_alone(start: Start, root: Path) -> None:
    start().prepare()  # it needs none
    assert start().bundle is None
    with pytest.raises(DataError, match=f"the data set {JOB.bundle} is not attached"):
        start(bundle_sha256="f" * 64).prepare()
    attach_bundle(root, {}, sha256="e" * 64)
    with pytest.raises(DataError, match="is not the one this kernel was built with") as refused:
        start(bundle_sha256="f" * 64).prepare()
    assert "ffffffffffff…; attached are: datasets/me" in refused.value.expected


def test_a_bundle_is_made_usable(
    start: Start, root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = attach_bundle(root, {"theirs_notop.h5": "published", "mine.weights.h5": "my own", "notes.txt": ""})
    with zipfile.ZipFile(place / "kit_tests_module-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("kit_tests_module.py", "value = 7\n")
    monkeypatch.syspath_prepend(str(folder))
    recipe = {**RECIPE, "weights": "mine.weights.h5"}
    run = start(bundle_sha256="f" * 64, recipe=recipe, packages=["kit-tests-module==1.0"], internet=False)
    run.prepare()
    assert run.bundle == place
    models = Path(os.environ["KERAS_HOME"]) / "models"
    assert sorted(path.name for path in models.iterdir()) == ["mine.weights.h5", "theirs_notop.h5"]
    assert (models / "theirs_notop.h5").read_text() == "published"
    assert importlib.import_module("kit_tests_module").value == 7
    assert run.recipe.weights == str(place / "mine.weights.h5")
    assert "without" not in capfd.readouterr().out
    assert not (root / "working").joinpath("keras").exists()


def test_a_package_that_is_missing_is_told_and_does_not_stop_a_kernel(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    start(packages=["no-such-module-here==1.0"], internet=False).prepare()
    assert "without no-such-module-here==1.0" in capfd.readouterr().out


def earlier(root: Path, slug: str, files: Mapping[str, str], *, written: str, mount: str = "notebooks/me/") -> None:
    place = root / "input" / f"{mount}{slug}"
    write_files(place / RUN, {"run.json": "{}", **files})
    write_json(place / "kernel.json", {"build": slug, "written": written})
    for path in place.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("mount", ["", "notebooks/me/"])
def test_a_kernel_goes_on_from_all_the_earlier_ones(start: Start, root: Path, mount: str) -> None:
    """A finished fold before a half one, and of half ones the newest: it went on from the others."""
    first = {"fold-0/fold.json": "{}", "fold-0/who.txt": "first", "fold-1/who.txt": "first", "fold-3/who.txt": "first"}
    second = {"fold-0/who.txt": "second", "fold-1/who.txt": "second", "fold-2/a/who.txt": "second"}
    third = {"fold-3/who.txt": "third", "fold-3/fold.json": "{}", "fold-1/who.txt": "third, older"}
    earlier(root, "b-first", first, written="2026-08-01T10:00:00+00:00", mount=mount)
    earlier(root, "c-second", second, written="2026-08-02T11:00:00+00:00", mount=mount)
    earlier(root, "d-third", third, written="2026-08-01T11:00:00+00:00", mount=mount)
    write_files(root / "input" / "a" / "runs" / "tiny" / "other", {"run.json": "{}", "fold-4/who.txt": "another's"})
    start().continue_run()
    found = root / "working" / RUN
    told = {path.relative_to(found).as_posix(): path.read_text() for path in found.rglob("who.txt")}
    assert told == {
        "fold-0/who.txt": "first",
        "fold-1/who.txt": "second",
        "fold-2/a/who.txt": "second",
        "fold-3/who.txt": "third",
    }
    assert {path.parent.name for path in found.rglob("fold.json")} == {"fold-0", "fold-3"}
    assert (found / "run.json").is_file()
    assert all(path.stat().st_mode & 0o200 for path in (root / "working").rglob("*")), "it is gone on with"
    assert sorted(path.name for path in (root / "working" / "runs" / "tiny").iterdir()) == ["demo"]


def test_a_kernel_that_goes_on_from_nothing_begins_anew(start: Start, root: Path) -> None:
    start().continue_run()
    assert not list((root / "working").iterdir())


def test_a_kernel_that_does_its_job_says_so(root: Path, folder: Path) -> None:
    with session(asdict(JOB), str(folder)) as run:
        during = read_json(root / "working" / "kernel.json")
        assert run.workspace.root == root / "working"
        assert run.workspace.cache("tiny").is_relative_to(folder), "decoded pictures are no output"
    after = read_json(root / "working" / "kernel.json")
    assert (during["state"], during["message"]) == ("failed", "the kernel did not end by itself")
    assert (after["state"], after["message"], after["build"]) == ("finished", "", "a-build")
    assert (after["competition"], after["experiment"]) == ("tiny", "demo")


def test_a_kernel_without_time_has_stopped(root: Path, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with session(asdict(JOB), str(folder)):
        raise OutOfTime("no time for fold 1", expected="more", next_step="go on")
    report = read_json(root / "working" / "kernel.json")
    assert (report["state"], report["message"].splitlines()[0]) == ("stopped", "no time for fold 1")
    assert "stopped: no time for fold 1" in capfd.readouterr().out


@pytest.mark.parametrize("kind", [RecipeError, type("Own", (KitError,), {"exit_code": 5})])
def test_a_mistake_ends_with_its_message_and_exit_code(
    root: Path, folder: Path, capfd: pytest.CaptureFixture[str], kind: type[KitError]
) -> None:
    with pytest.raises(SystemExit) as ended, session(asdict(JOB), str(folder)):
        raise kind("it is wrong", expected="right", next_step="mend it")
    assert ended.value.code == kind.exit_code
    assert read_json(root / "working" / "kernel.json")["state"] == "failed"
    assert capfd.readouterr().err.startswith("error: it is wrong\n")


def test_a_kernel_without_its_bundle_does_not_begin(root: Path, folder: Path) -> None:
    with pytest.raises(SystemExit), session(asdict(replace(JOB, bundle_sha256="f" * 64)), str(folder)):
        pytest.fail("it began")
    report = read_json(root / "working" / "kernel.json")
    assert report["state"] == "failed" and "is not attached" in report["message"]


@pytest.mark.parametrize(
    ("end", "code"), [("1 / 0", 1), ("os.kill(os.getpid(), 9)", -signal.SIGKILL), ("sys.exit(4)", 4)]
)
def test_a_kernel_that_dies_has_failed(root: Path, folder: Path, end: str, code: int) -> None:
    text = "import os, sys\nfrom pipeline.on_kaggle import session\n"
    text += f"with session({asdict(JOB)!r}, {str(folder)!r}):\n    {end}"
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr
    report = read_json(root / "working" / "kernel.json")
    assert (report["state"], report["message"]) == ("failed", "the kernel did not end by itself")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell")
def test_a_sessions_time_begins_with_its_process_not_with_the_import() -> None:
    text = "import time; time.sleep(0.5); t = time.time(); import pipeline.on_kaggle as o; print(t - o._STARTED)"
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert 0.5 <= float(ran.stdout) < 30


@pytest.mark.parametrize("clock", [0.0, 1e9])
def test_a_clock_that_cannot_be_does_not_end_a_session(clock: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "clock_gettime", lambda _: clock)
    assert process_started() == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize(("session", "left"), [(43200, 2160), (600, 30), (300, 15), (36, 15)])
def test_what_a_session_keeps_for_its_end(session: float, left: float) -> None:
    assert session - training_seconds(session) == pytest.approx(left)


UNPACKED = """import os, sys
os.environ["KAGGLE_ROOT"] = ".."
from pipeline.submit.payload import JOB, unpack
folder = unpack()
import pipeline.errors
assert pipeline.errors.__file__.startswith(folder) and sys.path[0] == folder
open("said.txt", "w").write(JOB["build"])
"""


@pytest.mark.parametrize("mounts", ["new", "old"])
def test_an_attached_package_is_found_by_the_kernel(
    rehearse: Callable[..., Rehearsal], tiny_competition: Competition, tmp_path: Path, mounts: str
) -> None:
    """By the real client, on a local Kaggle whose inputs are links."""
    rehearse(runner=PlainRunner(), mounts=mounts)
    kaggle, ref = Kaggle.connect(timeout=10), f"rehearsal-user/{JOB.bundle}"
    code = kernel_module._fill_in(UNPACKED, replace(JOB, attached=True), "")
    pushed = kaggle.push_kernel(write_kernel(tmp_path / "k", code))
    status = until(lambda: (now := kaggle.kernel_status(pushed.ref)).state in ("ERROR", "COMPLETE") and now)
    assert status.state == "ERROR"
    log = kaggle.kernel_output(pushed.ref, tmp_path / "none", progress=False)
    assert log == f"error: the data set {JOB.bundle}, which holds the package, is not attached\n"
    write_files(tmp_path / "files", {f"{JOB.bundle}.b85": kernel_module.pack(tiny_competition)})
    kaggle.upload_dataset(tmp_path / "files", ref=ref, title=JOB.bundle, notes="", progress=False)
    pushed = kaggle.push_kernel(write_kernel(tmp_path / "k", code, dataset_sources=[ref]))
    status = until(lambda: (now := kaggle.kernel_status(pushed.ref)).state in ("ERROR", "COMPLETE") and now)
    log = kaggle.kernel_output(pushed.ref, tmp_path / "output", progress=False)
    assert status.state == "COMPLETE", log
    assert (tmp_path / "output" / "said.txt").read_text() == "a-build"
