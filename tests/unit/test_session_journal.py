"""A journal's contents after a kill at any position of a record."""

from __future__ import annotations

import os
import threading
import time

import msgpack
import pytest

from fedbroker.errors import JournalError
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.journal import Journal
from fedbroker.session.roster import Member
from fedbroker.wire.messages import Column, Source

MEMBERS = (Member("ewr", "1", {"rows": Source((Column("x", "float32"),), 3)}), Member("jfk", "2"))
CLIENTS = {"ewr": 1, "jfk": 2}


@pytest.fixture
async def written(tmp_path):
    """Return a journal whose process was killed, so that it was never closed."""
    journal = Journal(tmp_path)
    one = journal.begin("print", "s1", MEMBERS, CLIENTS)
    await one.record_sent(0, {"model": b"m"})
    await one.record_answer(0, "jfk", [b"a", memoryview(b"b")])
    await one.record_closed(0, ["jfk"])
    await one.record_answer(1, "jfk", [b"c"])
    journal.close()
    return tmp_path / "s1.session"


@pytest.fixture
def again(written):
    """Return the journal of the next process."""
    journal = Journal(written.parent)
    yield journal
    journal.close()


async def test_all_records_are_read_back(written, again):
    found = again.take("print")
    assert (found.session, found.members, found.clients) == ("s1", MEMBERS, CLIENTS)
    assert found.sent(0) == {"model": b"m"}
    assert found.answer(0, "jfk") == [b"a", b"b"]
    assert found.answer(0, "ewr") is None
    assert found.participants(0) == ["jfk"]
    assert found.participants(1) is None
    assert found.answer(1, "jfk") == [b"c"]
    found.forget()
    assert not written.exists()


async def test_orders_of_rows_are_read_back(tmp_path):
    journal = Journal(tmp_path)
    one = journal.begin("print", "s1", MEMBERS, CLIENTS)
    assert one.orders == {}
    await one.record_orders({"SiloData(name='rows', shuffle=True)": "a" * 32})
    journal.close()
    again = Journal(tmp_path)
    assert again.take("print").orders == {"SiloData(name='rows', shuffle=True)": "a" * 32}
    again.close()


async def test_mask_keys_and_capabilities_of_members_are_read_back(tmp_path):
    members = (
        Member("ewr", "1", mask_key="ab" * 32, mask_signature="cd" * 64),
        Member("jfk", "2", capabilities=("replay/1", "shuffle/1")),
    )
    journal = Journal(tmp_path)
    journal.begin("print", "s1", members, CLIENTS)
    journal.close()
    again = Journal(tmp_path)
    assert again.take("print").members == members
    again.close()


async def test_members_of_an_earlier_version_have_no_mask_keys_and_no_capabilities(tmp_path):
    record = ["session", "s1", "print", [["ewr", "1", {}], ["jfk", "2", {}]], CLIENTS]
    (tmp_path / "s1.session").write_bytes(msgpack.packb(record))
    journal = Journal(tmp_path)
    assert journal.take("print").members == (Member("ewr", "1"), Member("jfk", "2"))
    journal.close()


async def test_session_is_resumed_once_and_only_by_its_computation(again):
    assert again.take("another") is None
    assert again.take("print") is not None
    assert again.take("print") is None


async def test_complete_records_of_a_truncated_journal_are_read(written):
    content = written.read_bytes()
    for length in range(len(content)):
        written.write_bytes(content[:length])
        journal = Journal(written.parent)
        found = journal.take("print")
        if found is not None:
            assert found.members == MEMBERS
            assert found.answer(0, "jfk") in (None, [b"a", b"b"])
            assert found.answer(1, "jfk") in (None, [b"c"])
            assert found.participants(0) in (None, ["jfk"])
        else:
            assert not written.exists()
        journal.close()


async def test_garbage_and_old_records_are_discarded(written):
    old = time.time() - 2 * 86_400
    os.utime(written, (old, old))
    (written.parent / "s2.session").write_bytes(b"\xc1 nonsense")
    journal = Journal(written.parent)
    assert journal.take("print") is None
    assert list(written.parent.glob("*.session")) == []
    journal.close()


@pytest.mark.parametrize("error", [None, JournalError("journal", "the disk is full")])
async def test_files_are_written_and_removed_off_the_event_loop(tmp_path, monkeypatch, error):
    on_loop, loop_thread = [], threading.get_ident()
    journal = Journal(tmp_path)
    cohort = CoordinatorCohort("amqp://localhost/", "airports", journal=journal)

    def watched(call):
        def calling(*args, **kwargs):
            if threading.get_ident() == loop_thread:
                on_loop.append(args)
            return call(*args, **kwargs)

        return calling

    for name in ("open", "unlink"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    session = await cohort.session(MEMBERS, CLIENTS, 30.0, fingerprint="print")
    assert (tmp_path / f"{session.session_id}.session").exists()
    await session.close(error)
    assert (tmp_path / f"{session.session_id}.session").exists() == (error is not None)
    assert on_loop == []
    journal.close()


def refuse_unlink(path, missing_ok=False):
    raise PermissionError(13, "Permission denied", str(path))


async def test_ended_session_is_not_resumed_where_its_file_cannot_be_removed(again, written, monkeypatch):
    monkeypatch.setattr(type(written), "unlink", refuse_unlink)
    again.take("print").forget()
    monkeypatch.undo()
    again.close()
    following = Journal(written.parent)
    assert following.take("print") is None
    following.close()


async def test_file_that_can_be_neither_removed_nor_emptied_is_a_journal_error(again, written, monkeypatch):
    monkeypatch.setattr(type(written), "unlink", refuse_unlink)
    monkeypatch.setattr(os, "truncate", refuse_unlink)
    with pytest.raises(JournalError, match="Permission denied"):
        again.take("print").forget()
