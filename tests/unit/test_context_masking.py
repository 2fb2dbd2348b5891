"""All silos of a masked sum are asked for the same work; a silo that would be asked for other work is named."""

from __future__ import annotations

import types

import pytest

from fedbroker.context.masking import PlanMasking
from fedbroker.errors import UsageError
from fedbroker.masking.work import NO_WORK, work_digest
from fedbroker.plan.model import ClientStage
from fedbroker.wire.blobs import content_digest, digest_of
from fedbroker.wire.messages import Compute, Data, Value

BLOB = b"a computation"
DIGEST = digest_of(BLOB)
SAME = (Value(1, DIGEST), Data(2, "flights", (("minutes", "int32"),)), Compute(1))
OTHER = (SAME[0], Data(2, "flights", (("delay", "int32"),)), SAME[2])


def masking(*stages):
    return PlanMasking(types.SimpleNamespace(client_stages=stages))


def client_stage(number, masked=()):
    return ClientStage(number, b"", (), (), (), (), masked)


async def run(one, stage, ops):
    return await one.stage(stage, None, ops, {DIGEST: BLOB}, 1, {})


async def test_plan_without_masked_sums_has_no_digest():
    one = masking(client_stage(0))
    assert await run(one, client_stage(0), {"ewr": SAME, "jfk": OTHER}) is None
    assert one.is_work_of_stage(OTHER, {DIGEST: BLOB})


async def test_silo_that_is_asked_for_other_work_is_named():
    stage = client_stage(0)
    one = masking(stage, client_stage(2, ("masked",)))
    with pytest.raises(UsageError, match=r"silo 'lga' is asked for other work than silo 'ewr'.*names and dtypes"):
        await run(one, stage, {"ewr": SAME, "jfk": SAME, "lga": OTHER})


async def test_late_joiner_must_do_the_same_work():
    stage = client_stage(0)
    one = masking(stage, client_stage(2, ("masked",)))
    assert await run(one, stage, {"ewr": SAME, "jfk": SAME}) is None
    assert one.is_work_of_stage(SAME, {DIGEST: BLOB})
    assert not one.is_work_of_stage(OTHER, {DIGEST: BLOB})


async def test_digest_covers_all_earlier_stages():
    first, second = client_stage(0), client_stage(2)
    one = masking(first, second, client_stage(4, ("masked",)))
    await run(one, first, {"ewr": SAME})
    await run(one, second, {"ewr": OTHER})
    contents = {DIGEST: content_digest(BLOB)}
    assert one._work == work_digest(work_digest(NO_WORK, SAME, contents), OTHER, contents)
