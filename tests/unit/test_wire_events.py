"""Events on the wire: they come back as they were, and no bytes do harm."""

from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbroker.errors import WireError
from fedbroker.text import printable
from fedbroker.wire import events
from fedbroker.wire.events import MAX_EVENTS, CohortEvent, decode_events, encode_events

NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9_-]{0,20}\Z")
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)
EVENTS = st.builds(
    CohortEvent,
    cohort=NAMES,
    coordinator=NAMES,
    sequence=st.integers(0, 2**60),
    time=st.floats(0, 2e9),
    name=st.sampled_from(["silo_answered", "run_started"]),
    session=NAMES | st.just(""),
    stage=st.none() | st.integers(0, 100),
    silo=NAMES | st.just(""),
    details=st.dictionaries(TEXTS, VALUES, max_size=4),
)
EVENT = CohortEvent(cohort="airports", coordinator="c-1", sequence=0, time=1.0, name="silo_dropped")


@settings(max_examples=30)
@given(st.lists(EVENTS, max_size=5))
def test_events_come_back_as_they_were(sent: list[CohortEvent]) -> None:
    assert decode_events(encode_events(sent)) == sent


@given(
    st.binary(max_size=200) | st.recursive(VALUES, lambda inner: st.lists(inner)).map(lambda v: json.dumps(v).encode())
)
def test_other_bytes_are_no_events(body: bytes) -> None:
    seen: list[CohortEvent] = []
    with contextlib.suppress(WireError):
        seen = decode_events(body)
    assert seen == []


@settings(max_examples=50)
@given(st.text(max_size=3000))
def test_every_text_is_printable_and_short(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    (seen,) = decode_events(
        encode_events([msgspec.structs.replace(EVENT, details={"why": text, "members": [text], text: 1})])
    )
    shown = printable(text, events.MAX_TEXT)
    assert seen.details["why"] == shown
    assert seen.details["members"] == [shown]
    assert shown in seen.details


def test_numbers_that_are_none_are_left_out() -> None:
    body = encode_events([EVENT]).replace(b'"details":{}', b'"details":{"metrics":{"loss":1e999}}')
    with pytest.raises(WireError, match="out of range"):
        decode_events(body)
    (seen,) = decode_events(encode_events([msgspec.structs.replace(EVENT, details={"loss": float("nan")})]))
    assert seen.details == {"loss": None}


@pytest.mark.parametrize(
    "fields",
    [
        {"cohort": "a.b"},
        {"cohort": "<b>"},
        {"coordinator": ""},
        {"session": "\x1b[31m"},
        {"silo": "*"},
        {"name": "Silo Dropped"},
        {"sequence": -1},
        {"time": -1.0},
        {"details": {"a": [[[[[1]]]]]}},
    ],
)
def test_identifiers_have_a_grammar_and_details_a_depth(fields: dict[str, object]) -> None:
    with pytest.raises(WireError):
        decode_events(encode_events([msgspec.structs.replace(EVENT, **fields)]))


def test_size_and_number_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WireError, match="length <= 100"):
        decode_events(encode_events([EVENT] * (MAX_EVENTS + 1)))
    with pytest.raises(WireError, match="cannot be encoded"):
        encode_events([msgspec.structs.replace(EVENT, details={"a": object()})])
    body = encode_events([EVENT])
    monkeypatch.setattr(events, "MAX_BYTES", len(body) - 1)
    with pytest.raises(WireError, match="limit"):
        encode_events([EVENT])
    with pytest.raises(WireError, match="more than"):
        decode_events(body)
