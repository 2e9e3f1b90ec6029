"""A real browser for the tests of pages: headless Chromium without a network."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--proxy-server=127.0.0.1:9",  # nothing listens there
    "--hide-scrollbars",
)


class Browser:
    """Opens pages from disk or from this machine, and says what can be seen of them."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path | str, *, width: int = 1280, height: int = 900, theme: str = "light") -> None:
        """Open a page afresh.

        Args:
            page: A file, or an address on this machine.
            width: Of what the page sees, in CSS pixels, be it narrower than a window can be.
            theme: "light" or "dark", as the system would say it.
        """
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        # Scrolling softly, the page would move under the mouse.
        media = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in media.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(page if isinstance(page, str) else page.resolve().as_uri())
        self.run("try { localStorage.clear(); } catch {}")
        self.driver.refresh()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def find_all(self, selector: str) -> list[Any]:
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def complaints(self) -> list[str]:
        """What the browser's console says since the last call: errors, and what could not be loaded."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def broken_pictures(self) -> list[str]:
        """The alternative texts of pictures that are not shown."""
        script = """
            const images = [...document.images];
            await Promise.allSettled(images.map((image) => image.decode()));
            return images.filter((image) => !image.naturalWidth).map((image) => image.alt);
        """
        return list(
            self.driver.execute_async_script(f"const done = arguments[0]; (async () => {{{script}}})().then(done)")
        )

    def overflow(self) -> int:
        """By how many pixels the page is wider than what is seen of it."""
        return int(self.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def cut_off(self) -> list[str]:
        """What reaches beyond the page's right edge, or beyond a box that scrolls without a hint below it."""
        script = """
            const wide = [...document.querySelectorAll("header *, main *, footer *")].filter((one) =>
                !one.parentElement.closest(".scroll, .drawing, svg") && one.checkVisibility() &&
                one.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
            const silent = [...document.querySelectorAll(".scroll, .drawing")].filter((one) => one.checkVisibility() &&
                (one.scrollWidth > one.clientWidth + 1) !== one.nextElementSibling.checkVisibility());
            return [...wide, ...silent].map((one) => `${one.tagName} ${one.id || one.className}`);
        """
        return list(self.run(script))

    def column(self, table: str, number: int) -> list[str]:
        """The texts of a table's column, from above, without rows that a filter hides."""
        script = "return [...document.querySelectorAll(arguments[0])].map((row) => row.cells[arguments[1]].textContent)"
        return list(self.run(script, f"#{table} tbody tr:not([hidden])", number))


@contextmanager
def started_browser(profile: Path) -> Iterator[Browser]:
    """Chromium with an empty profile; a test that needs it is skipped where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("needs chromium and chromedriver on the path (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("no_proxy", "localhost")  # the driver is on this machine; the tests' proxy is nowhere
        environment.setenv("NO_PROXY", "localhost")
        driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, a minute at most."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
