"""Attacks on a coordinator's journal: a full disk, and another user of the machine who reads or writes its directory.

A full disk ends the invocation with an error that says so; complete records stay, and the next invocation resumes from
them. The journal's files are readable by the coordinator only, regardless of the directory's previous state, and files
placed there by another user are not trusted.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import fedbroker
from fedbroker.errors import ConfigError
from fedbroker.session.journal import Journal
from fedbroker.session.roster import Member
from fedbroker.testing import local_cohort
from tests.support.computations import sum_numbers

pytestmark = pytest.mark.timeout(900)  # a program of its own imports TensorFlow

NUMBERS = {"numbers": {"source": "duckdb", "query": "select i::float as x from range(10) t(i)"}}
MEMBERS = (Member("ewr", "1"), Member("jfk", "2"))

FILLS_A_DISK = """
import asyncio, json, os, sys
from pathlib import Path
from fedbroker.errors import JournalError
from fedbroker.session.journal import Journal
from fedbroker.session.roster import Member

disk, free = Path(sys.argv[1]), []
journal = Journal(disk / "journal")
one = journal.begin("print", "s1", (Member("ewr", "1"),), {"ewr": 1})

async def fill():
    for number in range(1000):
        await one.record_answer(number, "ewr", [os.urandom(3000)])
        free.append(number)

try:
    asyncio.run(fill())
except JournalError as error:
    said = str(error)
try:
    asyncio.run(one.record_closed(0, ["ewr"]))
except JournalError:
    refused = True
one.release()
same = journal.take("print")
journal.close()
later = Journal(disk / "journal")
found = later.take("print")
print(json.dumps({
    "said": said, "refused": refused, "written": len(free), "directory": str(disk / "journal"),
    "found": sum(found.answer(number, "ewr") is not None for number in range(1000)),
    "in_process": sum(same.answer(number, "ewr") is not None for number in range(1000)),
}))
try:
    later.begin("other", "s2", (Member("ewr", "1"),), {"ewr": 1})
except JournalError as error:
    print(json.dumps({"said": str(error), "left": (disk / "journal" / "s2.session").exists()}))
"""
"""Runs on a small mounted file system of its own."""


def on_a_small_disk(program: str, *arguments: str, disk: Path, size: str = "64k") -> subprocess.CompletedProcess[str]:
    """Run a program in a mount namespace of its own, where ``disk`` is a file system of that size."""
    mount = f'mount -t tmpfs -o size={size} none "$0" && exec "$@"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(disk)]
    return subprocess.run(
        [*command, sys.executable, "-c", program, str(disk), *arguments], capture_output=True, text=True, timeout=240
    )


def test_full_disk_is_named_and_complete_records_are_read(tmp_path):
    done = on_a_small_disk(FILLS_A_DISK, disk=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["said"].startswith(f"[FB1003] the journal (journal={first['directory']!r}) cannot be written")
    assert "the disk is full" in first["said"]
    assert first["refused"]
    assert first["written"] > 10
    assert first["found"] == first["in_process"] == first["written"]
    assert "the disk is full" in second["said"] or not second["left"]


CONTEXT = """
import contextlib, json, sys
from pathlib import Path
import fedbroker
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker.errors import JournalError

disk, url, cohort = Path(sys.argv[1]), *sys.argv[2:]
filler, events, full = disk / "filler", [], []

@tff.tensorflow.computation(tff.TensorType(np.float32, [None]))
def many(column):
    return tf.fill([4000], tf.reduce_sum(column))

@tff.federated_computation(tff.FederatedType(tff.TensorType(np.float32, [None]), tff.CLIENTS))
def sums(columns):
    return tff.federated_sum(tff.federated_map(many, columns))

def on_event(event):
    events.append(event.name)
    if event.name == "session_started" and full:
        full.clear()
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass

def show(value):
    print(json.dumps(value), flush=True)

