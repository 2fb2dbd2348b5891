"""A session forms masked sums over all of its silos: exactly their sum, or an error that names the silo."""

from __future__ import annotations

import asyncio
import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.errors import MaskingError, SiloError, WireError
from fedbroker.masking.request import decode_request
from fedbroker.masking.results import write_masked
from fedbroker.masking.rings import Ring
from fedbroker.session.masking import MaskedTotal, StageMasking
from fedbroker.trust import Identity
from fedbroker.wire.limits import DEFAULT_LIMITS
from fedbroker.wire.messages import Failed
from tests.support.masked_silos import INCARNATION, MaskedLane, totals
from tests.support.masking import RINGS, summed


async def refused(lane, words, **options):
    """Check that a stage fails before any work is sent."""
    work = lane.work()
    with pytest.raises(MaskingError, match=words):
        await lane.session(**options).run_stage(work)
    assert lane.items == {}


@given(st.integers(3, 9), st.data())
@settings(max_examples=40)
def test_sum_is_exact_in_any_order_of_arrival(count, data):
    lane = MaskedLane(count, clear=(b"clear",))
    lane.delays = {name: data.draw(st.integers(0, 20)) for name in lane.names}
    work = lane.work()
    assert asyncio.run(lane.session().run_stage(work)) == lane.names
    assert totals(work) == summed(lane.names)
    assert work.merges.outputs == {name: [b"clear"] for name in lane.names}
    assert work.merges.outstanding == 0
    assert [*lane.stored.values()] == [b"clear"]  # memory does not grow with the number of silos


async def test_silos_get_the_same_request_with_their_work():
    lane = MaskedLane(3)
    work = lane.work(work=b"w" * 32)
    session = lane.session()
    await session.run_stage(work)
    assert str(session.recorder.report.stages[0].masking) == "3 of 3 silos needed"
    (digest,) = {item.masking for item in lane.items.values()}
    assert all(item.blobs == (digest,) for item in lane.items.values())
    request = decode_request(lane.inline["s00"][digest])
    assert request.checked_members() == lane.silos.members
    assert (request.work, request.clients, request.dropouts) == (b"w" * 32, (1, 1, 1), False)
    assert request.outputs == (RINGS[:2], RINGS[2:])


async def test_large_request_is_broadcast_once():
    lane = MaskedLane(3)
    limits = dataclasses.replace(DEFAULT_LIMITS, inline_blob=1)
    work = lane.work()

    async def reply(item):
        assert item.incoming.keys() == {item.masking}
        return Failed(item.session_id, item.stage, item.silo, INCARNATION, "refused", "enough")

    lane.reply = reply
    with pytest.raises(SiloError, match="enough"):
        await lane.session(limits=limits).run_stage(work)
    assert lane.broadcast == [(lane.items["s00"].masking, None)]


async def test_silo_whose_values_have_another_shape_is_named():
    lane = MaskedLane(4, sizes={"s02": 8}, delays={"s02": 50})
    with pytest.raises(SiloError, match=r"its masked values have the shapes \[8\], .*those of silo 's0\d'") as caught:
        await lane.session().run_stage(lane.work())
    assert caught.value.silo == "s02"


async def test_first_silo_with_other_shapes_than_the_plans_is_named():
    def check(shapes):
        if shapes[0] == (9,):
            raise WireError("a masked tensor of the shape [9] is not of the type int32[7]")

    lane = MaskedLane(3, sizes={"s01": 9}, delays={"s00": 30, "s02": 30})
    work = lane.work()
    work = dataclasses.replace(work, masking=StageMasking(work.masking.outputs, work.masking.work, check))
    with pytest.raises(SiloError, match=r"silo 's01'.*\[9\] is not of the type"):
        await lane.session().run_stage(work)


def test_values_are_added_without_a_copy_of_them():
    ring = Ring(4)
    blob = write_masked([(1 << 22,)], [(ring, np.ones(1 << 22, ring.carrier))])  # 16 MiB
    total = MaskedTotal([ring])
    total.add("s00", blob)
    tracemalloc.start()
    try:
        for silo in ("s01", "s02"):
            total.check(blob)
            total.add(silo, blob)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(blob) / 4
    assert set(total.elements[0][1].tolist()) == {3}


@pytest.mark.parametrize("content", [b"", b"\0\0\0\1\x90 too long", bytes(9)])
async def test_silo_whose_values_cannot_be_read_is_named(content):
    lane = MaskedLane(3)
    masked = lane.masked
    lane.masked = lambda item, blob: [content] if item.silo == "s01" else masked(item, blob)
    with pytest.raises(SiloError, match=r"silo 's01'.*reply is invalid"):
        await lane.session().run_stage(lane.work())


async def test_silo_that_sends_no_masked_values_is_named():
    lane = MaskedLane(3, clear=(b"clear",))
    masked = lane.masked
    lane.masked = lambda item, blob: masked(item, blob)[: -1 if item.silo == "s01" else None]
    with pytest.raises(SiloError, match=r"silo 's01'.*1 outputs, and not 2"):
        await lane.session().run_stage(lane.work())


async def test_element_beyond_its_modulus_is_not_added():
    lane = MaskedLane(3)
    masked = lane.masked

    def spoilt(item, request):
        outputs = masked(item, request)
        if item.silo == "s01":
            values = bytearray(outputs[-1])
            values[-2 * 7 * 8 : -7 * 8] = b"\xff" * 7 * 8  # the third ring, of a modulus
            return [bytes(values)]
        return outputs

    lane.masked = spoilt
    with pytest.raises(SiloError, match=r"silo 's01'.*not below its modulus"):
        await lane.session().run_stage(lane.work())


async def test_silos_without_mask_key_are_named_before_work_is_sent():
    lane = MaskedLane(4)
    members = [dataclasses.replace(one, mask_key="") if one.name in ("s01", "s03") else one for one in lane.members]
    await refused(lane, "silos 's01', 's03' take part in no masked sums.*roster", members=members)


async def test_two_silos_are_too_few():
    lane = MaskedLane(3)
    await refused(lane, r"over 2 silos, where at least 3.*min_silos=3", members=lane.members[:2])


async def test_silo_whose_key_the_coordinator_does_not_know_is_named():
    lane = MaskedLane(3)
    known = {name: key for name, key in lane.silos.roster.items() if name != "s01"}
    await refused(lane, "key of silo 's01' is not known", silo_keys=known)


async def test_mask_key_that_its_silo_has_not_signed_is_refused():
    lane = MaskedLane(3)
    await refused(lane, "'s01' has not signed", silo_keys=lane.silos.roster | {"s01": Identity.generate().public})


async def test_silo_that_masked_for_the_same_stage_refuses():
    lane = MaskedLane(3)
    await lane.session().run_stage(lane.work())
    lane.replies.clear()
    with pytest.raises(SiloError, match="has masked for this stage before"):
        await lane.session().run_stage(lane.work())
