"""A malicious coordinator against the audit log: it tries to have data read without a trace.

It gives up a session while the silo computes, exceeds the time limit, or waits until the silo stops, is killed, or has
a full disk. In every case the log holds a line that says who asked for which columns before any of them is read, and
the log verifies. A line that says how the work ended follows, unless the silo's process was killed.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fedbroker_worker.policy.audit import read_audit
from fedbroker_worker.service import SiloService

from fedbroker.broker import PrivateBroker
from fedbroker.wire.messages import Done, EndSession, Failed
from tests.support.attackers import Keyring, malicious_coordinator
from tests.support.gated_source import gated_source, let_reads_return, read_count
from tests.support.transports import eventually
from tests.support.wait import PROCESS_SECONDS
from tests.support.worker import ALLOW_CLIENT_RESULTS, echo_ops, load_settings, work_client, write_settings

POLICY = {**ALLOW_CLIENT_RESULTS, "audit_file": "audit.log"}


@pytest.fixture
async def scene(broker: PrivateBroker, cohort: str, tmp_path: Path, monkeypatch):
    """Run a silo whose source waits for the test, and a malicious coordinator."""
    monkeypatch.syspath_prepend(str(tmp_path))
    keyring = Keyring()
    sources = {"rows": {"query": "select 1::float as x"}, "gated": gated_source(tmp_path, waits=True)}
    own = keyring.silo_settings(tmp_path, broker.url, cohort, sources=sources, policy=POLICY)
    async with SiloService(own) as silo, malicious_coordinator(broker.url, cohort, keyring, "b") as attacker:
        await eventually(lambda: "ewr" in attacker.coordinator.silos)
        yield silo, attacker


def audit(directory: Path) -> list[dict[str, object]]:
    """Return the lines of a log that verifies."""
    found = read_audit((directory / "audit.log").read_bytes().splitlines(keepends=True))
    assert found.problem is None
    return [dict(line) for line in found.lines]


def outcomes(directory: Path) -> list[object]:
    return [line["outcome"] for line in audit(directory)]


async def test_work_is_logged_before_its_data_are_read(scene, tmp_path) -> None:
    _, attacker = scene
    client = attacker.client()
    item = client.item(echo_ops("gated"))
    await attacker.send_work(item)
    await eventually(lambda: read_count(tmp_path) == 1)
    (line,) = audit(tmp_path)
    assert (line["outcome"], line["session"]) == ("begun", item.session_id)
    assert line["sources"] == [{"name": "gated", "columns": ["x"], "types": ["float32"]}]
    assert line["signed_by"]
    let_reads_return(tmp_path)
    await eventually(lambda: outcomes(tmp_path) == ["begun", "answered"])
    begun, ended = audit(tmp_path)
    assert ended["begun"] == ended["previous"]
    assert ended["nonces"] == begun["nonces"]


async def test_work_of_a_session_ended_while_computing_is_logged(scene, tmp_path) -> None:
    _, attacker = scene
    item = attacker.client().item(echo_ops("gated"))
    await attacker.send_work(item)
    await eventually(lambda: read_count(tmp_path) == 1)
    await attacker.send_notice("ewr", EndSession(item.session_id))
    await eventually(lambda: outcomes(tmp_path) == ["begun", "cancelled"])
    ended = audit(tmp_path)[1]
    assert (ended["why"], ended["bytes_out"]) == ("its coordinator cancelled the session", 0)
    assert ended["sources"] == [{"name": "gated", "columns": ["x"], "types": ["float32"]}]


async def test_timed_out_work_is_logged(scene, tmp_path) -> None:
    _, attacker = scene
    client = attacker.client()
    reply = await client.send(client.item(echo_ops("gated"), seconds=1))
    assert isinstance(reply, Failed)
    assert outcomes(tmp_path) == ["begun", "failed"]


async def test_work_cancelled_by_a_stopping_silo_is_logged(scene, tmp_path) -> None:
    silo, attacker = scene
    await attacker.send_work(attacker.client().item(echo_ops("gated")))
    await eventually(lambda: read_count(tmp_path) == 1)
    await silo.close()
    assert outcomes(tmp_path) == ["begun", "interrupted"]


async def test_no_data_are_read_if_the_log_cannot_be_written(scene, tmp_path) -> None:
    _, attacker = scene
    let_reads_return(tmp_path)
    (tmp_path / "audit.log").unlink()
    (tmp_path / "audit.log").mkdir()
    client = attacker.client()
    reply = await client.send(client.item(echo_ops("gated")))
    assert isinstance(reply, Failed)
    assert (reply.error_type, reply.cause) == ("refused", "the silo's audit log cannot be written")
    assert read_count(tmp_path) == 0
    (tmp_path / "audit.log").rmdir()
    assert isinstance(await client.send(client.item(echo_ops("gated"))), Done)


async def test_no_results_leave_if_the_last_line_cannot_be_written(scene, tmp_path) -> None:
    """Break the log after the work has begun: the results computed by then stay at the silo."""
    _, attacker = scene
    client = attacker.client()
    asked = asyncio.create_task(client.send(client.item(echo_ops("gated"))))
    await eventually(lambda: read_count(tmp_path) == 1)
    assert outcomes(tmp_path) == ["begun"]
    (tmp_path / "audit.log").rename(tmp_path / "kept.log")
    (tmp_path / "audit.log").mkdir()
    let_reads_return(tmp_path)
    reply = await asked
    assert isinstance(reply, Failed)
    assert reply.cause == "the silo's audit log cannot be written"


class Disk:
    """A disk that is slow, or fails, for the first line only."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.ready = threading.Event()
        self.calls = 0

    def fsync(self, _: int) -> None:
        self.calls += 1
        if self.calls == 1:
            assert self.ready.wait(30)
            if self.error is not None:
                raise self.error


