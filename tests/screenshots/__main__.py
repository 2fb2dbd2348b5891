"""Write screenshots of every view of the board, wide and narrow, light and dark, into ``.cache/screenshots``."""

from __future__ import annotations

from collections.abc import Iterator

from playwright.sync_api import Browser

from tests.support.board_page import NARROW, PageServer, chromium, opened
from tests.support.board_views import RUN, RUNNING, federation
from tests.support.pages import ROOT

TARGET = ROOT / ".cache" / "screenshots"
WIDTHS = (1280, NARROW)
SCHEMES = ("light", "dark")
VIEWS = {
    "overview": "",
    "cohort": "cohorts/airports",
    "sessions": "sessions",
    "session": f"sessions/{RUNNING}",
    "curves": "runs",
    "run": f"runs/{RUN}",
    "notices": "notices",
}
MANY = {"session-1000": f"sessions/{RUNNING}", "cohort-1000": "cohorts/airports"}


def shots(browser: Browser, silos: int, views: dict[str, str]) -> Iterator[str]:
    """Take screenshots of the views of a made-up federation; yield their names."""
    for scheme in SCHEMES:
        for width in WIDTHS:
            viewport = {"width": width, "height": 900}
            with (
                PageServer(federation(silos)) as server,
                opened(browser, server.url, viewport=viewport, color_scheme=scheme) as page,
            ):
                for name, view in views.items():
                    page.goto(f"{server.url}#/{view}")
                    page.wait_for_selector("main:not([aria-busy=true]) h1")
                    page.wait_for_timeout(400)  # until charts and pictures know their width and are drawn
                    shot = f"{name}-{width}-{scheme}.png"
                    page.screenshot(path=TARGET / shot, full_page=True)
                    yield shot


def main() -> None:
    """Take all screenshots."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for views, silos in ((VIEWS, 0), (MANY, 1000)):
            for shot in shots(browser, silos, views):
                print(f"{TARGET.relative_to(ROOT)}/{shot}")


if __name__ == "__main__":
    main()
