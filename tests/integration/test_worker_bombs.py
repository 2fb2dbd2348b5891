"""Work items that exhaust memory, processors or the stack: the item fails, and the next one succeeds."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path

import psutil
import pytest

from fedbroker.wire import digest_of
from fedbroker.wire.messages import Call, Compute, Done, Drop, Failed, Select, Struct, Value
from tests.support import bombs
from tests.support.transports import eventually
from tests.support.worker import ALLOW_CLIENT_RESULTS, load_settings, new_runtimes, running_silo

MIB = 1 << 20
MEMORY = 512 * MIB
QUIET = 0.5


@pytest.fixture
def ours():
    """Return the C++ runtimes of the silo in this process."""
    return new_runtimes()


@pytest.fixture
async def client(ours, broker, cohort, tmp_path):
    async with running_silo(load_settings(tmp_path, broker.url, cohort, runtime_memory_bytes=MEMORY)) as (_, client):
        yield client


def called(function):
    """Return ops that call a function and return its result."""
    return [Value(1, digest_of(function)), Call(2, 1, None), Compute(2)]


async def runs(client, function, **options):
    """Return the silo's reply to ops that call a function."""
    return await client.send(client.item(called(function), **options), [function])


# --- memory ---


def test_runtime_has_a_memory_limit_and_is_killed_first(client, ours):
    (runtime,) = ours()
    assert resource.prlimit(runtime.pid, resource.RLIMIT_DATA) == (MEMORY, MEMORY)
    assert resource.prlimit(runtime.pid, resource.RLIMIT_STACK) == (MIB, MIB)  # of each thread; counts as allocated
    core = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] else 0
    assert resource.prlimit(runtime.pid, resource.RLIMIT_CORE) == (core, core)
    assert int(Path(f"/proc/{runtime.pid}/oom_score_adj").read_text()) == 1000
    assert int(Path(f"/proc/{os.getpid()}/oom_score_adj").read_text()) < 1000


@pytest.mark.alone
@pytest.mark.parametrize(
    "bomb",
    [bombs.allocates(bombs.TIB), bombs.doubles(), bombs.hoards()],
    ids=["asks for a TiB", "doubles", "hoards"],
)
async def test_graph_beyond_the_memory_limit_fails_alone(client, ours, bomb):
    before = ours()
    # Half a GiB is written before it fails, which takes long on a loaded machine.
    kind, line = await client.refused(client.item(called(bomb), seconds=90.0), [bomb])
    assert kind == "computation"
    assert "OOM when allocating tensor" in line
    assert "raise runtime_memory_bytes" in line
    assert ours() == before  # the runtime survives, and other sessions with it
    assert before[0].memory_info().rss < MEMORY


