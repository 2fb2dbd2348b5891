"""``fedbroker dead-letters`` and ``fedbroker-silo replay`` as processes, on real dead letters, against a real silo."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import msgspec
import pytest

from fedbroker.deadline import Deadline
from fedbroker.transport import Dead
from fedbroker.wire import digest_of, encode
from fedbroker.wire.messages import Compute
from tests.support.pages import blocks
from tests.support.transports import coordinator_transport, eventually, queue_admin, silo_transport, work_item
from tests.support.worker import SILO, call_ops, identity_computation, load_settings, running_silo

ROOT = Path(__file__).parents[2]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
SECONDS = 60


class Ran:
    """A command's result."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def run(broker, cohort, tmp_path):
    """Return ``await run("fedbroker", "dead-letters", "list")``, which runs a command with the broker's URL set."""
    secret = urlsplit(broker.url).password

    async def run(*command, url=broker.url, stdin=asyncio.subprocess.DEVNULL):
        ours = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            cwd=tmp_path,
            env={
                **ours,
                "PATH": PATH,
                "FEDBROKER_URL": url,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'workers'}",
                "COLUMNS": "80",
            },
            stdin=stdin,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(SECONDS):
            out, err = (stream.decode() for stream in await process.communicate())
        assert secret not in out + err
        return Ran(process.returncode, out, err)

    return run


@pytest.fixture
def dead(run, cohort):
    """Return ``await dead("show", id)``."""
    return lambda command, *more, **options: run(
        "fedbroker", "dead-letters", command, *more, "--cohort", cohort, **options
    )


@pytest.fixture
def silo(broker, cohort, tmp_path):
    """Return the path of a silo's settings."""
    return load_settings(tmp_path, broker.url, cohort)


@pytest.fixture
def kill(broker, cohort):
    """Return ``await kill(item, blobs)``, which lets a work item expire; the silo's queue must exist."""

    async def kill(*items, blobs=()):
        async with coordinator_transport(broker.url, cohort) as coordinator, queue_admin(broker.url) as at:
            before = await at.depth(f"fedbroker.dead.{cohort}") or 0
            inline = {digest_of(blob): blob for blob in blobs}
            for number, item in enumerate(items, before + 1):
                assert isinstance(await coordinator.transport.request(item, inline, Deadline.after(0.3)), Dead)
                await eventually(lambda number=number: at.holds(f"fedbroker.dead.{cohort}", number))

    return kill


@asynccontextmanager
async def once_there(silo):
    """Start the silo, so that it has a queue, and stop it at the start of the block."""
    async with running_silo(silo) as (_, client):
        yield client


def outputs(ran):
    return [(one["digest"], one["size"]) for one in ran.json["outputs"]]


async def test_replay_at_the_silo_and_in_a_process_return_the_same_bytes(silo, kill, dead, run, tmp_path):
    function = identity_computation()
    async with once_there(silo) as client:
        item = client.item(call_ops(function), session="s1")
        live = [(digest_of(one), len(one)) for one in await client.outputs(item, [function])]
    await kill(item, blobs=[function])
    (letter,) = (await dead("list", "--json")).json
    assert (letter["reason"], letter["silo"], letter["session"], letter["stage"]) == ("expired", SILO, "s1", 0)
    assert letter["deliveries"] == 0
    assert 0 <= letter["age"] < 60
    short = letter["id"][:6]

    async with running_silo(silo):
        at_silo = await dead("replay", short, "--json", "--out", "at-silo")
        shown = await dead("replay", short)
    assert outputs(at_silo) == live
    assert live[0][0] in shown.out
    assert digest_of((tmp_path / "at-silo" / live[0][0]).read_bytes()) == live[0][0]

    assert (await dead("show", short, "--save", "item")).code == 0
    local = await run("fedbroker-silo", "replay", "item", "--json", "--out", "local", url="")
    assert outputs(local) == live
    assert (tmp_path / "local" / live[0][0]).read_bytes() == (tmp_path / "at-silo" / live[0][0]).read_bytes()
    assert live[0][0] in (await run("fedbroker-silo", "replay", "item")).out
    assert len((await dead("list", "--json")).json) == 1


