"""Fuzz targets: functions of bytes. For any bytes, only a module's own error may be raised.

Each function returns whether its input was meaningful, so that a run can show that it tried more than noise.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgpack
import msgspec
import numpy as np
import tensorflow_federated as tff
from fedbroker_worker.cli.audit import rows
from fedbroker_worker.config import load
from fedbroker_worker.errors import SourceError, WorkRefused
from fedbroker_worker.policy.audit import read_audit
from fedbroker_worker.policy.values import parts
from fedbroker_worker.work.fusing import fuse
from fedbroker_worker.work.replay import replay

from fedbroker.context.values.codec import read
from fedbroker.context.values.validation import check_value
from fedbroker.errors import ComputationFailed, ConfigError, Forged, WireError
from fedbroker.graphs.reading import Unreadable, ops_of_computation, ops_of_graph
from fedbroker.runtime.values import fields
from fedbroker.text import LONGEST, is_printable, printable
from fedbroker.trust import Identity
from fedbroker.trust import envelope as envelopes
from fedbroker.trust.envelope import MessageContext, open_envelope, unverified_body
from fedbroker.wire import Assembler, Limits, decode, digest_of, encode
from fedbroker.wire.coding import decoded
from fedbroker.wire.messages import Chunk, Op, Value
from tests.fuzz.errors import one_line
from tests.fuzz.executor import Memory
from tests.fuzz.graphs import admits, edited
from tests.fuzz.masking import mask_step, masked, masking_request, roster
from tests.fuzz.mutation import Mutation, blind, spelt, structured, worded
from tests.support.message_bytes import message_body

LIMITS = Limits(max_header=1 << 15, max_ops=2000, max_attachments=64)
SMALL = Limits(max_blob=4096, min_chunk=8, max_pending_blobs=4, max_pending_bytes=8192, small_chunk=64, large_chunk=512)
PIECES = struct.Struct(">BBHHH")
MOST_PIECES = 64
WRITER, READER = Identity(b"w" * 32), Identity(b"r" * 32)
KNOWN = {WRITER.public.id: WRITER.public}
ABOUT = MessageContext("work", "airports", "ewr", "s1", 0)
NONCE = bytes(range(16))
CLIENTS = 2
ANSWERS = [
    tff.FederatedType(type_, placement)
    for type_ in (
        tff.TensorType(np.float32),
        tff.TensorType(np.float32, [3]),
        tff.TensorType(np.str_, [None]),
        tff.to_type([("a", np.int32), ("b", [tff.TensorType(np.bool_), tff.TensorType(np.float16, [2, None])])]),
    )
    for placement in (tff.SERVER, tff.CLIENTS)
]
SAID = (b"", b"a body", bytes(range(256)))
CONTENTS = [bytes((i * n) % 251 for i in range(n * 97)) for n in range(1, 6)]


@dataclass(frozen=True)
class Target:
    """A function to fuzz.

    Attributes:
        run: the function.
        share: its share of all executions.
        mutations: the mutations of its inputs.
    """

    run: Callable[[bytes], bool]
    share: int
    mutations: Sequence[Mutation]

    @property
    def name(self) -> str:
        return self.run.__name__


def message(data: bytes) -> bool:
    """Decode the body of a message."""
    try:
        frame = decode(data, LIMITS)
    except WireError as error:
        one_line(error)
        return False
    with contextlib.suppress(WireError):  # encoded again it may exceed the limit
        again = decode(encode(frame.message, frame.attachments, LIMITS), LIMITS)
        assert again.message == frame.message
        assert list(map(bytes, again.attachments)) == list(map(bytes, frame.attachments))
    return True


def header(data: bytes) -> bool:
    """Decode a message's header, with valid length and checksum."""
    return message(message_body(data))


def strings(data: bytes) -> bool:
    """Decode a message with valid length and checksum; all of its strings must be printable."""
    try:
        message = decode(message_body(data), LIMITS).message
    except WireError as error:
        one_line(error)
        return False
    for text in _strings(msgspec.to_builtins(message)):
        assert is_printable(text), repr(text)
        assert len(text) <= LONGEST
        assert printable(text) == text
    return True


