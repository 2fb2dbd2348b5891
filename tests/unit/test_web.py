"""The shell of pages: files, headers, who may open them, and server-sent events, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fedbroker.errors import ConfigError
from fedbroker.web import sse
from fedbroker.web.app import HEADERS, make_app
from fedbroker.web.listen import Access, Address, token_from
from fedbroker.web.serve import serving
from fedbroker.web.sse import Feed, message
from tests.support.http_client import events, get, request
from tests.support.transports import eventually

LOOPBACK = Address("127.0.0.1", 0)
TOKEN = "a-token-of-more-than-16"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

Served = Callable[..., AbstractAsyncContextManager[int]]


async def _hello(request: Request) -> JSONResponse:
    return JSONResponse({"query": str(request.url.query)})


@pytest.fixture
def served(tmp_path: Path) -> Served:
    (tmp_path / "index.html").write_text("<!doctype html><title>board</title>")
    (tmp_path / "base.js").write_text("export {};")

    @asynccontextmanager
    async def start(access: Access | None = None, routes: Sequence[BaseRoute] = ()) -> AsyncGenerator[int]:
        hello = Route("/api/hello", _hello)
        app = make_app([hello, *routes], [tmp_path], access or Access.to(LOOPBACK))
        async with serving(app, LOOPBACK) as at:
            yield at.port

    return start


async def test_the_page_its_assets_and_strict_headers(served: Served) -> None:
    async with served() as port:
        page = await get(port, "/")
        assert (page.status, page.body[:15]) == (200, b"<!doctype html>")
        script = await get(port, "/assets/base.js")
        assert "javascript" in script.headers["content-type"]
        known = await get(port, "/assets/base.js", {"If-None-Match": script.headers["etag"]})
        assert (known.status, known.body) == (304, b"")
        answers = [page, script, known, await get(port, "/api/hello")]
        for path in ("/assets/missing.js", "/assets/../index.html", "/assets/..%2findex.html", "/etc/passwd"):
            answers.append(await get(port, path))
            assert answers[-1].status == 404
        answers.append(await get(port, "/", method="POST"))
        assert answers[-1].status == 405
        answers.append(await get(port, "/", host="evil.example"))
        for answer in answers:
            assert HEADERS.items() <= answer.headers.items()
            assert "server" not in answer.headers
    assert answers[3].headers["cache-control"] == "no-store"
    assert "unsafe" not in HEADERS["content-security-policy"]


async def test_without_a_token_only_names_of_this_machine_are_answered(served: Served) -> None:
    async with served() as port:
        for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1", "[::1]:80"):
            assert (await get(port, "/", host=host)).status == 200
        for host in ("evil.example", "127.0.0.1.evil.example", f"localhost:{port}@evil.example", "localhost:x", "::1"):
            assert (await get(port, "/", host=host)).status == 421


async def test_a_token_is_taken_from_a_header_or_once_from_the_url(served: Served) -> None:
    async with served(Access.to(Address("0.0.0.0", 0), token=TOKEN)) as port:
        for path in ("/", "/assets/base.js", "/api/hello", "/missing", "/?token=wrong", "/?token="):
            refused = await get(port, path)
            assert (refused.status, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert TOKEN.encode() not in refused.body
        for wrong in ("Bearer", "Bearer ", f"Basic {TOKEN}", "Bearer \xe9"):
            assert (await get(port, "/api/hello", {"Authorization": wrong})).status == 401
        assert (await get(port, "/api/hello", BEARER, host="any.example")).status == 200
        moved = await get(port, f"/api/hello?token={TOKEN}&a=b%26c")
        assert (moved.status, moved.headers["location"]) == (303, "/api/hello?a=b%26c")
        cookie, *attributes = moved.headers["set-cookie"].split("; ")
        assert {"HttpOnly", "SameSite=strict"} <= set(attributes)
        assert TOKEN not in moved.headers["set-cookie"]
        again = await get(port, "/api/hello?a=b%26c", {"Cookie": f"other=1; {cookie}"})
        assert (again.status, again.json()) == (200, {"query": "a=b%26c"})
        # The cookie is enough, and a token that is still in the URL goes.
        assert (await get(port, "/?token=old", {"Cookie": cookie})).headers["location"] == "/"
        assert (await get(port, "/", {"Cookie": f"{cookie}0"})).status == 401


async def test_a_url_with_the_token_leads_to_no_other_host(served: Served) -> None:
    async with served(Access.to(Address("0.0.0.0", 0), token=TOKEN)) as port:
        for path in ("//evil.example", "/\\evil.example", "/%5cevil.example", "///evil.example/", "/%2fevil.example"):
            moved = await get(port, f"{path}?token={TOKEN}")
            assert moved.status == 303
            assert moved.headers["location"] in (
                "/evil.example",
                "/evil.example/",
                "/%5Cevil.example",
                "/%5cevil.example",
                "/%2fevil.example",
            )


def test_a_page_needs_a_token_unless_it_is_for_this_machine_only() -> None:
    for text in ("127.0.0.1:8080", "127.8.9.1:1", "localhost:0", "[::1]:8080"):
        address = Address.parse(text)
        assert address.netloc == text
        assert Access.to(address).token == ""
    for text in ("0.0.0.0:8080", "[::]:8080", "192.0.2.1:80", "board.example:80"):
        first, second = Access.to(Address.parse(text)), Access.to(Address.parse(text))
        assert len(first.token) >= 32
        assert first.token != second.token
        assert first.token not in repr(first)
    # A proxy of this machine may serve others.
    proxied = Access.to(LOOPBACK, ["Board.example"])
    assert proxied.token
    assert proxied.knows_host("board.example")
    assert not proxied.knows_host("evil.example")


@pytest.mark.parametrize(
    "text", ["", "8080", "localhost", "localhost:65536", "::1:80", "a b:80", "[::1]", "http://a:1"]
)
def test_an_address_is_host_and_port(text: str) -> None:
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("token", ["short", "with spaces in its sixteen", "ümlauts-in-sixteen"])
def test_a_token_is_long_and_fits_a_header(token: str) -> None:
    with pytest.raises(ConfigError, match="token") as raised:
        Access.to(LOOPBACK, token=token)
    assert token not in str(raised.value)


def test_a_token_comes_from_a_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert token_from("T", {}) == ""
    assert token_from("T", {"T": TOKEN}) == token_from("T", {"T_FILE": str(file)}) == TOKEN
    with pytest.raises(ConfigError, match="T and T_FILE are both set"):
        token_from("T", {"T": TOKEN, "T_FILE": str(file)})
    with pytest.raises(ConfigError, match="does not exist"):
        token_from("T", {"T_FILE": str(tmp_path / "missing")})


async def test_an_occupied_port_and_a_foreign_address_are_named(served: Served) -> None:
    async with served() as port:
        for address, reason in ((Address("127.0.0.1", port), "in use"), (Address("192.0.2.1", 80), "assign")):
            with pytest.raises(ConfigError, match=rf"cannot be served at {address.host}:{address.port}.*{reason}"):
                async with serving(make_app([], [], Access.to(LOOPBACK)), address):
                    pytest.fail("it listens")


class Counter:
    """A state for a feed: a number, and the numbers since the last message."""

    def __init__(self, size: int = 0) -> None:
        self.value = 0
        self.news: list[int] = []
        self.padding = b" " * size
        self.feed = Feed(self._snapshot, self._changes, interval=0.01)

    def add(self) -> None:
        self.value += 1
        self.news.append(self.value)
        self.feed.changed()

    def _snapshot(self) -> bytes:
        return message("state", b"%d" % self.value)

    def _changes(self) -> bytes:
        news, self.news = self.news, []
        return message("changes", str(news).encode() + self.padding) if news else b""

    async def respond(self, _: Request) -> Response:
        return self.feed.response()


@asynccontextmanager
async def feeding(served: Served, counter: Counter) -> AsyncGenerator[int]:
    async with served(routes=[Route("/api/events", counter.respond)]) as port, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(counter.feed.run())
        yield port
        running.cancel()


async def test_each_client_gets_the_state_and_then_every_change_once(served: Served) -> None:
    counter = Counter()
    async with asyncio.timeout(30), feeding(served, counter) as port:
        counter.add()
        async with request(port, "/api/events") as (head, first):
            assert head.headers["content-type"].startswith("text/event-stream")
            stream = events(first)
            assert await anext(stream) == ("state", 1)
            counter.add()  # in the second client's state already, so that it must not get it as a change too
            async with request(port, "/api/events") as (_, second):
                other = events(second)
                assert await anext(other) == ("state", 2)
                for _ in range(3):
                    counter.add()
                assert await anext(stream) == ("changes", [2])
                seen: list[int] = []
                while len(seen) < 3:
                    seen += (await anext(stream))[1]
                assert seen == [3, 4, 5]
                assert await anext(other) == ("changes", [3, 4, 5])
            await eventually(lambda: counter.feed.clients == 1)
        await eventually(lambda: counter.feed.clients == 0)


async def test_silent_feeds_send_pings(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.01)
    async with asyncio.timeout(30), feeding(served, Counter()) as port, request(port, "/api/events") as (_, reader):
        await reader.readuntil(b"event: state\ndata: 0\n\n")
        await reader.readuntil(b"event: ping\ndata: 0\n\n")


async def test_a_slow_client_is_dropped_and_others_are_not(served: Served) -> None:
    counter = Counter(size=1 << 18)
    async with asyncio.timeout(60), feeding(served, counter) as port:
        slow, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        writer.write(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await eventually(lambda: counter.feed.clients == 1)
        async with request(port, "/api/events") as (_, reader):
            stream = events(reader)
            await anext(stream)
            while counter.feed.clients == 2:  # the slow one does not read
                counter.add()
                await anext(stream)
            counter.add()
            assert await anext(stream) == ("changes", [counter.value])
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await slow.read(1 << 20):
                pass
        assert slow.at_eof()
        writer.close()


async def test_clients_beyond_a_bound_are_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_CLIENTS", 1)
    async with asyncio.timeout(30), feeding(served, counter := Counter()) as port, request(port, "/api/events"):
        await eventually(lambda: counter.feed.clients == 1)
        refused = await get(port, "/api/events")
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert (await get(port, "/api/events", method="HEAD")).status == 503


async def test_a_server_stops_with_clients_connected(served: Served) -> None:
    counter = Counter()
    async with asyncio.timeout(30), contextlib.AsyncExitStack() as held:
        async with feeding(served, counter) as port:
            _, reader = await held.enter_async_context(request(port, "/api/events"))
            await eventually(lambda: counter.feed.clients == 1)
        assert (await reader.read()).endswith(b"0\r\n\r\n")  # the end of a chunked body
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
