"""Notifications of a silo to systemd and to a container's probes: a real process, and a notify socket of the test."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.daemon import Manager
from fedbroker_worker.sources.protocol import GROUP

from tests.support.gated_source import gated_source, let_reads_return, read_count
from tests.support.notify import notify_socket
from tests.support.transports import eventually
from tests.support.wait import PROCESS_SECONDS
from tests.support.wait import wait_until as wait_until
from tests.support.worker import echo_ops, work_client, write_settings

ROOT = Path(__file__).parents[2]
WATCH_USEC = 900_000

# It holds the interpreter's lock while it waits for a byte, so that no other Python code of the process runs.
HOLDING = """
import ctypes, os
import numpy
from fedbroker.wire.messages import Column, Source

class Holding:
    def __init__(self, name, options, directory):
        self.directory = directory
    def describe(self):
        return Source((Column("x", "float32"),), rows=1)
    def read(self, columns):
        pipe = os.open(self.directory / "pipe", os.O_RDONLY)
        ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)
        return [{"x": numpy.ones(1, numpy.float32)}]
    def interrupt(self):
        pass
    def close(self):
        pass
"""


def holding_source(directory: Path) -> dict[str, object]:
    module = f"holding_{secrets.token_hex(4)}"
    metadata = directory / "holding-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: holding\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\nholding = {module}:Holding\n")
    (directory / f"{module}.py").write_text(HOLDING)
    os.mkfifo(directory / "pipe")
    return {"source": "holding"}


@contextmanager
def silo(path, manager=None, *options, log=Path(os.devnull), **variables):
    """Start a silo's process as systemd would."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    environ |= {"PYTHONPATH": f"{path.parent}:{ROOT}:{ROOT / 'workers'}", "WATCHDOG_USEC": str(WATCH_USEC)} | variables
    if manager is not None:
        environ["NOTIFY_SOCKET"] = manager.path
    command = [sys.executable, "-m", "fedbroker_worker", "run", "--config", str(path), *map(str, options)]
    with log.open("wb") as errors:
        process = subprocess.Popen(command, env=environ, cwd="/", stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_notified_of_joining_work_and_leaving(tmp_path, broker, cohort, abstract):
    path = write_settings(tmp_path, broker.url, cohort)
    address = f"@fedbroker-{secrets.token_hex(8)}" if abstract else tmp_path / "notify"
    with notify_socket(address) as manager, silo(path, manager) as process:
        *joining, ready = manager.until("READY")
        assert joining
        assert all(one["WATCHDOG"] == "1" and one["STATUS"].startswith("joining") for one in joining)
        assert all(int(one["EXTEND_TIMEOUT_USEC"]) > WATCH_USEC for one in joining)
        assert ready["READY"] == "1"
        assert ready["STATUS"] == f"in cohort {cohort}: 0 work items, 0 sessions"
        assert "EXTEND_TIMEOUT_USEC" not in manager.until("WATCHDOG")[-1]
        process.terminate()
        assert manager.until("STOPPING")[-1]["STATUS"].startswith("leaving")
        assert process.wait(15) == 0


def test_status_has_the_reason_of_a_failed_start(tmp_path, broker, cohort):
    url = broker.url.replace(f":{broker.port}", ":1").replace("fedbroker:", "fedbroker:wrong")
    path = write_settings(tmp_path, url, cohort)
    with notify_socket(tmp_path / "notify") as manager, silo(path, manager) as process:
        assert process.wait(30) == 3
        heard = []
        while (message := manager.hear(0.01)) is not None:
            heard.append(message)
    assert "READY" not in {word for message in heard for word in message}
    assert heard[-1]["STATUS"].startswith("failed: [FB2001] ")
    assert "wrong" not in heard[-1]["STATUS"]


def test_refused_login_is_tried_again_and_in_the_status(tmp_path, broker, cohort):
    """Expect a silo that stays, since systemd would start it again every few seconds, and joins once it may."""
    user, password = f"u{secrets.token_hex(4)}", secrets.token_hex(8)
    url = f"amqp://{user}:{password}@127.0.0.1:{broker.port}/"
    path = write_settings(tmp_path, url, cohort)
    log = tmp_path / "log"
    with notify_socket(tmp_path / "notify") as manager, silo(path, manager, log=log) as process:
        refused = manager.until("READY", 60)[-1]
        assert refused["STATUS"].startswith("refused by the broker, and tried again: [FB2002] ")
        assert password not in refused["STATUS"]
        assert manager.until("WATCHDOG")[-1]["STATUS"] == refused["STATUS"]
        broker.ctl("add_user", user, password)
        try:
            broker.ctl("set_permissions", user, ".*", ".*", ".*")
            while not (joined := manager.until("READY", 90)[-1])["STATUS"].startswith("in "):
                pass
            assert joined["STATUS"] == f"in cohort {cohort}: 0 work items, 0 sessions"
            process.terminate()
            assert process.wait(30) == 0
        finally:
            broker.ctl("delete_user", user)
    assert "broker_refused" in log.read_text()


async def test_status_counts_the_current_work(tmp_path, broker, cohort):
    path = write_settings(tmp_path, broker.url, cohort, {"slow": gated_source(tmp_path, waits=True)})
    with notify_socket(tmp_path / "notify") as manager, silo(path, manager):
        await asyncio.to_thread(manager.until, "READY")
        async with work_client(load(path, {})) as client:
            asking = asyncio.create_task(client.outputs(client.item(echo_ops("slow"))))
            await eventually(lambda: read_count(tmp_path) == 1)
            manager.drain()
            beat = await asyncio.to_thread(manager.until, "WATCHDOG")
            assert beat[-1]["STATUS"] == f"in cohort {cohort}: 1 work item, 1 session"
            let_reads_return(tmp_path)
            await asking


async def test_watchdog_notifications_stop_while_the_event_loop_is_blocked(tmp_path, broker, cohort):
    path = write_settings(tmp_path, broker.url, cohort, {"held": holding_source(tmp_path)})
    alive = tmp_path / "alive"
    with notify_socket(tmp_path / "notify") as manager, silo(path, manager, "--alive-file", alive):
        await asyncio.to_thread(manager.until, "READY")
        for _ in range(3):  # each arrives within systemd's interval
            assert await asyncio.to_thread(manager.hear, WATCH_USEC / 1e6) is not None
        async with work_client(load(path, {})) as client:
            asking = asyncio.create_task(client.outputs(client.item(echo_ops("held"))))
            writer = await asyncio.to_thread(os.open, tmp_path / "pipe", os.O_WRONLY)  # as soon as it reads
            try:
                await eventually(lambda: asyncio.to_thread(quiet, manager))
                assert await asyncio.to_thread(manager.hear, WATCH_USEC / 1e6) is None  # systemd would kill it now
                touched = alive.stat().st_mtime_ns
            finally:
                os.write(writer, b"x")
                os.close(writer)
            assert len(await asking) == 1
        await asyncio.to_thread(manager.until, "WATCHDOG")
        await eventually(lambda: alive.stat().st_mtime_ns > touched)


async def test_hung_silo_ends_itself_and_says_where_it_was(tmp_path, broker, cohort):
    path = write_settings(tmp_path, broker.url, cohort, {"held": holding_source(tmp_path)})
    ready = tmp_path / "ready"
    ready.write_text("of a process that was killed\n")
    with silo(path, None, "--ready-file", ready, "--hung-after", "3", log=tmp_path / "log") as process:
        await eventually(lambda: ready.exists() and ready.read_text() == f"{process.pid}\n", 30)
        async with work_client(load(path, {})) as client:
            asking = asyncio.create_task(client.outputs(client.item(echo_ops("held"))))
            writer = await asyncio.to_thread(os.open, tmp_path / "pipe", os.O_WRONLY)  # as soon as it reads
            try:
                assert await asyncio.to_thread(process.wait, 30) == 1
            finally:
                os.close(writer)
                asking.cancel()
    log = (tmp_path / "log").read_text()
    assert "Timeout (0:00:03)!" in log
    assert "in read" in log


def quiet(manager) -> bool:
    """Return whether the silo has missed a notification; the last one may still be in transit."""
    return manager.hear(WATCH_USEC / 2e6) is None


def test_alive_and_ready_files_mark_the_state_of_a_silo(tmp_path, broker, cohort):
    path = write_settings(tmp_path, broker.url, cohort)
    alive, ready = tmp_path / "alive", tmp_path / "ready"
    with silo(path, None, "--alive-file", alive, "--ready-file", ready) as process:
        wait_for(alive, process)
        assert not ready.exists()
        wait_for(ready, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert not alive.exists()
    assert not ready.exists()


def wait_for(path, process):
    wait_until(lambda: path.exists() or process.poll() is not None, 30)
    assert process.poll() is None


@pytest.mark.parametrize(
    ("environ", "period"),
    [
        ({}, 5.0),
        ({"NOTIFY_SOCKET": "/x"}, 5.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000"}, 1.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "60000000"}, 5.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 5.0),
        ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"}, 5.0),
        ({"WATCHDOG_USEC": "3000000"}, 5.0),
    ],
)
def test_watchdog_interval_is_that_of_systemd(environ, period):
    assert Manager(environ).period == period


def test_missing_notify_socket_is_no_error(tmp_path):
    Manager({}).notify("READY=1")
    Manager({"NOTIFY_SOCKET": str(tmp_path / "none")}).notify("READY=1")


def test_message_has_one_line_for_each_field(tmp_path):
    with notify_socket(tmp_path / "notify") as socket:
        Manager({"NOTIFY_SOCKET": socket.path}).notify("STATUS=one\nREADY=1", "WATCHDOG=1")
        assert socket.hear(1.0) == {"STATUS": "one READY=1", "WATCHDOG": "1"}


@pytest.mark.parametrize("option", ["--alive-file", "--ready-file"])
def test_file_that_cannot_be_written_is_one_line(tmp_path, broker, cohort, option):
    path = write_settings(tmp_path, broker.url, cohort)
    (tmp_path / "sign").mkdir()
    file = tmp_path / "sign" / "missing" / "file"
    command = [sys.executable, "-m", "fedbroker_worker", "run", "--config", str(path), option, str(file)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
    environ |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'workers'}"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: [FB4201] {option} {file} cannot be written: No such file")
    assert "Traceback" not in done.stderr
