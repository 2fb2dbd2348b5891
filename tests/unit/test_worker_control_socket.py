"""The control socket: for its own user alone, one for each silo, bounded, and gone with its process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fedbroker_worker.control import server as server_module
from fedbroker_worker.control.address import SYSTEMD, SiloAddress
from fedbroker_worker.control.client import ask, find
from fedbroker_worker.control.listening import listen, peer_of
from fedbroker_worker.control.protocol import Account, Explain, Rejection, Status, Watch, decode_reply, encode
from fedbroker_worker.control.server import MAX_CONNECTIONS, ControlServer
from fedbroker_worker.errors import ControlFailed, ServiceNotRunning
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.transports import eventually

ASK = """
import sys
from pathlib import Path
from fedbroker.console import one_line
from fedbroker.errors import FedbrokerError
from fedbroker_worker.control.client import ask
from fedbroker_worker.control.protocol import Status
try:
    ask(Path(sys.argv[1]), Status())
except FedbrokerError as error:
    print(one_line(error))
"""


async def answer(request):
    if isinstance(request, Watch):
        await asyncio.Event().wait()
    if isinstance(request, Explain):
        raise ZeroDivisionError("a defect")
    return Account(1, ["yes"])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "ewr.sock"


@pytest.fixture
async def listening(path):
    async with ControlServer(path, answer):
        await eventually(path.is_socket)
        yield path


async def asked(path, request=None, seconds=5.0):
    return await asyncio.to_thread(ask, path, request or Status(), seconds)


def raw(path, data, *, half_close=False):
    """Send bytes; return everything that comes back until the other end closes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            sock.sendall(data)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(65536):
                received += more
        return received


async def test_only_its_user_may_use_the_socket(listening):
    assert stat.S_IMODE(os.lstat(listening).st_mode) == 0o600
    assert stat.S_IMODE(os.lstat(listening.parent).st_mode) == 0o700
    assert await asked(listening) == Account(1, ["yes"])


async def test_socket_is_removed_at_the_end(path):
    async with ControlServer(path, answer):
        await eventually(path.is_socket)
    assert list(path.parent.iterdir()) == []
    with pytest.raises(ServiceNotRunning):
        ask(path, Status())


async def test_socket_of_a_killed_process_is_replaced(path):
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))  # closed without unlink, as by SIGKILL
    with pytest.raises(ServiceNotRunning):
        ask(path, Status())
    async with ControlServer(path, answer):
        await eventually(lambda: can_be_asked(path))
    assert not path.exists()


async def can_be_asked(path):
    with contextlib.suppress(ServiceNotRunning, ControlFailed):
        return await asked(path) == Account(1, ["yes"])
    return False


async def test_second_process_waits_for_the_first(path, monkeypatch):
    monkeypatch.setattr(server_module, "RETRY_SECONDS", 0.01)

    async def second_answer(_):
        return Account(2, [])

    async with ControlServer(path, answer) as first:
        await eventually(path.is_socket)
        async with ControlServer(path, second_answer):
            for _ in range(20):
                assert (await asked(path)).id == 1
            await first.__aexit__(None, None, None)
            await eventually(path.is_socket)
            assert (await asked(path)).id == 2
        assert not path.exists()


async def test_file_that_is_no_socket_is_kept(path, capsys):
    path.parent.mkdir()
    path.write_text("mine")
    async with ControlServer(path, answer) as server:
        await eventually(lambda: server._task is not None and server._task.done())
    assert path.read_text() == "mine"
    with pytest.raises(ServiceNotRunning):
        ask(path, Status())


async def test_replaced_socket_is_not_removed(path):
    async with ControlServer(path, answer):
        await eventually(path.is_socket)
        path.unlink()
        other = listen(path)
    assert path.is_socket()
    other.remove()
    assert not path.exists()


async def test_path_longer_than_an_address(tmp_path):
    path = tmp_path / ("d" * 120) / "ewr.sock"
    async with ControlServer(path, answer):
        await eventually(path.is_socket)
        assert (await asked(path)).id == 1
    assert not path.exists()


async def test_settings_without_a_socket(path):
    async with ControlServer(None, answer):
        pass
    with pytest.raises(ServiceNotRunning, match="no control socket"):
        find([], Status())


async def test_another_user_is_denied(tmp_path_factory):
    """A user without access to the file is refused by the kernel; one with access by the service."""
    directory = Path(tmp_path_factory.mktemp("control", numbered=True))
    for parent in (directory, *directory.parents):
        with contextlib.suppress(PermissionError):
            parent.chmod(parent.stat().st_mode | 0o055)
    path = directory / "ewr.sock"
    async with ControlServer(path, answer):
        await eventually(path.is_socket)
        line = await asyncio.to_thread(as_nobody, path)
        assert "[FB4210] user 65534 may not use" in line
        path.chmod(0o666)  # an administrator's mistake
        line = await asyncio.to_thread(as_nobody, path)
        assert "[FB4210] user 65534 may not control this silo" in line
        assert (await asked(path)).id == 1