with fedbroker.set_sync_execution_context(
    url, cohort=cohort, min_silos=2, progress=False, on_event=on_event,
    options=fedbroker.Options(journal=disk / "journal"),
) as context:
    show(float(sums(fedbroker.data("numbers"))[0]))
    full.append(True)
    try:
        sums(fedbroker.data("numbers"))
    except JournalError as error:
        show(str(error))
    filler.unlink()
    show(float(sums(fedbroker.data("numbers"))[0]))
    show(events)
    show(sorted(path.name for path in (disk / "journal").iterdir()))
"""


def test_invocation_with_a_full_disk_fails_cleanly_and_the_next_one_resumes(broker, cohort, tmp_path):
    with local_cohort(2, sources=NUMBERS, cohort=cohort, broker=broker.url):
        done = on_a_small_disk(CONTEXT, broker.url, cohort, disk=tmp_path, size="256k")
        assert done.returncode == 0, done.stderr[-3000:]
        before, error, result, events, left = (json.loads(line) for line in done.stdout.splitlines())
        assert "the disk is full" in error
        assert f"journal='{tmp_path}/journal'" in error
        assert before == result == 90.0
        assert "session_resumed" in events
        assert "invocation_retried" not in events
        assert left == ["key", "lock"]
        with fedbroker.create_sync_execution_context(broker.url, cohort=cohort, min_silos=2) as context:
            assert sum_numbers(context) == 90.0


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


@pytest.fixture
def umask():
    before = os.umask(0)  # files made without an explicit mode are readable by all users
    yield
    os.umask(before)


def test_journal_is_readable_only_by_its_owner_under_any_umask(tmp_path, umask):
    journal = Journal(tmp_path / "j")
    journal.begin("print", "s1", MEMBERS, {})
    journal.close()
    assert stat.S_IMODE((tmp_path / "j").stat().st_mode) == 0o700
    assert modes(tmp_path / "j") == {0o600}


def test_permissions_of_our_own_directory_are_tightened(tmp_path, caplog):
    journal = Journal(tmp_path / "j")
    journal.begin("print", "s1", MEMBERS, {})
    journal.close()
    (tmp_path / "j").chmod(0o755)
    (tmp_path / "j" / "s1.session").chmod(0o644)
    (tmp_path / "j" / "key").chmod(0o644)
    journal = Journal(tmp_path / "j")
    assert journal.take("print") is not None
    journal.close()
    assert stat.S_IMODE((tmp_path / "j").stat().st_mode) == 0o700
    assert modes(tmp_path / "j") == {0o600}
    assert "journal_directory_restricted" in caplog.text


def test_directory_of_another_user_is_refused(tmp_path):
    directory = tmp_path / "j"
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
    else:
        directory = Path("/usr")  # root's, and we write nothing there
    with pytest.raises(ConfigError, match=r"journal=.*belongs to another user"):
        Journal(directory)
    assert list(directory.glob("lock")) == []


def test_planted_link_is_neither_followed_nor_trusted(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    directory = tmp_path / "j"
    directory.mkdir()
    for name in ("key", "s1.session"):
        (directory / name).symlink_to(victim)
    journal = Journal(directory)
    assert journal.key != "precious"
    assert journal.take("print") is None
    journal.begin("print", "s1", MEMBERS, {})
    journal.close()
    assert victim.read_text() == "precious\n"
    (directory / "lock").unlink()
    (directory / "lock").symlink_to(victim)
    with pytest.raises(ConfigError, match="cannot be used"):
        Journal(directory)


def test_concurrently_written_records_are_complete(tmp_path):
    async def write(one):
        await asyncio.gather(*(one.record_answer(0, f"s{number}", [bytes([number]) * 5000]) for number in range(100)))

    journal = Journal(tmp_path / "j")
    asyncio.run(write(journal.begin("print", "s1", MEMBERS, {})))
    journal.close()
    journal = Journal(tmp_path / "j")
    found = journal.take("print")
    assert all(found.answer(0, f"s{number}") == [bytes([number]) * 5000] for number in range(100))
    journal.close()
