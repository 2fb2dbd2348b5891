"""Dead letters of silos that require signed work: readable by the operator, replayed with a coordinator's keys."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import msgspec

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport.coordinator.requests import Dead
from fedbroker.trust import Identity
from fedbroker.trust.keyring import SECRET, Keys, coordinator_keys, keys_table
from fedbroker.wire.blobs import digest_of
from tests.support.transports import coordinator_transport, eventually, queue_admin, silo_transport, work_item

COORDINATOR, EWR = Identity(b"c" * 32), Identity(b"e" * 32)
BLOB = b"what rides with the work item"


def keys_file(directory: Path, *, seal: bool) -> Path:
    (directory / SECRET).write_text(COORDINATOR.reveal())
    path = directory / "keys.toml"
    path.write_text(keys_table({"ewr": EWR.public}, seal=seal))
    return path


async def dead(broker: PrivateBroker, cohort: str, *arguments: str) -> tuple[int, str, str]:
    command = [
        sys.executable,
        "-m",
        "fedbroker.cli",
        "dead-letters",
        *arguments,
        "--cohort",
        cohort,
        "--url",
        broker.url,
    ]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(60):
        out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


async def died(broker: PrivateBroker, cohort: str, keys: Keys) -> None:
    """Return a work item with a blob that expired unread."""
    async with silo_transport(broker.url, cohort, keys=Keys(EWR, {"coordinator": COORDINATOR.public})):
        pass
    async with coordinator_transport(broker.url, cohort, keys=keys) as coordinator, queue_admin(broker.url) as look:
        item = work_item("ewr", coordinator.transport.coordinator_id, blobs={digest_of(BLOB): len(BLOB)})
        item = msgspec.structs.replace(item, incoming={})  # small enough for the message itself
        answer = await coordinator.transport.request(item, {digest_of(BLOB): BLOB}, Deadline.after(0.3))
        assert isinstance(answer, Dead)
        await eventually(lambda: look.holds(f"fedbroker.dead.{cohort}", 1))


async def test_signed_letter_is_read_and_replayed_with_keys(broker: PrivateBroker, cohort: str, tmp_path: Path) -> None:
    path = keys_file(tmp_path, seal=False)
    await died(broker, cohort, coordinator_keys(path))
    code, out, error = await dead(broker, cohort, "list", "--json")
    assert code == 0, error
    ((letter),) = json.loads(out)
    assert (letter["session"], letter["silo"]) == ("s1", "ewr")
    async with silo_transport(broker.url, cohort, keys=Keys(EWR, {"coordinator": COORDINATOR.public})) as silo:
        code, _, error = await dead(broker, cohort, "replay", letter["id"])
        assert (code, silo.items) == (4, [])
        code, out, error = await dead(broker, cohort, "replay", letter["id"], "--keys", str(path), "--json")
        assert code == 0, error
        assert [one["digest"] for one in json.loads(out)["outputs"]] == [digest_of(BLOB)]
        assert len(silo.items) == 1
    assert COORDINATOR.reveal()[20:] not in out + error


async def test_replay_is_sealed_if_the_keys_require_it(broker: PrivateBroker, cohort: str, tmp_path: Path) -> None:
    await died(broker, cohort, coordinator_keys(keys_file(tmp_path, seal=False)))
    path = keys_file(tmp_path, seal=True)
    _, out, _ = await dead(broker, cohort, "list", "--json")
    ((letter),) = json.loads(out)
    async with silo_transport(broker.url, cohort, keys=Keys(EWR, {"coordinator": COORDINATOR.public}, seal=True)):
        code, out, error = await dead(broker, cohort, "replay", letter["id"], "--keys", str(path), "--json")
    assert code == 0, error
    assert [one["digest"] for one in json.loads(out)["outputs"]] == [digest_of(BLOB)]


async def test_sealed_letter_is_listed_as_sealed(broker: PrivateBroker, cohort: str, tmp_path: Path) -> None:
    await died(broker, cohort, coordinator_keys(keys_file(tmp_path, seal=True)))
    code, out, error = await dead(broker, cohort, "list", "--json")
    assert code == 0, error
    ((letter),) = json.loads(out)
    assert letter["silo"] == "ewr"
    assert "sealed" in letter["flaw"]