async def test_replay_names_missing_blobs_and_accepts_them_as_files(silo, kill, dead, run, tmp_path):
    function = identity_computation()
    digest = digest_of(function)
    async with once_there(silo) as client:
        item = client.item(call_ops(function))
        live = [(digest_of(one), len(one)) for one in await client.outputs(item, [function])]
    await kill(item)
    (letter,) = (await dead("list", "--json")).json
    shown = (await dead("show", letter["id"], "--save", "item", "--json")).json
    assert shown["blobs"] == [{"digest": digest, "size": None, "inside": False}]
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / digest).write_bytes(function)
    async with running_silo(silo):  # a new process: its cache is empty
        failed = await dead("replay", letter["id"])
        given = await dead("replay", letter["id"], "--blobs", "blobs", "--json")
    async with running_silo(silo) as (_, client):
        await client.outputs(client.item(call_ops(function)), [function])
        cached = await dead("replay", letter["id"], "--json")
    assert failed.code == 4
    assert digest in failed.err
    assert len(failed.err.splitlines()) == 1
    assert outputs(given) == outputs(cached) == live
    failed = await run("fedbroker-silo", "replay", "item")
    assert failed.code == 4
    assert digest in failed.err
    assert outputs(await run("fedbroker-silo", "replay", "item", "--blobs", "blobs", "--json")) == live
    (tmp_path / "blobs" / digest).write_bytes(b"something else")
    assert (await dead("replay", letter["id"], "--blobs", "blobs")).code == 2


async def test_work_that_continues_a_session_is_not_replayed(silo, kill, dead, run):
    async with once_there(silo) as client:
        item = client.item([Compute(9)], stage=1, session="s7")
    await kill(item)
    (letter,) = (await dead("list", "--json")).json
    failed = await dead("replay", letter["id"])
    assert failed.code == 4
    assert "s7" in failed.err
    assert "%9" in failed.err
    await dead("show", letter["id"], "--save", "item")
    assert (await run("fedbroker-silo", "replay", "item")).code == 4


async def test_work_of_a_masked_sum_is_replayed_in_a_process_only(silo, kill, dead, run):
    function = identity_computation()
    async with once_there(silo) as client:
        item = client.item(call_ops(function), session="s8")
        live = [(digest_of(one), len(one)) for one in await client.outputs(item, [function])]
    await kill(msgspec.structs.replace(item, masking=digest_of(b"a request")), blobs=[function])
    (letter,) = (await dead("list", "--json")).json
    failed = await dead("replay", letter["id"])
    assert failed.code == 4
    assert "outputs are masked for a sum of session s8" in failed.err
    assert len(failed.err.splitlines()) == 1
    await dead("show", letter["id"], "--save", "item")
    assert outputs(await run("fedbroker-silo", "replay", "item", "--json")) == live


async def test_replay_reports_a_silos_failure_and_the_debugger_stops_at_it(silo, kill, dead, run, tmp_path):
    async with once_there(silo) as client:
        item = client.item(call_ops(identity_computation(), columns=[("nothing", "float32")]))
    await kill(item, blobs=[identity_computation()])
    (letter,) = (await dead("list", "--json")).json
    absent = await dead("replay", letter["id"])
    assert absent.code == 4
    assert "start it first" in absent.err
    async with running_silo(silo):
        failed = await dead("replay", letter["id"])
    assert failed.code == 4
    assert "nothing" in failed.err
    await dead("show", letter["id"], "--save", "item")
    failed = await run("fedbroker-silo", "replay", "item")
    assert (failed.code, "nothing" in failed.err) == (4, True)
    (tmp_path / "orders").write_text("continue\nwhere\nquit\n")
    with (tmp_path / "orders").open() as orders:
        debugged = await run("fedbroker-silo", "replay", "item", "--pdb", stdin=orders)
    assert "catalog.py" in debugged.out


