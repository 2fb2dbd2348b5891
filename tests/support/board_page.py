"""The board's page in a real browser: a server that sends the views of a test, and the faults of the page."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
from playwright.sync_api import Browser, Page, Route, sync_playwright
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route as Endpoint

from fedbroker.board.views import Changes, SessionDetails, State
from fedbroker.web.app import make_app
from fedbroker.web.listen import Access, Address
from fedbroker.web.serve import serving
from fedbroker.web.sse import Feed, message
from tests.support.pages import ROOT

ASSETS = (ROOT / "fedbroker" / "board" / "assets",)
NARROW = 390
"""Width of a phone, in CSS pixels."""
PAINTED = """(parts) => {
  const [selector, attribute] = parts;
  window.painted = {};
  const note = () => {
    const text = document.querySelector(selector)?.getAttribute(attribute) ?? "";
    // After the frame in which the text changed, it has been painted.
    requestAnimationFrame(() => setTimeout(() => { window.painted[text] ??= Date.now() / 1000; }));
  };
  const all = { subtree: true, childList: true, attributes: true };
  new MutationObserver(note).observe(document.querySelector("main"), all);
}"""
"""Notes in ``window.painted`` when a frame has shown each value of an element's attribute, in seconds since 1970."""

WATCH = """() => {
  window.long = [];
  window.frames = [];
  new PerformanceObserver((list) => window.long.push(...list.getEntries().map((one) => one.duration)))
    .observe({ type: "longtask" });
  let before = performance.now();
  const frame = (now) => { window.frames.push(now - before); before = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}"""
"""Notes the times of frames and of long tasks, in milliseconds, in ``window.frames`` and ``window.long``."""


class PageServer:
    """Serves the page as the board does, with the shell of the board and views of the test."""

    def __init__(self, state: State, port: int = 0) -> None:
        self.state = state
        self.url = ""
        self._port = port
        self._pending: list[bytes] = []
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> PageServer:
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._port

    def close(self) -> None:
        """Stop it and disconnect all browsers; more than once does nothing more."""
        if self._thread.is_alive():
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
        assert not self._thread.is_alive()

    def send(self, changes: Changes) -> None:
        """Send changes to all browsers, as the board does: together with others of the same tenth of a second."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._put, message("changes", msgspec.json.encode(changes)))

    def _put(self, text: bytes) -> None:
        self._pending.append(text)
        self._feed.changed()

    def _take(self) -> bytes:
        text = b"".join(self._pending)
        self._pending.clear()
        return text

    async def _session(self, request: Request) -> Response:
        id = request.path_params["id"]
        for session in self.state.sessions:
            if session.id == id:
                stages = [stage for stage in self.state.stages if stage.session == id]
                bars = [bar for bar in self.state.bars if bar.session == id]
                details = SessionDetails(session=session, stages=stages, bars=bars)
                return Response(msgspec.json.encode(details), media_type="application/json")
        return PlainTextResponse("no such session\n", status_code=404)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._feed = Feed(lambda: message("state", msgspec.json.encode(self.state)), self._take)
        address = Address("127.0.0.1", self._port)
        routes = [
            Endpoint("/api/events", lambda _: self._feed.response()),
            Endpoint("/api/sessions/{id}", self._session),
        ]
        async with serving(make_app(routes, ASSETS, Access.to(address)), address) as bound:
            self.url, self._port = f"http://{bound.netloc}/", bound.port
            running = asyncio.create_task(self._feed.run())
            self._ready.set()
            await self._stop.wait()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


@dataclass
class Faults:
    """Faults of a page.

    Attributes:
        console: errors and warnings that it logged, with violations of its policy and exceptions.
        foreign: requests to another origin than its own.
    """

    console: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run the installed Chromium within the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(browser: Browser, url: str, view: str = "", *, expected: str = "", **settings: Any) -> Iterator[Page]:
    """Open a view of the page; require afterwards that it has no fault.

    Args:
        expected: a part of the only errors that its console may show.
        settings: of the browser's context.
    """
    faults = Faults()
    settings = {"viewport": {"width": 1280, "height": 900}, **settings}
    context = browser.new_context(**settings)
    try:
        page = context.new_page()
        origin = urlsplit(url).netloc

        def look(route: Route) -> None:
            if urlsplit(route.request.url).netloc != origin:
                faults.foreign.append(route.request.url)
            route.continue_()

        context.route("**/*", look)
        page.on("console", lambda told: told.type in ("error", "warning") and faults.console.append(told.text))
        page.on("pageerror", lambda error: faults.console.append(str(error)))
        page.goto(f"{url}#/{view}")
        page.wait_for_selector("#status[data-state=live]")
        yield page
    finally:
        context.close()
    assert faults.foreign == []
    assert [text for text in faults.console if not expected or expected not in text] == []


def too_wide(page: Page) -> list[str]:
    """Return the elements that reach beyond the window's right edge, if the page can be scrolled to the side."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll("body *")]
          .filter((one) => one.getBoundingClientRect().right > innerWidth + 1)
          .map((one) => `${one.tagName} ${one.getAttribute("class")} ${one.textContent.slice(0, 40)}`)
          .concat("page")"""
    )
