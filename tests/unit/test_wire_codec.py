"""Laws of the codec: written messages are read back, and reading raises only WireError."""

from __future__ import annotations

import dataclasses

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedbroker.errors import WireError
from fedbroker.text import LONGEST, is_printable, printable
from fedbroker.wire import DEFAULT_LIMITS, Frame, decode, encode
from fedbroker.wire import messages as m
from fedbroker.wire.messages import NAME
from tests.support.message_bytes import message_body as framed

words = st.text(max_size=20).map(printable)
names = st.from_regex(NAME, fullmatch=True)
ids = names | st.just("")
counts = st.integers(0, 2**31)
seconds = st.floats(0, 1e9, allow_nan=False)
digests = st.text("0123456789abcdef", min_size=32, max_size=32)

ops = st.one_of(
    st.builds(m.Value, counts, digests),
    st.builds(m.Data, counts, words, st.lists(st.tuples(words, words), max_size=3).map(tuple), st.booleans()),
    st.builds(m.Struct, counts, st.lists(st.tuples(words, counts), max_size=3).map(tuple)),
    st.builds(m.Select, counts, counts, counts),
    st.builds(m.Call, counts, counts, st.none() | counts),
    st.builds(m.Compute, counts),
    st.builds(m.Drop, st.lists(counts, max_size=3).map(tuple)),
)
columns = st.builds(m.Column, words, words, st.lists(st.none() | counts, max_size=3).map(tuple))
sources = st.builds(m.Source, st.lists(columns, max_size=3).map(tuple), st.none() | counts, counts)
messages = st.one_of(
    st.builds(m.Announce, names, names, ids, seconds, st.dictionaries(words, sources, max_size=2), words),
    st.builds(m.Leave, names, names, ids),
    st.builds(m.Accepted, names, names, ids),
    st.builds(m.Rejected, names, names, ids, words, st.tuples(seconds, seconds), st.booleans()),
    st.builds(
        m.WorkItem,
        *(names, counts, names, names, counts, st.lists(ops, max_size=5).map(tuple)),
        *(st.dictionaries(digests, counts, max_size=3), seconds, seconds, st.booleans()),
    ),
    st.builds(m.Done, names, counts, names, ids, st.lists(st.tuples(digests, counts), max_size=3).map(tuple), seconds),
    st.builds(
        *(m.Failed, names, counts, names, ids),
        *(st.sampled_from(["data", "computation", "lost", "refused", "timeout"]), words, words),
    ),
    st.builds(m.Need, names, counts, names, ids, st.lists(digests, max_size=3).map(tuple)),
    st.builds(m.EndSession, names, ids),
)
attachments = st.lists(st.binary(max_size=50), max_size=3)
frames = st.one_of(
    st.tuples(messages, attachments),
    st.tuples(
        st.builds(m.Chunk, digests, counts, counts, st.sampled_from(["", "zstd"])),
        st.lists(st.binary(max_size=50), min_size=1, max_size=1),
    ),
)


def read(body: bytes) -> Frame | None:
    """Return the frame, or None for a WireError; any other exception fails the test."""
    try:
        return decode(body)
    except WireError as error:
        lines = str(error).splitlines()
    assert len(lines) == 1
    return None


def crafted(header: object, rest: bytes = b"", *, packed: bytes | None = None) -> bytes:
    """Return a body with a valid prefix and checksum around any header."""
    return framed(msgpack.packb(header) if packed is None else packed, rest)


@given(frames)
def test_written_message_is_read_back(frame: tuple[m.Message, list[bytes]]) -> None:
    message, bodies = frame
    read_message, views = decode(encode(message, bodies))
    assert read_message == message
    assert type(read_message) is type(message)
    assert [bytes(view) for view in views] == bodies
    assert all(view.readonly for view in views)


@given(frames, st.data())
def test_truncated_message_is_a_wire_error(frame: tuple[m.Message, list[bytes]], data: st.DataObject) -> None:
    body = encode(*frame)
    assert read(body[: data.draw(st.integers(0, len(body) - 1))]) is None


@given(frames, st.data(), st.integers(1, 255))
def test_changed_byte_is_a_wire_error_or_has_no_effect(
    frame: tuple[m.Message, list[bytes]], data: st.DataObject, flip: int
) -> None:
    body = bytearray(encode(*frame))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= flip
    found = read(bytes(body))
    assert found is None or found.message == frame[0]
    if at < len(body) - sum(map(len, frame[1])):
        assert found is None


@given(frames, st.binary(min_size=1, max_size=9))
def test_trailing_bytes_are_a_wire_error(frame: tuple[m.Message, list[bytes]], rest: bytes) -> None:
    assert read(encode(*frame) + rest) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_wire_error(body: bytes) -> None:
    assert read(body) is None


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | words | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.integers(0, 5), inner, max_size=4),
    max_leaves=10,
)


