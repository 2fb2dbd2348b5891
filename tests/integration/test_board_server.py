"""``fedbroker board serve`` as a process at a real broker: views, live changes, access, and a clean end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.transport.coordinator.events import EventPublisher
from fedbroker.transport.topology import coordinator_id_of
from fedbroker.web import listen
from tests.support.http_client import events, get, request
from tests.support.proxy import Proxy
from tests.support.transports import eventually, queue_admin, silo_transport
from tests.support.wait import LOADED, PROCESS_SECONDS

ENDING = ["-m", "fedbroker.cli", "board", "serve"]


def environment(url: str, **more: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    return {**ours, "FEDBROKER_URL": url} | more


@dataclass
class Served:
    """A running board."""

    process: asyncio.subprocess.Process
    url: str

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    async def state(self, **headers: str) -> Any:
        return (await get(self.port, "/api/state", headers)).json()


async def start(url: str, *arguments: str, **more: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *ENDING,
        *arguments,
        env=environment(url, **more),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def serving(url: str, *arguments: str, listen: str = "127.0.0.1:0", **more: str) -> AsyncIterator[Served]:
    process = await start(url, "--json", "--listen", listen, *arguments, **more)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PROCESS_SECONDS):
            yield Served(process, json.loads(await process.stdout.readline())["url"])
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10 * LOADED):
            _, err = await process.communicate()
        assert (process.returncode, err.decode()) == (0, "")
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def publishing(url: str, cohort: str) -> AsyncIterator[Callable[..., None]]:
    publisher = EventPublisher(url, cohort)
    publisher.start(coordinator_id_of(cohort, "c1"))

    def put(name: str, silo: str = "", stage: int | None = None, session: str = "s1", **details: Any) -> None:
        publisher.put({"name": name, "session": session, "stage": stage, "silo": silo, "details": details})

    yield put
    await publisher.close()


async def test_views_follow_the_broker_live(broker: PrivateBroker, cohort: str) -> None:
    async with (
        serving(broker.url, "--cohort", cohort) as board,
        publishing(broker.url, cohort) as put,
        silo_transport(broker.url, cohort, "ewr"),
    ):
        port = board.port

        async def present() -> bool:
            return [silo["state"] for silo in (await board.state())["silos"]] == ["present"]

        await eventually(present)
        async with request(port, "/api/events") as (_, reader):
            stream = events(reader)
            name, first = await anext(stream)
            assert name == "state"
            assert [silo["name"] for silo in first["silos"]] == ["ewr"]
            put("session_started", members=["ewr"], computation="next_fn")
            put("stage_started", stage=0, silos=1, needed=1, seconds=60.0, masked=False)
            await _until(stream, "sessions", lambda session: session["waits"].startswith("waiting for ewr ("))
            put("silo_answered", "ewr", 0, seconds=1.0, queue=0.1, transfer=0.2, compute=0.7)
            await _until(stream, "bars", lambda bar: bar["outcome"] == "answered")
            put("round_finished", session="", run="r1", program="digits", round=1, metrics={"loss": 0.5})
            await _until(stream, "curves", lambda curve: curve["points"] == [[1, 0.5]])
            put("session_finished", outcome="ok")
            await _until(stream, "sessions", lambda session: session["outcome"] == "ok")
        assert (await get(port, "/")).body.startswith(b"<!doctype html>")
        assert (await get(port, f"/api/cohorts/{cohort}")).json()["silos"][0]["name"] == "ewr"
        assert (await get(port, "/api/cohorts")).json()[0]["name"] == cohort
        assert (await get(port, "/api/sessions")).json()[0]["computation"] == "next_fn"
        assert (await get(port, "/api/sessions/s1")).json()["bars"][0]["silo"] == "ewr"
        assert (await get(port, "/api/curves")).json()[0]["metric"] == "loss"
        assert (await get(port, "/api/notices")).json() == []
        for path in ("/api/sessions/%3Cb%3E", "/api/cohorts/none"):
            missing = await get(port, path)
            assert (missing.status, missing.headers["content-type"]) == (404, "application/json")
            assert "is known here" in missing.json()["error"]


async def _until(stream: Any, kind: str, holds: Callable[[Any], bool]) -> None:
    async for name, changes in stream:
        assert name == "changes"
        if any(holds(one) for one in changes.get(kind, [])):
            return


async def test_a_board_says_that_the_broker_is_lost_and_comes_back(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy, serving_with_warnings(proxy.url) as board:
        await proxy.refuse()

        async def lost() -> bool:
            return "no connection with the broker" in (await board.state())["broker"]

        async def back() -> bool:
            return (await board.state())["broker"] == ""

        await eventually(lost)
        await proxy.accept()
        await eventually(back)


@asynccontextmanager
async def serving_with_warnings(url: str) -> AsyncIterator[Served]:
    process = await start(url, "--json", "--listen", "127.0.0.1:0")
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PROCESS_SECONDS):
            yield Served(process, json.loads(await process.stdout.readline())["url"])
    finally:
        process.terminate()
        _, err = await process.communicate()
    assert process.returncode == 0
    assert b"broker_connection_lost" in err


async def test_other_machines_need_the_token_that_is_printed_once(broker: PrivateBroker) -> None:
    async with serving(broker.url, listen="0.0.0.0:0") as board:
        (token,) = parse_qs(urlsplit(board.url).query)["token"]
        for path in ("/", "/api/state", "/api/events"):
            assert (await get(board.port, path)).status == 401
        assert (await board.state(Authorization=f"Bearer {token}"))["broker"] == ""
    given = "a-token-from-the-environment"
    async with serving(broker.url, listen="0.0.0.0:0", FEDBROKER_BOARD_TOKEN=given) as board:
        assert "token" not in board.url
        assert (await board.state(Authorization=f"Bearer {given}"))["broker"] == ""


async def test_nothing_is_left_at_the_broker(broker: PrivateBroker, cohort: str) -> None:
    async with queue_admin(broker.url) as admin:
        async with serving(broker.url, "--cohort", cohort) as board:
            await board.state()
        queues = await asyncio.to_thread(broker.ctl, "list_queues", "name")
        assert "fedbroker.board" not in queues
        assert not await admin.has_queue(f"fedbroker.lobby.{cohort}")
        assert not await admin.has_queue(f"fedbroker.dead.{cohort}")


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "words"),
    [
        (("--listen", "8080"), {}, 2, "'8080' is not HOST:PORT"),
        (("--listen", "192.0.2.1:80"), {}, 2, "cannot be served at 192.0.2.1:80"),
        (("--cohort", "a.b"), {}, 2, "is not a name for a cohort"),
        ((), {"FEDBROKER_BOARD_TOKEN": "short"}, 2, "the page's token is not 16 or more"),
        ((), {"FEDBROKER_BOARD_TOKEN_FILE": "/no/such/file"}, 2, "does not exist"),
        ((), {"FEDBROKER_URL": "amqp://guest:guest@127.0.0.1:1/"}, 3, "127.0.0.1:1"),
        ((), {"FEDBROKER_URL": "http://127.0.0.1/"}, 2, "amqp"),
    ],
)
async def test_bad_settings_are_one_line_and_an_exit_code(
    broker: PrivateBroker, arguments: tuple[str, ...], variables: dict[str, str], code: int, words: str
) -> None:
    process = await start(broker.url, *arguments, **variables)
    async with asyncio.timeout(PROCESS_SECONDS):
        out, err = (stream.decode() for stream in await process.communicate())
    assert (process.returncode, out) == (code, "")
    assert words in err
    assert err.count("\n") == 1


async def test_an_occupied_port_is_named(broker: PrivateBroker) -> None:
    async with serving(broker.url) as board:
        process = await start(broker.url, "--listen", f"127.0.0.1:{board.port}")
        _, err = await process.communicate()
        assert process.returncode == 2
        assert f"cannot be served at 127.0.0.1:{board.port}: Address already in use" in err.decode()


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(listen.ConfigError, match=r"needs starlette and uvicorn.*pip install 'fedbroker\[board\]'"):
        listen.check_installed()