async def test_graph_within_the_memory_limit_succeeds(client):
    half = bombs.allocates(MEMORY // 2)
    assert isinstance(await runs(client, half), Done)


@pytest.mark.alone
async def test_value_above_the_memory_limit_fails_alone(broker, cohort, tmp_path):
    own = load_settings(tmp_path, broker.url, cohort, runtime_memory_bytes=256 * MIB)
    async with running_silo(own) as (_, client):
        grows = bombs.function(lambda: [bombs.tf.fill([12 * MIB], float(i)) for i in range(8)])
        reply = await runs(client, grows)
        assert isinstance(reply, Failed)
        assert reply.error_type in ("computation", "lost")
        await client.check()


async def test_graph_that_waits_forever_ends_its_runtime(client):
    """Wait without computing: to the silo, the runtime has stalled."""
    reply = await runs(client, bombs.waits(), seconds=60.0)
    assert isinstance(reply, Failed)
    assert reply.error_type == "computation"
    assert "made no progress" in reply.cause
    await client.check()


@pytest.mark.alone
async def test_struct_that_doubles_with_each_op_fails_alone(client):
    """Double a struct thirty times: a billion elements, if they are written out."""
    program = [Struct(1, ()), *[Struct(1, (("", 1), ("", 1)))] * 30, Compute(1)]
    reply = await client.send(client.item(program, seconds=60.0))
    assert isinstance(reply, Failed)
    assert reply.error_type in ("computation", "lost", "timeout")
    await client.check()


# --- the stack ---


@pytest.mark.parametrize("levels", [200, 5000])
@pytest.mark.parametrize("make", [bombs.deep_value, bombs.deep_computation])
async def test_too_deeply_nested_value_fails_alone(client, make, levels):
    value = make(levels)
    reply = await client.send(client.item([Value(1, digest_of(value)), Compute(1)]), [value])
    assert isinstance(reply, Failed)
    assert reply.error_type in ("computation", "lost", "refused")
    await client.check()


async def test_endless_recursion_ends_only_its_runtime(client):
    function = bombs.calls_itself()
    reply = await client.send(client.item([Value(1, digest_of(function)), Call(2, 1, 1), Compute(2)]), [function])
    assert isinstance(reply, Failed)
    assert reply.error_type == "lost"
    assert "SIGSEGV" in reply.cause
    await client.check()


async def test_struct_that_nests_itself_fails_alone(client):
    program = [Struct(1, ()), *[Struct(1, (("", 1),))] * 2000, Compute(1)]
    assert isinstance(await client.send(client.item(program)), Done | Failed)
    await client.check()
    kind, line = await client.refused(client.item([Struct(1, (("", 1),)), Compute(1)]))
    assert (kind, "does not have" in line) == ("refused", True)


# --- time ---


async def test_maximal_number_of_ops_ends_at_its_timeout(client):
    program = [Struct(1, ()), *(Struct(n, (("", n - 1),)) for n in range(2, 100_000)), Compute(99_999)]
    reply = await client.send(client.item(program, seconds=2.0))
    assert isinstance(reply, Failed)
    assert reply.error_type == "timeout"
    await client.check()


async def idle(ours):
    """Wait until none of the runtimes has computed for a while."""
    used: dict[int, float] = {}
    since = time.monotonic()

    def still():
        nonlocal used, since
        before, used = used, {}
        for runtime in ours():
            with contextlib.suppress(psutil.NoSuchProcess):
                used[runtime.pid] = sum(runtime.cpu_times()[:2])
        if used != before:
            since = time.monotonic()
        return time.monotonic() - since > QUIET

    await eventually(still, 15.0)


async def test_endless_graph_ends_at_its_timeout(client, ours):
    reply = await runs(client, bombs.endless(), seconds=1.0)
    assert isinstance(reply, Failed)
    assert reply.error_type == "timeout"
    await client.check()
    await idle(ours)


async def test_silo_limits_the_time_of_a_work_item(ours, broker, cohort, tmp_path):
    own = load_settings(tmp_path, broker.url, cohort, policy=ALLOW_CLIENT_RESULTS | {"max_seconds": 1.0})
    async with running_silo(own) as (_, client):
        reply = await runs(client, bombs.endless(), seconds=60.0)
        assert isinstance(reply, Failed)
        assert (reply.error_type, reply.rule) == ("refused", "max_seconds")
        assert "not done within 1 s" in reply.cause
        reply = await runs(client, bombs.endless(), seconds=0.5)  # its own timeout ends first
        assert isinstance(reply, Failed)
        assert (reply.error_type, reply.rule) == ("timeout", "")
        await client.check()
        await idle(ours)


@pytest.mark.parametrize("then", [[], [Compute(9)], [Drop((3,))], [Select(10, 8, 1), Compute(10)]])
async def test_endless_graph_without_a_request_is_ended(client, ours, then):
    """End a graph whose work item is done or failed otherwise."""
    endless, one = bombs.endless(), bombs.one()
    program = [
        Value(1, digest_of(endless)),
        Value(2, digest_of(one)),
        Call(3, 1, None),
        Call(4, 2, None),
        Compute(4),
        Struct(8, (("", 4),)),
        *then,
    ]
    await client.send(client.item(program), [endless, one])
    await client.check()
    await idle(ours)