async def test_replay_receives_results_that_silos_hold_back(broker, cohort, dead, kill):
    async with silo_transport(broker.url, cohort):
        pass
    await kill(msgspec.structs.replace(work_item("ewr", "gone"), defer_above=1000))
    (letter,) = (await dead("list", "--json")).json
    async with silo_transport(broker.url, cohort) as silo:
        silo.answer = lambda item: silo.send(item, [b"x" * 100_000], Deadline.after(20))
        ran = await dead("replay", letter["id"], "--json")
    assert outputs(ran) == [(digest_of(b"x" * 100_000), 100_000)]


async def test_reply_to_a_requeued_letter_reaches_its_coordinator(broker, cohort, dead):
    async with silo_transport(broker.url, cohort):
        pass
    async with coordinator_transport(broker.url, cohort) as coordinator, queue_admin(broker.url) as at:
        item = work_item("ewr", coordinator.transport.coordinator_id)
        assert isinstance(await coordinator.transport.request(item, {}, Deadline.after(0.3)), Dead)
        await eventually(lambda: at.holds(f"fedbroker.dead.{cohort}", 1))
        (letter,) = (await dead("list", "--json")).json
        sent = (await dead("requeue", letter["id"][:5], "--json")).json
        assert sent["coordinator_present"] is True
        assert await at.holds(f"fedbroker.dead.{cohort}", 0)
        async with silo_transport(broker.url, cohort) as silo:
            await eventually(lambda: coordinator.transport.late == 1)
            (done,) = silo.items
            assert msgspec.structs.replace(done, timeout=item.timeout) == item  # its time starts


async def test_requeued_letter_expires_again_and_warns_of_a_missing_coordinator(broker, cohort, dead, kill):
    async with silo_transport(broker.url, cohort):
        pass
    await kill(work_item("ewr", "gone"))
    (letter,) = (await dead("list", "--json")).json
    told = await dead("requeue", letter["id"], "--expires", "0.2")
    assert told.code == 0
    assert "reply will be ignored" in told.out
    async with queue_admin(broker.url) as at:
        await eventually(lambda: at.holds(f"fedbroker.dead.{cohort}", 1))
        (again,) = (await dead("list", "--json")).json
        assert again["id"] == letter["id"]
        await at.delete(f"fedbroker.work.{cohort}.ewr")
    failed = await dead("requeue", letter["id"])
    assert failed.code == 4
    assert "kept" in failed.err
    assert len((await dead("list", "--json")).json) == 1


async def test_concurrent_readers_see_all_letters_and_remove_none(broker, cohort, dead, kill):
    async with silo_transport(broker.url, cohort):
        pass
    await kill(*(work_item("ewr", "gone", stage=stage) for stage in range(4)))
    lists = await asyncio.gather(*(dead("list", "--json") for _ in range(3)))
    assert [[one["stage"] for one in each.json] for each in lists] == [[0, 1, 2, 3]] * 3
    constant = ("id", "reason", "deliveries", "stage", "died")
    assert len({json.dumps([[one[name] for name in constant] for one in each.json]) for each in lists}) == 1
    middle = lists[0].json[1]["id"]
    await dead("requeue", middle)
    assert [one["stage"] for one in (await dead("list", "--json")).json] == [0, 2, 3]
    shown = (await dead("list")).out.splitlines()
    assert len(shown) == 4
    assert all(len(line) <= 80 for line in shown)
    assert "expired" in shown[1]