def chunks(data: bytes) -> bool:
    """Assemble a stream of chunks of a few blobs."""
    assembler = Assembler(SMALL)
    whole = False
    for now, start in enumerate(range(0, min(len(data), MOST_PIECES * PIECES.size) - PIECES.size, PIECES.size)):
        which, kind, size, offset, length = PIECES.unpack_from(data, start)
        content = CONTENTS[which % len(CONTENTS)]
        honest = kind % 4
        piece = content[offset : offset + length] if honest else data[start : start + length % 600]
        chunk = Chunk(digest_of(content), len(content) if honest else size - 100, offset)
        try:
            blob = assembler.add(chunk, piece, float(now))
        except WireError as error:
            one_line(error)
            continue
        if blob is not None:
            assert digest_of(blob) == chunk.digest
            whole = True
        assert len(assembler) <= SMALL.max_pending_blobs
        assert 0 <= assembler.pending_bytes <= SMALL.max_pending_bytes
    assembler.sweep(float("inf"))
    assert (len(assembler), assembler.pending_bytes) == (0, 0)
    return whole


def piece(data: bytes) -> bool:
    """Decompress a chunk of a blob, preceded by the blob's size and the chunk's offset."""
    size, offset = struct.unpack(">qq", data[:16].ljust(16, b"\0"))
    try:
        content = decoded(Chunk("0" * 32, size, offset, "zstd"), data[16:], SMALL)
    except WireError as error:
        one_line(error)
        return False
    assert 0 < len(content) <= SMALL.large_chunk
    assert offset + len(content) <= size
    return True


def program(data: bytes) -> bool:
    """Run a work item's ops; a valid list of ops has the same outputs after it is shortened."""
    try:
        ops = msgspec.convert(msgpack.unpackb(data, strict_map_key=False), tuple[Op, ...])
    except Exception:
        return False  # the target `header` covers these
    blobs = {op.blob: op.blob.encode("utf-8", "replace") * (4096 if op.ref % 5 == 0 else 1) for op in _values(ops)}
    plain = _replayed(ops, blobs)
    shorter = [_replayed(fuse(ops, blobs, ends_session=last), blobs) for last in (True, False)]
    if isinstance(plain, str):
        return False
    assert shorter == [plain, plain]
    return True


def frames(data: bytes) -> bool:
    """Parse a message of the C++ runtime."""
    try:
        for _, content in fields(data):
            with contextlib.suppress(ValueError):
                list(fields(content))
    except ValueError as error:
        one_line(error)
        return False
    return True


def settings(data: bytes) -> bool:
    """Load a silo's settings."""
    path = _directory() / "silo.toml"
    path.write_bytes(data)
    try:
        loaded = load(path, {})
    except ConfigError as error:
        one_line(error)
        return False
    assert "hunter2" not in repr(loaded)
    return True


def envelope(data: bytes) -> bool:
    """Open a message in an envelope, as its reader and as an outsider."""
    with contextlib.suppress(WireError):
        unverified_body(data)
    try:
        opened = open_envelope(data, ABOUT, READER, KNOWN.get)
    except Forged as error:
        one_line(error)
        return "signature" in error.what  # it got as far as the signature
    assert bytes(opened.body) in SAID
    return True


def sealed(data: bytes) -> bool:
    """Open the contents of an envelope with a valid signature."""
    form = data[0] % 4 if data else 0
    head = envelopes._HEAD.pack(b"FS", 1, form, WRITER.public.id, READER.public.id, 0, NONCE)
    signature = WRITER.sign(envelopes._signed(ABOUT, head, data[1:]))
    try:
        open_envelope(head + data[1:] + signature, ABOUT, READER, KNOWN.get)
    except Forged as error:
        one_line(error)
        return False
    return True


def computation(data: bytes) -> bool:
    """Check a value by a silo's policy."""
    try:
        for kind, content in parts(data):
            (ops_of_computation if kind == "computation" else ops_of_graph)(content)
    except Unreadable as error:
        one_line(error)
        return False
    return True


def graph(data: bytes) -> bool:
    """Run a graph in TensorFlow if the filter of ops admits it."""
    return admits(data)


def answer(data: bytes) -> bool:
    """Check a silo's reply against one of a few types: TFF must be able to read an accepted one."""
    type_ = ANSWERS[data[0] % len(ANSWERS)] if data else ANSWERS[0]
    try:
        check_value(data[1:], type_, CLIENTS)
    except WireError as error:
        one_line(error)
        return False
    read(data[1:], type_)
    return True


def _strings(value: object) -> Iterator[str]:
    """Yield all strings in a message, including keys of maps."""
    match value:
        case str():
            yield value
        case dict():
            for item in value.items():
                yield from _strings(item)
        case list() | tuple():
            for one in value:
                yield from _strings(one)


