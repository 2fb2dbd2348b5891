"""Accepted messages: none is accepted twice while its copy is valid, for any number of messages."""

from __future__ import annotations

import pytest
from fedbroker_worker.errors import SettingsError
from fedbroker_worker.policy import accepted
from fedbroker_worker.policy.accepted import AcceptedFile
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import Forged
from fedbroker.trust.replays import Accepted, AcceptedMessages

LATER = 4e9


def message(number: int, by: str = "a", *, until: float = LATER) -> Accepted:
    return Accepted(by, f"{number:032x}", float(number), until)


@given(
    sent=st.lists(st.tuples(st.integers(0, 30), st.sampled_from("ab"), st.integers(1, 50)), max_size=60),
    most=st.integers(1, 8),
)
def test_no_valid_message_is_accepted_twice(sent, most):
    messages, done = AcceptedMessages(most), set()
    for now, (number, by, seconds) in enumerate(sent):
        # A copy has the same expiry, which is signed together with the nonce.
        one = Accepted(by, f"{by}{number}.{seconds}", float(number), number + seconds)
        if one.until < now:
            continue  # refused earlier because of its age
        try:
            new = not messages.accept(one, str(now), float(now))
        except Forged:
            continue
        assert new
        assert one not in done
        done.add(one)
        assert len(list(messages)) <= 2 * (most + 2)


@given(
    sent=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from("ab"), st.integers(1, 50), st.integers(0, 90), st.booleans())
    ),
    most=st.integers(1, 8),
)
def test_no_message_is_accepted_twice_if_the_clock_jumps(sent, most):
    messages, done = AcceptedMessages(most), set()
    for at, (number, by, seconds, now, restarted) in enumerate(sent):
        if restarted:
            before, messages = messages, AcceptedMessages(most)
            messages.restore(list(before), float(now))
        one = Accepted(by, f"{by}{number}.{seconds}", float(number), float(number + seconds))
        if one.until < now:
            continue
        try:
            new = not messages.accept(one, str(at), float(now))
        except Forged:
            continue
        assert new
        assert one not in done
        done.add(one)


@given(sent=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 50)), max_size=60, unique=True))
def test_no_new_message_is_refused_while_the_clock_advances(sent):
    messages = AcceptedMessages()
    for now, (number, seconds) in enumerate(sent):
        one = Accepted("a", f"{number}.{seconds}", float(number), float(number + seconds))
        if one.until >= now:
            assert messages.accept(one, str(now), float(now)) is False


def test_expired_message_is_not_accepted_after_the_clock_went_back(tmp_path):
    messages = AcceptedMessages()
    messages.accept(message(1, until=100.0), "id", 0)
    messages.accept(message(2000, until=2100.0), "id", 2000)  # the clock is ahead, and the first message is discarded
    with pytest.raises(Forged, match="a clock that was set back"):
        messages.accept(message(1, until=100.0), "copy", 2)
    messages.accept(message(3, until=103.0), "new", 3)
    file = AcceptedFile(tmp_path / "file")
    file.append(message(1, until=100.0))
    file.load()  # by the present clock
    restored = AcceptedMessages()
    restored.restore(file.load(), 2)
    with pytest.raises(Forged, match="a clock that was set back"):
        restored.accept(message(1, until=100.0), "copy", 2)


def test_redelivery_of_a_message_is_accepted():
    messages = AcceptedMessages()
    assert messages.accept(message(1), "id", 0) is False
    assert messages.accept(message(1), "id", 0) is True
    with pytest.raises(Forged, match="received again as another message"):
        messages.accept(message(1), "other", 0)


def test_signers_have_separate_limits():
    messages = AcceptedMessages(2)
    messages.accept(message(1, "a"), "id", 0)
    for number in range(2, 9):
        messages.accept(message(number, "b"), "id", 0)
    assert messages.accept(message(1, "a"), "id", 0) is True
    assert messages.accept(message(0, "a"), "id", 0) is False  # and does not affect the other's limit
    with pytest.raises(Forged, match="may be a replay"):
        messages.accept(message(1, "b"), "id", 0)


def test_file_keeps_unexpired_messages_over_restarts(tmp_path, monkeypatch):
    file = AcceptedFile(tmp_path / "airports.ewr.accepted")
    file.check()
    for number in range(3):
        file.append(message(number))
    file.append(message(9, until=10.0))  # long ago
    with file.path.open("a") as torn:
        torn.write("a 0000")
    restored = AcceptedMessages()
    restored.restore(AcceptedFile(file.path).load(), 0)
    expired = Accepted("a", "", 9.0, 10.0)
    assert list(restored) == [expired, *(message(number) for number in range(3))]
    assert len(file.path.read_text().splitlines()) == 4
    with pytest.raises(Forged):
        restored.accept(message(1), "any", 0)


def test_file_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(accepted, "COMPACTED_AT", 1000)
    file = AcceptedFile(tmp_path / "file")
    for number in range(200):
        file.append(message(number, until=10.0))
    assert file.path.stat().st_size < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_limit_is_kept_in_the_file(tmp_path):
    messages = AcceptedMessages(1)
    for number in (1, 2):
        messages.accept(message(number), "id", 0)
    file = AcceptedFile(tmp_path / "file")
    for entry in messages:
        file.append(entry)
    restored = AcceptedMessages()
    restored.restore(file.load(), 0)
    with pytest.raises(Forged, match="may be a replay"):
        restored.accept(message(1), "id", 0)


def test_unwritable_path_is_an_error_at_the_start(tmp_path):
    with pytest.raises(SettingsError, match="record of signed work"):
        AcceptedFile(tmp_path / "nowhere" / "file").check()
