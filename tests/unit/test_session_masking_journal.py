"""A coordinator is killed in a masked stage and started again: the sum is over the same silos, and nothing twice."""

from __future__ import annotations

import asyncio
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.errors import MaskingError, StragglerTimeout
from fedbroker.masking.offers import threshold_of
from fedbroker.session import dropout_rounds
from fedbroker.session.journal import Journal
from fedbroker.session.stage_state import Policy
from tests.support.masked_silos import SESSION, MaskedLane, totals
from tests.support.masking import summed

FAIL, DROP = Policy(), Policy("drop", 1, grace=0.05)
PRINT = "print"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(dropout_rounds, "FIRST_REPEAT", 0.02)
    monkeypatch.setattr(dropout_rounds, "UNMASKING_SECONDS", 0.5)


def begin(lane, directory):
    journal = Journal(directory)
    return journal, journal.begin(PRINT, SESSION, lane.members, dict.fromkeys(lane.names, 1))


async def killed(lane, directory, policy, turns):
    """Run a stage until the event loop has turned so often, and leave the journal as a killed process does."""
    journal, record = begin(lane, directory)
    running = asyncio.create_task(lane.session(policy=policy, journal=record).run_stage(lane.work()))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    journal.close()


async def resumed(lane, directory, policy, work):
    """Run the stage again with a new process's journal."""
    journal = Journal(directory)
    record = journal.take(PRINT)
    try:
        session = lane.session(policy=policy, journal=record, members=record.members)
        return await session.run_stage(work), record
    finally:
        journal.close()


@pytest.mark.parametrize("policy", [FAIL, DROP])
@given(st.integers(3, 6), st.integers(0, 120), st.integers(0, 120), st.data())
@settings(max_examples=40)
def test_sum_after_kills_at_any_time_is_exact(policy, count, first, second, data):
    async def run():
        lane = MaskedLane(count, clear=(b"clear",))
        lane.delays = {name: data.draw(st.integers(0, 12)) for name in lane.names}
        if policy is DROP:
            lost = data.draw(st.lists(st.sampled_from(lane.names), unique=True, max_size=count - threshold_of(count)))
            lane.lost = {silo: data.draw(st.sampled_from(("reply", "signature", "shares"))) for silo in lost}
        with tempfile.TemporaryDirectory() as directory:
            await killed(lane, directory, policy, first)
            work = lane.work()
            participants, _ = await resumed(lane, directory, policy, work)
            assert totals(work) == summed(participants)
            assert set(participants) >= {name for name in lane.names if lane.lost.get(name) != "reply"}
            later = lane.work()  # killed again in a later stage: this one is repeated from its records
            lane.replies.clear()
            assert (await resumed(lane, directory, policy, later))[0] == participants
            assert totals(later) == totals(work)
            assert later.merges.outputs == work.merges.outputs
        await lane.close()

    asyncio.run(run())


async def test_survivors_after_a_kill_while_unmasking_are_the_same(tmp_path):
    lane = MaskedLane(4)
    lane.lost = {"s03": "reply"}
    journal, record = begin(lane, tmp_path)
    lane.dropped_notices = 10**6  # none arrives from the list of survivors on
    session = lane.session(policy=DROP, journal=record)

    async def lose_later(silo, notice, attachments):
        if notice.step == "sharing":
            lane.noticed[silo].put_nowait((notice, *attachments))

    send, lane.send_notice = lane.send_notice, lose_later
    with pytest.raises(StragglerTimeout, match="not removed"):
        await session.run_stage(lane.work())
    journal.close()
    lane.send_notice, lane.dropped_notices = send, 0
    lane.delays, lane.lost = {}, {}
    lane.replies["s03", 0].cancel()
    work = lane.work()
    participants, record = await resumed(lane, tmp_path, DROP, work)
    await lane.close()
    assert participants == tuple(record.participants(0)) == ("s00", "s01", "s02")
    assert totals(work) == summed(participants)


async def test_secrets_are_not_in_the_journal(tmp_path):
    lane = MaskedLane(4)
    journal, record = begin(lane, tmp_path)
    revealed = []
    step = lane.step

    async def watch(item, name, content):
        if name == "shares":
            revealed.append(content)
        await step(item, name, content)

    lane.step = watch
    await lane.session(policy=DROP, journal=record).run_stage(lane.work())
    await lane.close()
    journal.close()
    written = (tmp_path / f"{SESSION}.session").read_bytes()
    assert len(revealed) >= 3
    for shares in revealed:
        assert all(share not in written for share in (*shares.seeds.values(), *shares.keys.values()))


async def test_stage_of_other_work_is_not_resumed(tmp_path):
    lane = MaskedLane(3)
    await killed(lane, tmp_path, FAIL, 200)
    lane.replies.clear()
    with pytest.raises(MaskingError, match="was of other work") as caught:
        await resumed(lane, tmp_path, FAIL, lane.work(work=b"o" * 32))
    await lane.close()
    assert caught.value.retryable