@given(json)
@example([{"type": "leave", "cohort": "c", "silo": "s", "incarnation": "i"}, [-1]])
@example([{"type": "leave", "cohort": "c", "silo": "s", "incarnation": "i"}, [2**63]])
@example([{"type": "leave", "cohort": "c", "silo": 7, "incarnation": "i"}, []])
@example([{"type": "invade", "cohort": "c"}, []])
@example([{"type": []}, []])
@example([{"type": "end", "session_id": "s"}, []][:1])
def test_header_of_another_shape_is_a_wire_error(header: object) -> None:
    assert read(crafted(header)) is None


@given(st.binary(max_size=100))
@example(b"\x91" * 4000)  # deeper than any stack
@example(b"\xdd\xff\xff\xff\xff")  # an array of four billion
@example(b"\xdb\xff\xff\xff\xff")  # a string of four billion
@example(b"\xc7\x08\xff" + b"\0" * 8)  # a timestamp
@example(b"\xa1\xff")  # not UTF-8
@example(b"\x81\x90\x00")  # an unhashable key
def test_header_of_any_bytes_is_a_wire_error(packed: bytes) -> None:
    assert read(crafted(None, packed=packed)) is None


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "0 bytes"),
        (b"GET / HTTP/1.1\r\nHost: example\r\n", "not a fedbroker message"),
        (b"FB\x09\x00" + b"\0" * 40, "version 9"),
        (b"FB\x02\x01" + b"\0" * 40, "not a fedbroker message"),
        (b"FB\x02\x00\xff\xff\xff\xff" + b"\0" * 40, "header is 4294967295"),
    ],
)
def test_errors_name_the_problem(body: bytes, words: str) -> None:
    with pytest.raises(WireError, match=words) as caught:
        decode(body)
    assert caught.value.hint


def test_ops_in_a_header_keep_their_types() -> None:
    found = decode(crafted([{"type": "end", "session_id": "s"}, []])).message
    assert found == m.EndSession("s")


NAN = float("nan")
ITEM = m.WorkItem("s", 1, "ewr", "k", 1, (), {}, 1.0, 1.0, True)


@pytest.mark.parametrize(
    "message",
    [
        m.Announce("c", "s", "i", NAN),
        m.Rejected("c", "s", "i", "why", (NAN, 1.0)),
        m.Announce("c", "s", "i", 1.0, in_flight=-1),
        m.Announce("c", "s", "i", -1.0),
        m.Announce("c", "s", "i", 1.0, {"rows": m.Source((), -1)}),
        m.Announce("c", "s", "i", 1.0, {"rows": m.Source((), 1, -1)}),
        m.WorkItem("s", 1, "ewr", "k", 1, (), {}, float("inf"), 1.0, True),
        m.WorkItem("s", -1, "ewr", "k", 1, (), {}, 1.0, 1.0, True),
        m.WorkItem("s", 1, "ewr", "k", 1, (), {"d": -5}, 1.0, 1.0, True),
        m.Done("s", 1, "ewr", "i", (("d", -1),), 1.0),
        m.Chunk("d", -1, 0),
    ],
)
def test_senseless_numbers_are_wire_errors(message: m.Message) -> None:
    assert read(encode(message, [b"x"] if isinstance(message, m.Chunk) else [])) is None


def item(operations: int) -> m.WorkItem:
    return m.WorkItem("s", 1, "ewr", "k", 1, (m.Compute(1),) * operations, {}, 1.0, 1.0, True)


def test_limits_hold_at_their_edges() -> None:
    exact = len(encode(m.EndSession("s"), [b"x" * 100]))
    at_edge = dataclasses.replace(DEFAULT_LIMITS, max_message=exact)
    below = dataclasses.replace(DEFAULT_LIMITS, max_message=exact - 1)
    body = encode(m.EndSession("s"), [b"x" * 100], at_edge)
    assert decode(body, at_edge).message == m.EndSession("s")
    with pytest.raises(WireError, match=f"message is {exact}, the limit is {exact - 1}"):
        encode(m.EndSession("s"), [b"x" * 100], below)
    with pytest.raises(WireError, match="the limit is"):
        decode(body, below)