def audit(data: bytes) -> bool:
    """Read an audit log, and a changed one: the first bytes select the change, the rest is the log.

    Reading and showing any lines must raise nothing. In a log that the silo wrote, with texts from the input, every
    edit, removal, repeat and move of lines is found, or changes the last line's hash.
    """
    how, content = data[:3], data[3:]
    raw = content.splitlines(keepends=True)
    found = read_audit(raw)
    rows(found)
    if found.problem is not None:
        one_line(found.problem)
    lines = _chained(content)
    whole = read_audit(lines)
    assert whole.problem is None
    changed = _changed(lines, how)
    if changed is None or changed == lines:
        return found.problem is None and bool(found.lines)
    again = read_audit(changed)
    assert again.problem is not None or again.last != whole.last, "a change was not found"
    if len(changed) > 1 and changed[-1] == lines[-1]:
        assert again.problem is not None, "a change before the last line was not found"
    return True


def _chained(content: bytes) -> list[bytes]:
    """Return a log as a silo writes it, with the input as its lines' text."""
    lines: list[bytes] = []
    previous = ""
    for text in content.split(b"\n")[:6]:
        fields = {"text": text.decode("utf-8", "replace"), "outcome": "begun" if text[:1] < b"a" else "answered"}
        if lines and text[:1] == b"z":
            fields["begun"] = previous
        line = json.dumps({**fields, "previous": previous}, separators=(",", ":")).encode()
        previous = hashlib.sha256(line).hexdigest()
        lines.append(line + b"\n")
    return lines


def _changed(lines: Sequence[bytes], how: bytes) -> list[bytes] | None:
    """Return the lines after an edit, a removal, a repeat or a move; None if the input selects none of these."""
    if len(how) < 3:
        return None
    at, to = how[1] % len(lines), how[2] % len(lines)
    changed = list(lines)
    match how[0] % 5:
        case 0:
            spot = how[2] % len(changed[at])
            changed[at] = changed[at][:spot] + bytes([changed[at][spot] ^ 1]) + changed[at][spot + 1 :]
        case 1:
            del changed[at]
        case 2:
            changed.insert(to, changed[at])
        case 3:
            changed.insert(to, changed.pop(at))
        case _:
            changed[at] = changed[at][: how[2] % len(changed[at])]
    return b"".join(changed).splitlines(keepends=True)


def _values(ops: Sequence[Op]) -> list[Value]:
    return [op for op in ops if isinstance(op, Value)]


def _replayed(ops: Sequence[object], blobs: dict[str, bytes]) -> list[bytes] | str:
    """Return the outputs, or the error's class name."""

    async def data(op: object) -> bytes:
        if str(op).count("gone"):
            raise SourceError("rows", "it is gone")
        return repr(op).encode("utf-8", "replace")

    try:
        return _loop().run_until_complete(replay(ops, Memory(), {}, blobs, data))
    except (WorkRefused, ComputationFailed, SourceError) as error:
        one_line(error)
        return type(error).__name__


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@functools.cache
def _directory() -> Path:
    """Return this process's directory, in memory if possible."""
    shared = Path("/dev/shm")
    held = tempfile.TemporaryDirectory(prefix="fuzz", dir=shared if shared.is_dir() else None)
    _HELD.append(held)
    return Path(held.name)


_HELD: list[tempfile.TemporaryDirectory[str]] = []

TARGETS = {
    target.name: target
    for target in (
        Target(message, 15, (blind,)),
        Target(header, 30, (blind, structured, structured)),
        Target(strings, 12, (spelt, spelt, structured)),
        Target(chunks, 11, (blind,)),
        Target(piece, 15, (blind,)),
        Target(program, 9, (blind, structured, structured, structured)),
        Target(frames, 6, (blind,)),
        Target(settings, 4, (blind, worded, worded)),
        Target(envelope, 4, (blind,)),
        Target(sealed, 4, (blind,)),
        Target(computation, 6, (blind,)),
        Target(answer, 10, (blind,)),
        Target(audit, 6, (blind,)),
        Target(mask_step, 3, (blind, structured, structured, structured)),
        Target(masking_request, 4, (blind, structured, structured, structured)),
        Target(masked, 6, (blind,)),
        Target(roster, 4, (blind, worded, worded)),
        Target(graph, 1, (edited,)),
    )
}
