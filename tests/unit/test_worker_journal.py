"""The administrator's journal: bounded, without data, and with every work item's course and end."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from fedbroker_worker.control.views import WorkView
from fedbroker_worker.journal import journal as journal_module
from fedbroker_worker.journal.earlier import earlier_work
from fedbroker_worker.journal.entry import LEFT_IN_FULL
from fedbroker_worker.journal.journal import MOST_OPS, MOST_WORK, WorkJournal
from fedbroker_worker.policy.audit import AuditLog
from fedbroker_worker.policy.recording import first_line, last_line

from fedbroker.transport.signed_messages import UNSIGNED
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Call, Column, Compute, Data, Done, Failed, Need, Source, Value, WorkItem
from tests.support.worker import identity_computation

SECRET = "5e" * 32


OPS = (Data(1, "rows", (("#0", "float32"),)), Compute(1))


def item(number=0, computation="mean_delay", ops=OPS):
    return WorkItem(
        f"s{number}", 0, "ewr", "c", 2, tuple(ops), {}, 30.0, 60.0, True, content_key=SECRET, computation=computation
    )


def done(size=40, number=0):
    return Done(f"s{number}", 0, "ewr", "i", (("a" * 32, size),), 0.1)


def failed(kind="computation", cause="it failed", rule=""):
    return Failed("s0", 0, "ewr", "i", kind, cause, rule=rule)


def test_course_of_a_work_item():
    rows = Source((Column("delay", "float64"),), rows=3)
    journal = WorkJournal(names={"": "hospital"}, sources=lambda: {"rows": rows})
    function, value = identity_computation(), b"a value"
    calls = (*OPS, Value(2, digest_of(function)), Value(3, digest_of(value)), Call(4, 2, 3))
    entry = journal.received(item(ops=calls), UNSIGNED)
    assert entry.view().state == "received"
    entry.uses({digest_of(function): function, digest_of(value): value})
    assert journal.blobs_of(entry) == {digest_of(function): function}  # values are not kept
    assert entry.bytes_in == len(function) + len(value)
    entry.enter("computing")
    assert entry.view().explained
    entry.leaves(["sum of float32"], 1, 3)
    entry.ended(done())
    assert entry.is_running  # its outputs are on their way
    entry.sent()
    view = entry.view()
    assert (view.state, view.releases, view.masked, view.silos, view.bytes_out) == (
        "answered",
        ["sum of float32"],
        1,
        3,
        40,
    )
    assert view.reads[0].columns == ["delay: float32"]  # the name of the column at that position
    assert (view.computation, view.key_name, view.clients) == ("mean_delay", "hospital", 2)
    assert view.seconds is not None
    assert journal.outcomes == dataclasses.replace(journal.outcomes, answered=1, refused=0, failed=0, bytes_out=40)


@pytest.mark.parametrize(
    ("reply", "declined", "state"),
    [
        (failed("refused", rule="aggregates"), False, "refused"),
        (failed("refused"), False, "refused"),
        (failed("lost"), True, "refused"),
        (failed("lost"), False, "failed"),
        (failed("data"), False, "failed"),
        (Need("s0", 0, "ewr", "i", ("a" * 32,)), False, "lacking"),
    ],
)
def test_ends_of_a_work_item(reply, declined, state):
    journal = WorkJournal()
    entry = journal.received(item(), UNSIGNED)
    entry.leaves(["sum of float32"], 0, 0)
    entry.ended(reply, declined=declined)
    entry.sent()
    view = entry.view()
    assert view.state == state
    assert view.why
    if isinstance(reply, Failed):
        assert view.releases == []  # nothing of it left
    assert journal.outcomes.refused == (state == "refused")
    assert journal.outcomes.failed == (state == "failed")


def test_cancelled_work_says_why():
    journal = WorkJournal()
    for by_coordinator, state in ((True, "cancelled"), (False, "interrupted")):
        entry = journal.received(item(), UNSIGNED)
        entry.cancelled("stopped", by_coordinator=by_coordinator)
        assert (entry.view().state, entry.view().why) == (state, "stopped")


def test_text_that_may_quote_data_is_not_shown():
    """With ``error_detail = "full"`` the runtime's message leaves; a page is no place for it all the same."""
    for in_full, why in ((True, LEFT_IN_FULL), (False, "could not convert hugo")):
        entry = WorkJournal(errors_in_full=in_full).received(item(), UNSIGNED)
        entry.ended(failed(cause="could not convert hugo"))
        assert entry.view().why == why