async def test_letters_keep_their_order_even_after_a_killed_reader(broker, cohort, dead):
    many = 100  # a quorum queue reorders more than 32 messages that are returned at once
    archive = f"fedbroker.dead.{cohort}"
    async with silo_transport(broker.url, cohort), queue_admin(broker.url) as at:
        for stage in range(many):
            await at.publish("fedbroker.dead", f"{cohort}.ewr.k", encode(work_item("ewr", "k", stage=stage)))
        await eventually(lambda: at.holds(archive, many))
        for _ in range(3):
            assert [one["stage"] for one in (await dead("list", "--json")).json] == list(range(many))
            assert await at.holds(archive, many)
        async with await aio_pika.connect(broker.url) as reader:
            channel = await reader.channel()
            queue = await channel.get_queue(archive)
            for _ in range(many // 2):
                await queue.get()
        await eventually(lambda: at.holds(archive, many))
        assert sorted(one["stage"] for one in (await dead("list", "--json")).json) == list(range(many))


async def test_unreadable_letters_are_listed(broker, cohort, dead, run):
    async with silo_transport(broker.url, cohort), queue_admin(broker.url) as at:
        await at.publish("fedbroker.work", f"{cohort}.ewr.somebody", b"no work item \x1b[31m", message_id="odd\x1b[31m")
        await eventually(lambda: at.holds(f"fedbroker.dead.{cohort}", 1))
    (letter,) = (await dead("list", "--json")).json
    assert (letter["reason"], letter["silo"], letter["session"]) == ("rejected", "ewr", None)
    assert letter["flaw"]
    listed, shown = await dead("list"), await dead("show", "odd")
    assert "\x1b" not in listed.out + shown.out
    assert "unreadable" in shown.out
    failed = await dead("replay", "odd")
    assert failed.code == 5
    assert len(failed.err.splitlines()) == 1
    await dead("show", "odd", "--save", "item")
    assert (await dead("requeue", "odd")).code == 0


async def test_empty_archive_is_reported(broker, cohort, dead, run):
    for command, said in (("list", "no dead letters"), ("purge", "0 dead letters deleted")):
        options = ["--yes"] if command == "purge" else []
        ran = await dead(command, *options)
        assert ran.code == 0
        assert said in ran.out
    assert (await dead("list", "--json")).json == []
    for command in ("show", "replay", "requeue"):
        unknown = await dead(command, "0123")
        assert unknown.code == 4
        assert len(unknown.err.splitlines()) == 1
    async with queue_admin(broker.url) as at:
        assert not await at.has_queue(f"fedbroker.dead.{cohort}")
    assert (await dead("list", url="amqp://me:" + urlsplit(broker.url).password + "@127.0.0.1:1/")).code == 3
    assert (await run("fedbroker", "dead-letters", "list")).code == 2
    assert (await run("fedbroker", "dead", "list", "--cohort", cohort)).out == (
        await dead("list")
    ).out  # the short form


async def test_purge_asks_for_confirmation(broker, cohort, dead, kill):
    async with silo_transport(broker.url, cohort):
        pass
    await kill(work_item("ewr", "gone"), work_item("ewr", "gone", stage=1))
    assert (await dead("purge")).code == 2
    for answer, left in ((b"n\n", 2), (b"y\n", 0)):
        ours, theirs = pty.openpty()
        try:
            os.write(ours, answer)
            asked = await dead("purge", stdin=theirs)
        finally:
            os.close(ours)
            os.close(theirs)
        assert asked.code == 0
        assert "2 dead letters" in asked.out
        assert len((await dead("list", "--json")).json) == left


async def test_commands_of_the_page_run(silo, kill, run, dead, cohort, tmp_path):
    function = identity_computation()
    lines = [line for block in blocks("docs/dead-letters.md", "sh") for line in block.splitlines()]
    async with once_there(silo) as client:
        items = [client.item(call_ops(function), session=session) for session in ("s1", "s2")]
    await kill(*items, blobs=[function])
    (tmp_path / "blobs").mkdir()
    ids = [one["id"] for one in (await dead("list", "--json")).json]
    async with running_silo(silo):
        for line in lines:
            if line.startswith("export "):
                continue
            line = line.replace("airports", cohort).replace("ID", ids[0])
            ran = await run("bash", "-euo", "pipefail", "-c", line)
            assert ran.code == 0, f"{line}\n{ran.err}"