@pytest.mark.parametrize(
    ("field", "largest", "message", "bodies"),
    [
        ("max_ops", 20, item(20), []),
        ("max_attachments", 2, m.EndSession("s"), [b"a", b"b"]),
        (
            "max_header",
            len(msgpack.packb([{"type": "end", "session_id": "s", "incarnation": ""}, []])),
            m.EndSession("s"),
            [],
        ),
    ],
)
def test_each_limit_applies_to_writer_and_reader(
    field: str, largest: int, message: m.Message, bodies: list[bytes]
) -> None:
    fits = dataclasses.replace(DEFAULT_LIMITS, **{field: largest})
    short = dataclasses.replace(DEFAULT_LIMITS, **{field: largest - 1})
    body = encode(message, bodies, fits)
    assert decode(body, fits).message == message
    with pytest.raises(WireError):
        encode(message, bodies, short)
    with pytest.raises(WireError):
        decode(body, short)


def test_number_beyond_msgpack_is_a_wire_error() -> None:
    with pytest.raises(WireError, match="cannot be encoded"):
        encode(m.Need("s", 2**64, "ewr", "i", ()))


def test_chunk_has_one_attachment() -> None:
    with pytest.raises(WireError, match="2 attachments"):
        encode(m.Chunk("d", 2, 0), [b"a", b"b"])
    assert read(crafted([{"type": "chunk", "digest": "d", "size": 1, "offset": 0}, []])) is None


FAILED = m.Failed("s", 0, "ewr", "i", "data", "cause", "hint", "sources")
ODD = "a\x1b\r\n\t\x00\x9b\x7f\u2028\u202e\u2066\u200b\ufeff\u00ad\U000e0041\u3164 ü"
evil = st.text(st.sampled_from(ODD), min_size=1)


@given(st.text(max_size=50) | evil, st.text(max_size=50) | evil)
@example("a" * 5000, "\x1b" * 5000)
def test_received_text_is_one_printable_line(cause: str, hint: str) -> None:
    message = decode(encode(msgspec.structs.replace(FAILED, cause=cause, hint=hint))).message
    assert isinstance(message, m.Failed)
    for text, said in ((message.cause, cause), (message.hint, hint)):
        assert is_printable(text)
        assert len(text) <= LONGEST
        assert text == printable(said)


@given(evil.filter(lambda text: not is_printable(text)))
def test_unprintable_identifier_is_refused(evil: str) -> None:
    for message in (
        msgspec.structs.replace(FAILED, session_id=evil),
        msgspec.structs.replace(FAILED, silo=evil),
        msgspec.structs.replace(FAILED, incarnation=evil),
        msgspec.structs.replace(FAILED, rule=evil),
        m.Need("s", 0, "ewr", "i", (evil,)),
        m.EndSession("s", evil),
        m.Rejected(evil, "ewr", "i", "", (0.0, 1.0)),
        m.WorkItem("s", 0, "ewr", evil, 1, (), {}, 1.0, 1.0, True),
        m.WorkItem("s", 0, "ewr", "c", 1, (m.Value(0, evil),), {}, 1.0, 1.0, True),
        m.WorkItem("s", 0, "ewr", "c", 1, (), {evil: 1}, 1.0, 1.0, True),
        m.WorkItem("s", 0, "ewr", "c", 1, (), {}, 1.0, 1.0, True, content_key=evil),
    ):
        assert read(encode(message)) is None


def test_name_of_a_computation_is_one_line_of_bounded_length() -> None:
    def named(name: str) -> m.WorkItem | None:
        found = read(encode(msgspec.structs.replace(ITEM, computation=name)))
        assert found is None or isinstance(found.message, m.WorkItem)
        return None if found is None else found.message

    assert named("") == ITEM
    assert named("mean\x1b[2J") == msgspec.structs.replace(ITEM, computation="mean\\x1b[2J")
    assert named("n" * m.MAX_COMPUTATION_NAME) is not None
    assert named("n" * (m.MAX_COMPUTATION_NAME + 1)) is None
    old = {key: value for key, value in msgspec.to_builtins(ITEM).items() if key != "computation"}
    assert decode(crafted([old, []])).message == ITEM


def test_source_names_that_look_the_same_are_refused() -> None:
    source = m.Source(())
    assert read(encode(m.Announce("c", "ewr", "i", 5.0, {"a\x1b": source}))) is not None
    assert read(encode(m.Announce("c", "ewr", "i", 5.0, {"a\x1b": source, "a\\x1b": source}))) is None


def test_unprintable_struct_field_is_not_sent() -> None:
    ops = (m.Struct(1, (("größe\u00a0(cm)", 0),)), m.Struct(2, (("a\x1b", 0),)))
    item = m.WorkItem("s", 0, "ewr", "c", 1, ops, {}, 1.0, 1.0, True)
    with pytest.raises(WireError, match=r"field is named 'a.+x1b'"):
        encode(item)
    fine = msgspec.structs.replace(item, ops=ops[:1])
    assert decode(encode(fine)).message == fine