def test_session_key_is_not_kept():
    journal = WorkJournal()
    entry = journal.received(item(), UNSIGNED)
    assert entry.item.content_key == ""
    assert SECRET not in repr(entry.view())


def test_hostile_texts_are_one_printable_line():
    entry = WorkJournal().received(item(computation="<b>\x1b[31m\u202e" + "x" * 150), UNSIGNED)
    entry.ended(failed(cause="a\nb" + "y" * 10_000))
    view = entry.view()
    assert (view.computation + view.why).isprintable()
    assert len(view.why) <= 300


def test_work_items_are_bounded():
    journal = WorkJournal()
    first = journal.received(item(0), UNSIGNED)  # still running: it is kept
    for number in range(1, 2 * MOST_WORK):
        journal.received(item(number), UNSIGNED).ended(failed())
    views, more = journal.since(-1, 10_000)
    assert len(views) == MOST_WORK
    assert not more
    assert first.id in {view.id for view in views}
    assert len(journal.received(item(ops=[Compute(1)] * 10_000), UNSIGNED).item.ops) == MOST_OPS


def test_kept_computations_are_bounded(monkeypatch):
    blob = identity_computation()
    monkeypatch.setattr(journal_module, "KEPT_BYTES", 3 * len(blob))
    monkeypatch.setattr(journal_module, "LARGEST_BLOB", len(blob))
    journal = WorkJournal()
    assert [journal.keep(f"{n:032x}", blob) for n in range(5)] == [True] * 5
    assert [journal.has([f"{n:032x}"]) for n in range(5)] == [False, False, True, True, True]
    assert not journal.keep("f" * 32, blob + b"\0")
    assert not journal.has([])


async def test_watcher_gets_each_change_once():
    journal = WorkJournal()
    entries = [journal.received(item(number), UNSIGNED) for number in range(3)]
    views, more = journal.since(-1, 2)
    assert [view.id for view in views] == [1, 2]
    assert more
    latest = journal.changed
    waiting = asyncio.create_task(journal.wait(latest, 30))
    await asyncio.sleep(0)
    assert not waiting.done()
    entries[1].enter("computing")
    await waiting
    assert [view.id for view in journal.since(latest, 10)[0]] == [2]
    await journal.wait(journal.changed, 0)  # returns at once
    await journal.wait(-1, 30)


def test_earlier_work_comes_from_the_audit_log(tmp_path):
    log = AuditLog(tmp_path / "audit.log")
    for number, reply in enumerate([done(), failed("refused", rule="sources"), failed(cause="hugo")]):
        begun = log.append(first_line(item(number), UNSIGNED))
        log.append(last_line(item(number), reply, [], UNSIGNED, begun, ["masked sum of int32[3] over 4 silos"]))
    log.append(first_line(item(9), UNSIGNED))
    log.append({"outcome": "torn", "bytes": 3, "text": "{}"})
    log.append({"outcome": "answered", "time": "yesterday"})
    found = earlier_work(log.recent(), {"": "hospital"}, errors_in_full=True)
    assert [(view.session, view.state) for view in found] == [
        ("s0", "answered"),
        ("s1", "refused"),
        ("s2", "failed"),
        ("s9", "begun"),
    ]
    assert [view.id for view in found] == [-4, -3, -2, -1]
    assert (found[0].masked, found[0].releases) == (1, ["masked sum of int32[3] over 4 silos"])
    assert (found[1].rule, found[1].key_name) == ("sources", "hospital")
    assert found[2].why == LEFT_IN_FULL
    assert not any(view.explained for view in found)
    journal = WorkJournal()
    journal.restore(found)
    assert journal.since(-1, 10)[0] == found
    assert journal.since(0, 10)[0] == []
    assert isinstance(found[0], WorkView)