def as_nobody(path):
    """Ask as another user; return the line that it prints."""
    command = [shutil.which("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups"]
    command += [sys.executable, "-c", ASK, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


async def test_socket_of_a_pretender_is_not_trusted(tmp_path):
    """Check the peer's user: another one could have made a socket where an administrator looks for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_of(ours) == os.geteuid()


async def test_malformed_requests_are_rejected(listening):
    for data in (b"nonsense\n", b"{}\n", b"x" * 100_000, b'{"request":"stop"}\n'):
        reply = decode_reply(await asyncio.to_thread(raw, listening, data))
        assert isinstance(reply, Rejection)
        assert "not understood" in reply.reason
    assert (await asked(listening)).id == 1


async def test_request_that_does_not_come_is_given_up(listening, monkeypatch):
    monkeypatch.setattr(server_module, "REQUEST_SECONDS", 0.1)
    reply = decode_reply(await asyncio.to_thread(raw, listening, b'{"request":'))
    assert reply == Rejection("no request within 0.1 s")
    assert await asyncio.to_thread(lambda: raw(listening, b"", half_close=True)) == b""


async def test_defect_is_a_rejection(listening):
    with pytest.raises(ControlFailed, match="see its log"):
        await asked(listening, Explain(1))
    assert (await asked(listening)).id == 1


async def test_service_that_does_not_answer_is_given_up(listening):
    with pytest.raises(ControlFailed, match=r"within 0\.2 s"):
        await asked(listening, Watch(), 0.2)


async def test_connections_are_bounded(listening):
    waiting = []
    try:
        for _ in range(MAX_CONNECTIONS):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(listening))
            sock.sendall(encode(Watch("", 0, 30)))
            waiting.append(sock)
        await eventually(lambda: closed_at_once(listening))
    finally:
        for sock in waiting:
            sock.close()
    await eventually(lambda: can_be_asked(listening))


async def closed_at_once(path):
    try:
        await asked(path, seconds=1.0)
    except ControlFailed as error:
        return "closed the connection" in str(error)
    return False


async def test_nothing_is_left_running_at_the_end(path):
    before = asyncio.all_tasks()
    async with ControlServer(path, answer) as server:
        await eventually(path.is_socket)
        watching = asyncio.create_task(asyncio.to_thread(raw, path, encode(Watch("", 0, 30))))
        await eventually(lambda: len(server._connections) == 1)
    assert await watching == b""
    assert asyncio.all_tasks() == before


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"\n", b"{", b'{"request":"status"}\n']), max_size=6))
def test_arbitrary_bytes_do_no_harm(tmp_path, pieces):
    """Send bytes in pieces, some of them requests: each connection ends with one reply or none, and the next works."""

    async def converse():
        async with ControlServer(tmp_path / "s", answer):
            await eventually((tmp_path / "s").is_socket)
            received = await asyncio.to_thread(raw, tmp_path / "s", b"".join(pieces), half_close=True)
            if received:
                assert isinstance(decode_reply(received), Rejection | Account)
            assert (await asked(tmp_path / "s")).id == 1

    asyncio.run(converse())


def address(tmp_path, **changes):
    fields = {"settings": tmp_path / "silo.toml", "cohort": "c", "silo": "ewr", "control": "", "state": tmp_path}
    return SiloAddress(**{**fields, **changes})


def test_place_of_the_socket(tmp_path):
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    own = address(tmp_path).own(environ)
    assert own.parent == tmp_path / "fedbroker"
    assert own.name.startswith("ewr.")
    assert address(tmp_path, state=tmp_path / "state").own({}) == tmp_path / "state" / own.name
    assert address(tmp_path, control="a.sock").own(environ) == tmp_path / "a.sock"
    assert address(tmp_path, control="/run/a.sock").candidates(environ) == [Path("/run/a.sock")]
    assert address(tmp_path, control="none").candidates(environ) == []


def test_silos_of_one_machine_do_not_collide(tmp_path):
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    others = [address(tmp_path, silo="jfk"), address(tmp_path, cohort="d"), address(tmp_path, settings=tmp_path / "b")]
    places = {one.own(environ) for one in [address(tmp_path), *others]}
    assert len(places) == 4


def test_longest_name_fits_an_address(tmp_path):
    own = address(tmp_path, silo="s" * 63).own({})
    assert len(f"/proc/self/fd/1000000/{own.name}") <= 107


def test_runtime_directory_of_another_user_is_not_used(tmp_path):
    """``sudo`` may keep the variable of the user who called it."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    assert address(tmp_path).own({"XDG_RUNTIME_DIR": str(theirs)}).parent == tmp_path
    assert address(tmp_path).own({"XDG_RUNTIME_DIR": "relative"}).parent == tmp_path


def test_service_of_systemd_is_found(tmp_path):
    places = address(tmp_path, settings=tmp_path / "ewr.toml").candidates({})
    assert SYSTEMD / "ewr" / "control.sock" in places
