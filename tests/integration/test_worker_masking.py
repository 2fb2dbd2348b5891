"""Masked sums at silos with the real C++ runtime, without a broker."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import psutil
import pytest
from fedbroker_worker.masking.sums import digest_after
from fedbroker_worker.policy.rules import PolicySettings

from fedbroker.deadline import Deadline
from fedbroker.errors import ConfigError
from fedbroker.masking.offers import Offer
from fedbroker.masking.request import encode_request
from fedbroker.masking.rings import Ring
from fedbroker.masking.work import NO_WORK
from fedbroker.transport import Signed
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Compute, Done, Failed, Select
from tests.support.masked_workers import COORDINATOR, DropoutRun, masked_cohort, ops_of, sum_of, two_sums
from tests.support.transports import eventually

pytestmark = pytest.mark.runtime

EXPECTED = [[18 + 3 * 100 + 3 * 200, 9], [18 + 3 * 100 + 3 * 200]]


@pytest.fixture(scope="module")
def function():
    return two_sums()


@pytest.fixture
async def cohort(tmp_path):
    async with masked_cohort(tmp_path) as silos:
        yield silos


async def test_masks_cancel_in_the_sum(cohort, function):
    ops = ops_of(function)
    request = cohort.request(ops, [function])
    replies = await cohort.replies(ops, [function], request)
    assert sum_of(replies, request) == EXPECTED
    assert sum_of(replies[:1], request) != [[6, 3], [6]]
    assert [line["releases"] for line in cohort["s0"].lines if line["outcome"] == "answered"] == [
        ["masked sum of int32[2] over 3 silos", "masked sum of int64 over 3 silos"]
    ]


async def test_clear_outputs_leave_before_the_masked_ones(cohort, function):
    ops = ops_of(function, (0, 2, 1))
    request = cohort.request(ops, [function], outputs=((Ring(3),), None, (Ring(8, 1000),)))
    replies = await cohort.replies(ops, [function], request)
    assert sum_of(replies, request) == [EXPECTED[0], [EXPECTED[1][0] % 1000]]
    message, _ = replies[0]
    assert isinstance(message, Done)
    assert len(message.outputs) == 2


async def test_value_beyond_its_range_is_refused_without_a_number(cohort, function):
    ops = ops_of(function, (0,))
    request = cohort.request(ops, [function], outputs=((Ring(1),),))
    (first, _), (message, outputs), _ = await cohort.replies(ops, [function], request)
    assert isinstance(first, Done)
    assert isinstance(message, Failed)
    assert not outputs
    assert (message.error_type, message.cause) == (
        "refused",
        "a value to be summed is outside of the range that the program states",
    )


@pytest.fixture
async def five(tmp_path):
    async with masked_cohort(tmp_path, 5) as silos:
        yield silos


async def test_sum_over_the_survivors_of_a_stage(five, function):
    ops = ops_of(function)
    run = DropoutRun(five, five.request(ops, [function], dropouts=True))
    await run.start(ops, [function])
    await run.share(dropped=["s3"])
    await run.sign()
    assert await run.unmask() == [[6 * 4 + 3 * (100 + 200 + 400), 3 * 4], [6 * 4 + 3 * (100 + 200 + 400)]]
    (line,) = [line for line in five["s0"].lines if line["outcome"] == "revealed"]
    assert (line["survivors"], line["dropped"]) == (["s0", "s1", "s2", "s4"], ["s3"])
    five["s3"].end("s1")
    await asyncio.gather(*run.work.values(), return_exceptions=True)


async def test_stopping_silo_reveals_its_shares_first(five, function):
    ops = ops_of(function)
    run = DropoutRun(five, five.request(ops, [function], dropouts=True))
    await run.start(ops, [function], last=True)
    await run.share()
    waiting = asyncio.create_task(five["s0"].sums.exchanges.answered(Deadline.after(600)))
    await run.sign()
    assert not waiting.done()
    assert await run.unmask() == [[5 * 6 + 3 * 1000, 15], [5 * 6 + 3 * 1000]]
    await waiting


@pytest.mark.parametrize("dropouts", [False, True])
async def test_runtime_that_dies_takes_no_mask_with_it(tmp_path, function, dropouts):
    """The work runs again in a new runtime, and only its outputs are masked."""
    async with masked_cohort(tmp_path, shared=False) as cohort:
        await survive_death(cohort, function, dropouts)


async def survive_death(cohort, function, dropouts):
    ops = ops_of(function)
    request = cohort.request(ops, [function], dropouts=dropouts)
    opened, reads = asyncio.Event(), 0
    for silo in cohort:
        load = silo.catalog.load

        async def gated(op, clients, load=load):
            nonlocal reads
            reads += 1
            await opened.wait()
            return await load(op, clients)

        silo.catalog.load = gated
    if dropouts:
        run = DropoutRun(cohort, request)
        await run.start(ops, [function])
    else:
        replies = asyncio.create_task(cohort.replies(ops, [function], request))
    await eventually(lambda: reads == 3 and all(len(silo.sessions) for silo in cohort))
    runtime = cohort.runtimes()[0]
    runtime.kill()
    await eventually(lambda: not runtime.is_running() or runtime.status() == psutil.STATUS_ZOMBIE)
    opened.set()
    if dropouts:
        await run.share()
        await run.sign()
        assert await run.unmask() == EXPECTED
    else:
        assert sum_of(await replies, request) == EXPECTED


async def test_redelivered_work_waits_for_the_same_reply(five, function):
    """The connection is lost while the silo waits for the offers of the others: the broker delivers the work again."""
    ops = ops_of(function)
    run = DropoutRun(five, five.request(ops, [function], dropouts=True))
    await run.start(ops, [function])
    item = five.item("s0", ops, run.request)
    again = asyncio.create_task(five["s0"].tasks.answer(item, Signed(COORDINATOR, repeated=True)))
    await run.share()
    await again
    assert five["s0"].transport.steps.empty()
    first = five["s0"].transport.last
    cached = await five["s0"].send(item, [])
    assert cached == first
    await run.sign()
    assert (await run.unmask())[0][1] == 15


async def test_coordinator_of_an_earlier_version_asks_for_no_masks(tmp_path, function):
    policy = PolicySettings(aggregates="masked")
    async with masked_cohort(tmp_path, policy=policy) as silos:
        message, _ = await silos["s0"].send(silos.item("s0", ops_of(function)), [function])
    assert isinstance(message, Failed)
    assert (message.rule, 'secure_sum="masked"' in message.hint) == ("aggregates", True)


async def test_silo_without_a_roster(cohort, function):
    ops = ops_of(function)
    request = cohort.request(ops, [function])
    cohort["s0"].worker._sums = None
    message, _ = await cohort["s0"].send(cohort.item("s0", ops, request), [function, encode_request(request)])
    assert isinstance(message, Failed)
    assert (message.error_type, message.rule) == ("refused", "")
    assert message.cause == "this silo takes part in no masked sum: it has no roster of its cohort"


async def test_expired_roster_is_named_without_its_directory(cohort, function):
    def current():
        raise ConfigError(f"no masked sums: {cohort['s0'].roster.path}: the roster has expired", hint="install it")

    cohort["s0"].sums._rosters = SimpleNamespace(path=cohort["s0"].roster.path, current=current)
    ops = ops_of(function)
    request = cohort.request(ops, [function])
    message, _ = await cohort["s0"].send(cohort.item("s0", ops, request), [function, encode_request(request)])
    assert isinstance(message, Failed)
    assert (message.error_type, message.hint) == ("refused", "install it")
    assert message.cause == "no masked sums: cohort.roster: the roster has expired"
    await cohort["s1"].send(cohort.item("s1", ops, request), [function, encode_request(request)])


async def test_later_stage_masks_kept_values(cohort, function):
    """The work of all stages so far is in the masks' keys."""
    first, later = ops_of(function, ()), [Select(20, 2, 0), Compute(20)]
    for silo in cohort:
        message, _ = await silo.send(cohort.item(silo.name, first), [function])
        assert isinstance(message, Done)
    earlier = digest_after(NO_WORK, cohort.item("", first), {digest_of(function): function})
    request = cohort.request(later, [], earlier=earlier, outputs=((Ring(4),),))
    replies = await cohort.replies(later, [], request, stage=1, last=True)
    assert sum_of(replies, request) == EXPECTED[:1]


async def test_offer_is_sent_again_to_a_coordinator_that_asks_again(cohort, function):
    """It may have been killed before it had recorded the offers."""
    ops = ops_of(function)
    run = DropoutRun(cohort, cohort.request(ops, [function], dropouts=True))
    await run.start(ops, [function])
    again = [
        asyncio.create_task(silo.tasks.answer(cohort.item(silo.name, ops, run.request), Signed(COORDINATOR)))
        for silo in cohort
    ]
    assert [(await silo.step(Offer)).stage_key for silo in cohort] == [
        offer.stage_key for offer in run.sum.offers.values()
    ]
    await run.share()
    await asyncio.gather(*again)
    await run.sign()
    assert await run.unmask() == EXPECTED
