"""Silos drop out of a masked sum at each step: the sum is exactly that of the named participants, or nothing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.errors import MaskingError, SiloError, StragglerTimeout
from fedbroker.masking.offers import Offer, threshold_of
from fedbroker.masking.steps import Refusal, encode_step
from fedbroker.masking.survivors import Revealed
from fedbroker.session import dropout_rounds
from fedbroker.session.ports import LateJoiner
from fedbroker.session.stage_state import Policy
from fedbroker.wire.messages import Failed, MaskReply
from tests.support.masked_silos import INCARNATION, MaskedLane, totals
from tests.support.masking import summed

DROP = Policy("drop", 1)
SOON = Policy("drop", 1, grace=0.05)
"""Closes each step shortly after enough silos have answered."""

STEPS = ("offer", "reply", "signature", "shares")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(dropout_rounds, "FIRST_REPEAT", 0.02)
    monkeypatch.setattr(dropout_rounds, "UNMASKING_SECONDS", 0.5)


@given(st.integers(3, 10), st.data())
@settings(max_examples=60)
def test_sum_is_exactly_that_of_the_participants(count, data):
    lane = MaskedLane(count, clear=(b"clear",))
    lane.delays = {name: data.draw(st.integers(0, 12)) for name in lane.names}
    spare = count - threshold_of(count)
    lost = data.draw(st.lists(st.sampled_from(lane.names), unique=True, max_size=spare))
    lane.lost = {silo: data.draw(st.sampled_from(STEPS)) for silo in lost}
    work = lane.work()
    participants = asyncio.run(lane.run(work, policy=SOON))
    assert participants == tuple(name for name in lane.names if lane.lost.get(name) not in ("offer", "reply"))
    assert totals(work) == summed(participants)
    assert work.merges.outputs == {name: [b"clear"] for name in participants}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("lost", range(3))
async def test_silos_lost_at_each_step(step, lost):
    lane = MaskedLane(7)  # a threshold of five
    lane.lost = dict.fromkeys(lane.names[:lost], step)
    work = lane.work()
    session = lane.session(policy=SOON)
    events = []
    session.recorder.listeners = [events.append]
    participants = await session.run_stage(work)
    await lane.close()
    assert participants == lane.names[lost if step in ("offer", "reply") else 0 :]
    assert totals(work) == summed(participants)
    assert session.recorder.report.stages[0].participants == participants
    assert set(session.recorder.report.dropped.values()) <= {"late"}
    masking = session.recorder.report.stages[0].masking
    assert (masking.members, masking.threshold) == (lane.names, 5)
    assert masking.seconds > 0
    assert "masked sums in client stage 0: 5 of 7 silos needed" in str(session.recorder.report)
    assert [event.name for event in events if event.name == "masks_removed"] == ["masks_removed"]
    assert set(lane.ended) == set(lane.names) - set(participants)


@pytest.mark.parametrize("step", ["offer", "reply"])
async def test_too_few_silos_before_the_sum_end_the_stage_by_name(step):
    lane = MaskedLane(7)
    lane.lost = dict.fromkeys(lane.names[:3], step)
    with pytest.raises(StragglerTimeout) as caught:
        await lane.run(lane.work(), policy=DROP, stage_timeout=0.4)
    assert set(lane.names[:3]) <= set(caught.value.silos)


@pytest.mark.parametrize(("step", "words"), [("signature", "signed who takes part"), ("shares", "sent their shares")])
async def test_too_few_silos_while_unmasking_end_the_stage_by_name(step, words):
    lane = MaskedLane(7)
    lane.lost = dict.fromkeys(lane.names[:3], step)
    session = lane.session(policy=SOON)
    with pytest.raises(StragglerTimeout, match=rf"4 silos have {words}, 5 are needed.*'s00', 's01', 's02'") as caught:
        await session.run_stage(lane.work())
    await lane.close()
    assert caught.value.silos == lane.names[:3]
    assert caught.value.retryable


async def test_lost_notices_are_sent_again():
    lane = MaskedLane(3)
    lane.dropped_notices = 2
    work = lane.work()
    assert await lane.run(work, policy=DROP) == lane.names
    assert totals(work) == summed(lane.names)


async def test_answers_that_come_before_a_notice_is_confirmed_count(monkeypatch):
    monkeypatch.setattr(dropout_rounds, "FIRST_REPEAT", 10.0)
    lane = MaskedLane(3)
    lane.slow_notices = 200
    work = lane.work()
    async with asyncio.timeout(5):
        assert await lane.run(work, policy=DROP) == lane.names


async def test_stage_goes_on_without_silos_that_make_no_offer_in_its_first_part():
    lane = MaskedLane(4)
    lane.lost = {"s03": "offer"}
    work = lane.work()
    assert await lane.run(work, policy=DROP, stage_timeout=0.8) == lane.names[:3]
    assert totals(work) == summed(lane.names[:3])


async def test_quorum_above_the_threshold_is_awaited():
    lane = MaskedLane(5)  # a threshold of four
    lane.lost = {"s00": "offer"}
    with pytest.raises(StragglerTimeout):
        await lane.run(lane.work(), policy=Policy("drop", 5, grace=0.0), stage_timeout=0.2)


async def test_quorum_below_the_threshold_is_raised():
    lane = MaskedLane(5)
    work = lane.work()
    session = lane.session(policy=Policy("drop", 2, grace=0.0))
    participants = await session.run_stage(work)
    await lane.close()
    assert len(participants) >= 4
    assert totals(work) == summed(participants)
    assert session.recorder.report.stages[0].needed == 4


async def test_failed_silo_is_dropped_without_waiting():
    lane = MaskedLane(4)
    reply = lane.reply

    async def fail(item):
        if item.silo == "s02":
            return Failed(item.session_id, item.stage, item.silo, INCARNATION, "data", "no such table")
        return await reply(item)

    lane.reply = fail
    work = lane.work()
    assert await lane.run(work, policy=DROP) == ("s00", "s01", "s03")
    assert totals(work) == summed(("s00", "s01", "s03"))


async def test_late_joiner_does_not_replace_a_silo_of_a_masked_sum():
    lane = MaskedLane(4)
    lane.lost = {"s03": "offer"}
    work = lane.work(enlist=lambda *_: LateJoiner((), 1))
    assert await lane.run(work, policy=Policy("replace", 1, grace=0.05)) == lane.names[:3]


# --- silos that lie ---


async def test_silo_whose_offer_is_not_signed_is_dropped_and_named():
    lane = MaskedLane(4)
    lane.changed["s01", "offer"] = encode_step(Offer(bytes(32), bytes(32), bytes(64), {}))
    work = lane.work()
    session = lane.session(policy=DROP)
    assert await session.run_stage(work) == ("s00", "s02", "s03")
    await lane.close()
    assert totals(work) == summed(("s00", "s02", "s03"))
    (report,) = [silo for silo in session.recorder.report.stages[0].silos if silo.silo == "s01"]
    assert (report.outcome, report.why) == ("refused", "silo 's01' has not signed its stage key")


@pytest.mark.parametrize("content", [b"", b"\xc1", encode_step({"s00": 1}), encode_step(b"1")])
@pytest.mark.parametrize("step", ["offer", "signature", "shares", "refused"])
async def test_message_that_cannot_be_read_is_of_no_effect_on_the_others(step, content):
    lane = MaskedLane(4)
    lane.changed["s01", step] = content
    lane.refusals = {("s01", "survivors"): "no"} if step == "refused" else {}
    work = lane.work()
    participants = await lane.run(work, policy=DROP)
    assert participants == (lane.names if step != "offer" else ("s00", "s02", "s03"))
    assert totals(work) == summed(participants)


async def test_too_many_invalid_signatures_end_the_stage_at_once():
    lane = MaskedLane(4)
    lane.changed = {(silo, "signature"): encode_step(bytes(64)) for silo in ("s01", "s02")}
    with pytest.raises(SiloError, match=r"silo 's01' has not signed these survivors"):
        async with asyncio.timeout(10):
            await lane.run(lane.work(), policy=DROP)


@pytest.mark.parametrize(("step", "doing"), [("survivors", "sign who takes part"), ("unmask", "send its shares")])
async def test_refused_step_ends_the_stage_at_once_if_too_few_are_left(step, doing, monkeypatch):
    monkeypatch.setattr(dropout_rounds, "UNMASKING_SECONDS", 300.0)
    lane = MaskedLane(4)
    lane.refusals = {(silo, step): "a masked sum over 3 silos\x1b[31m" for silo in ("s01", "s03")}
    session, events = lane.session(policy=DROP), []
    session.recorder.listeners = [events.append]
    with pytest.raises(SiloError) as caught:
        async with asyncio.timeout(10):
            await session.run_stage(lane.work())
    await lane.close()
    error = caught.value
    assert (error.silo, error.stage, error.session, error.retryable) == ("s01", 0, "s", True)
    assert f"it refused to {doing}: a masked sum over 3 silos\\x1b[31m" in str(error)
    assert "2 silos have" in str(error)
    assert "3 are needed" in str(error)
    assert error.hint == "a hint"
    failed = [(event.silo, event.stage) for event in events if event.name == "masking_failed"]
    assert sorted(failed) == [("s01", 0), ("s03", 0)]


@pytest.mark.parametrize("step", ["survivors", "unmask"])
async def test_refused_step_of_one_silo_changes_nothing_for_the_others(step):
    lane = MaskedLane(4)
    lane.refusals = {("s01", step): "no"}
    work = lane.work()
    assert await lane.run(work, policy=DROP) == lane.names
    assert totals(work) == summed(lane.names)


async def test_silo_that_refuses_the_list_of_those_that_share_is_dropped_and_named():
    lane = MaskedLane(4)
    with_dropouts = lane.with_dropouts

    async def refuse(item, request):
        if item.silo == "s01":
            lane.lost = {"s01": "reply"}
            content = encode_step(Refusal("sharing", "the coordinator names other silos", "a hint"))
            lane.handler(MaskReply(item.session_id, item.stage, "s01", INCARNATION, "refused"), content)
        return await with_dropouts(item, request)

    lane.with_dropouts = refuse
    session = lane.session(policy=DROP)
    work = lane.work()
    assert await session.run_stage(work) == ("s00", "s02", "s03")
    await lane.close()
    (report,) = [silo for silo in session.recorder.report.stages[0].silos if silo.silo == "s01"]
    assert report.outcome == "refused"
    assert report.why == "it refused to share the stage: the coordinator names other silos"


async def test_wrong_share_of_one_silo_is_left_out():
    lane = MaskedLane(4)
    reveal_wrongly(lane, "s00")
    work = lane.work()
    assert await lane.run(work, policy=DROP) == lane.names
    assert totals(work) == summed(lane.names)


async def test_dealer_whose_shares_do_not_fit_is_named():
    lane = MaskedLane(4)
    reveal_wrongly(lane, "s00", "s02")
    with pytest.raises(MaskingError, match="shares of silo 's03' do not fit"):
        await lane.run(lane.work(), policy=DROP)


def reveal_wrongly(lane, *silos):
    """Let silos reveal a wrong share of the seed of s03."""
    step = lane.step

    async def wrong(item, name, content):
        if name == "shares" and item.silo in silos:
            content = Revealed({**content.seeds, "s03": bytes(33)}, content.keys)
        await step(item, name, content)

    lane.step = wrong


async def test_reply_before_the_silos_are_known_is_refused():
    lane = MaskedLane(4)
    with_dropouts = lane.with_dropouts

    async def early(item, request):
        if item.silo == "s01":
            return lane.packed(lane.values(item.silo))
        return await with_dropouts(item, request)

    lane.with_dropouts = early
    work = lane.work()
    assert await lane.run(work, policy=DROP) == ("s00", "s02", "s03")
    assert totals(work) == summed(("s00", "s02", "s03"))


async def test_message_of_another_incarnation_is_ignored():
    lane = MaskedLane(4)
    step = lane.step

    async def other(item, name, content):
        lane.handler(MaskReply(item.session_id, item.stage, item.silo, "i2", name), encode_step(content))
        lane.handler(MaskReply(item.session_id, item.stage, "s99", INCARNATION, name), encode_step(content))
        await step(item, name, content)

    lane.step = other
    work = lane.work()
    assert await lane.run(work, policy=DROP) == lane.names
    assert totals(work) == summed(lane.names)
