"""Pages in Debian's Chromium; screenshots stay in build/screenshots."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from playwright.sync_api import Page, sync_playwright

CHROMIUM: Final = Path("/usr/bin/chromium")
# No network, no first-run pages, no services of its maker's.
_FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SCREENSHOTS: Final = Path(__file__).resolve().parents[3] / "build" / "screenshots"
RUN: Final = "report-of-a-real-run"
"""A run of the demo suite with a gate."""


@dataclass(frozen=True)
class Look:
    """How somebody looks: on which screen, and in which light."""

    name: str
    width: int
    height: int
    scheme: Literal["light", "dark"] = "light"


LOOKS: Final = (Look("desktop", 1280, 900), Look("phone", 375, 812), Look("dark", 1280, 900, "dark"))


@contextmanager
def opened(look: Look, what: str, *, is_offline: bool = False) -> Iterator[Page]:
    """Yield an empty page of a new browser; at the end what it shows is kept, and its console has to be silent."""
    with TemporaryDirectory() as folder, sync_playwright() as driver:
        browser = driver.chromium.launch_persistent_context(
            Path(folder) / "user-data",
            executable_path=CHROMIUM,
            args=list(_FLAGS),
            viewport={"width": look.width, "height": look.height},
            color_scheme=look.scheme,
            offline=is_offline,
        )
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        yield page
        keep_screenshot(page, f"{what}-{look.name}")
        browser.close()
        assert not said, said


def keep_screenshot(page: Page, name: str) -> None:
    """Keep what a page shows, from its top to its end."""
    _SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=_SCREENSHOTS / f"{name}.png", full_page=True)