async def test_no_results_leave_before_the_first_line_is_on_disk(scene, tmp_path, monkeypatch) -> None:
    """Read the data and compute while the first line waits; the last line is written, too."""
    _, attacker = scene
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    let_reads_return(tmp_path)
    client = attacker.client()
    asked = asyncio.create_task(client.send(client.item(echo_ops("gated"))))
    await eventually(lambda: disk.calls == 2)
    assert outcomes(tmp_path) == ["begun", "answered"]
    done, _ = await asyncio.wait([asked], timeout=0.2)
    assert not done
    disk.ready.set()
    assert isinstance(await asked, Done)


async def test_no_results_leave_if_the_first_line_is_not_on_disk(scene, tmp_path, monkeypatch) -> None:
    _, attacker = scene
    disk = Disk(OSError(errno.EIO, "Input/output error"))
    monkeypatch.setattr(os, "fsync", disk.fsync)
    let_reads_return(tmp_path)
    client = attacker.client()
    asked = asyncio.create_task(client.send(client.item(echo_ops("gated"))))
    await eventually(lambda: disk.calls == 2)
    disk.ready.set()
    reply = await asked
    assert isinstance(reply, Failed)
    assert reply.cause == "the silo's audit log cannot be written"
    assert isinstance(await client.send(client.item(echo_ops("gated"))), Done)


async def test_work_of_a_killed_silo_is_logged(broker, cohort: str, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    sources = {"gated": gated_source(tmp_path, waits=True)}
    path = write_settings(tmp_path, broker.url, cohort, sources=sources, policy=POLICY)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = load_settings(tmp_path, broker.url, cohort, sources=sources, policy=POLICY)
    run = [sys.executable, "-m", "fedbroker_worker", "run", "--config", str(path)]
    silo = await asyncio.create_subprocess_exec(*run, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with work_client(own) as client:
            asked = asyncio.create_task(client.send(client.item(echo_ops("gated"), seconds=5)))
            await eventually(lambda: read_count(tmp_path) == 1)
            silo.kill()
            await silo.wait()
            asked.cancel()
    finally:
        if silo.returncode is None:
            silo.kill()
            await silo.wait()
    assert outcomes(tmp_path) == ["begun"]
    show = [sys.executable, "-m", "fedbroker_worker", "audit", "--file", str(tmp_path / "audit.log"), "--json"]
    shown = await asyncio.to_thread(subprocess.run, show, capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert shown.returncode == 0, shown.stderr
    (line,) = json.loads(shown.stdout)["unfinished"]
    assert line["sources"] == [{"name": "gated", "columns": ["x"], "types": ["float32"]}]


FILL = """
import os, pathlib, sys
from fedbroker_worker.policy.audit import AuditLog, read_audit, why_full
path = pathlib.Path(sys.argv[1]) / "audit.log"
log = AuditLog(path)
lines = 0
try:
    while True:
        log.append({"number": lines, "text": "x" * 1000})
        lines += 1
except OSError as error:
    print(why_full(error))
found = read_audit(path.read_bytes().splitlines(keepends=True))
print(found.problem, len(found.lines) == lines > 10)
(path.parent / "filler").unlink()
log.append({"number": lines})
found = read_audit(path.read_bytes().splitlines(keepends=True))
print(found.problem, len(found.lines) == lines + 1)
"""


def test_full_disk_is_named_and_the_log_verifies(tmp_path) -> None:
    """Fill a small tmpfs, in a mount namespace that ends with the process."""
    mount = f"mount -t tmpfs -o size=128k tmpfs {tmp_path} && head -c 30000 /dev/zero > {tmp_path}/filler"
    shell = f'{mount} && exec "$0" -c "$1" {tmp_path}'
    run = ["unshare", "--mount", "--map-root-user", "--user", "sh", "-c", shell, sys.executable, FILL]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["its disk is full", "None True", "None True"]


async def test_nothing_is_read_or_sent_if_the_disk_is_full(scene, tmp_path) -> None:
    _, attacker = scene
    let_reads_return(tmp_path)
    (tmp_path / "audit.log").unlink()
    (tmp_path / "audit.log").symlink_to("/dev/full")
    client = attacker.client()
    reply = await client.send(client.item(echo_ops("gated")))
    assert isinstance(reply, Failed)
    assert reply.cause == "the silo's audit log cannot be written: its disk is full"
    assert read_count(tmp_path) == 0
