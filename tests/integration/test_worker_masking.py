"""Masked sums at silos with the real C++ runtime, without a broker."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.masking.rings import Ring
from fedbroker.wire.messages import Done, Failed
from tests.support.masked_workers import DropoutRun, masked_cohort, ops_of, sum_of, two_sums

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
