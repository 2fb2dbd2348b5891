"""Inputs mutated from others: random bytes, and msgpack and text changed by their structure.

All changes come from a random number generator, so that a seed reproduces its inputs.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

import msgpack

LONGEST = 4096
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**31, 2**63 - 1, 2**63, 2**64 - 1)
SPELT = "\x00\x07\t\n\r\x1b\x7f\x85\x9b\u00a0\u00ad\u034f\u200b\u2028\u202e\u2066\u3164\ufeff\U000e0041\U0010ffff\\[é東"
"""Characters that are hard to display."""
ODD = (None, True, -1, 2**63, -(2**63), 0.0, float("nan"), float("inf"), "", "\x00", "é", "x" * 300, [], {}, [[[[]]]])


def blind(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Make one change without regard to the bytes' meaning."""
    changed = bytearray(data)
    at = rng.randrange(len(changed) + 1)
    end = min(len(changed), at + rng.choice((1, 1, 2, 4, 8, 16, 64)))
    match rng.randrange(9):
        case 0 if changed:
            changed[at % len(changed)] ^= 1 << rng.randrange(8)
        case 1 if changed:
            changed[at % len(changed)] = rng.choice((0, 1, 0x7F, 0x80, 0xC1, 0xDC, 0xDD, 0xDF, 0xFF))
        case 2:
            changed[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16)))
        case 3:
            del changed[at:end]
        case 4:
            changed[at:at] = changed[at:end]
        case 5:
            changed[at:end] = struct.pack(rng.choice((">Q", "<Q")), rng.choice(NUMBERS))[-max(1, end - at) :]
        case 6:
            other = rng.choice(others)
            changed[at:] = other[rng.randrange(len(other) + 1) :]
        case 7:
            changed[at:end] = bytes(changed[at:end] or b"\x91") * rng.choice((2, 10, 100, 2000))
        case _:
            del changed[at:]
    return bytes(changed[:LONGEST])


def structured(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Make one change to the value that msgpack encodes; a blind one if the input is not msgpack."""
    try:
        value = msgpack.unpackb(data, strict_map_key=False)
        return msgpack.packb(_changed(value, rng))[:LONGEST]
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return blind(data, rng, others)


def spelt(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Put characters that are hard to display into strings of the value that msgpack encodes."""
    try:
        value = msgpack.unpackb(data, strict_map_key=False)
        return msgpack.packb(_spelt(value, rng, rng.choice((0.02, 0.1, 0.3))))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return blind(data, rng, others)


def worded(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Make one change to a text's lines and words."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            lines[at:at] = rng.choice(others).split(b"\n")[:3]
        case 1:
            del lines[at]
        case 2:
            lines[at] = lines[at].partition(b"=")[0] + b"= " + rng.choice(_VALUES)
        case 3:
            lines.append(lines.pop(at))
        case 4:
            lines[at] += rng.choice(_TOKENS) * rng.choice((1, 1, 2, 2000))
        case _:
            return blind(data, rng, others)
    return b"\n".join(lines)[:LONGEST]


_TOKENS = (b"[", b"]", b"[[", b"{a=", b'"', b"'''", b"\\", b".", b"=", b"#", b"\x00", b"\xff", "ä".encode(), b"9", b"_")
_VALUES = (
    b"1e999",
    b"nan",
    b"-1",
    b"9" * 5000,
    b"0x" + b"f" * 200,
    b"[" * 3000,
    b"{a=" * 3000,
    b"1979-05-27T07:32:00Z",
    b'"\\ud800"',
    b'"\\U0010ffff"',
    b"true",
    b"[]",
    b"{}",
    b'""',
    b'"amqp://[::1"',
    b'"amqp://h:99999999999/"',
    b'"a\\nb"',
)


def _spelt(value: object, rng: random.Random, share: float) -> object:
    """Return a copy in which a share of the strings, and fewer keys of maps, hold other characters."""
    if isinstance(value, list):
        return [_spelt(one, rng, share) for one in value]
    if isinstance(value, dict):
        return {_spelt(key, rng, share / 8): _spelt(one, rng, share) for key, one in value.items()}
    if isinstance(value, str) and rng.random() < share:
        at = rng.randrange(len(value) + 1)
        odd = "".join(rng.choices(SPELT, k=rng.choice((1, 1, 3, 20)))) * rng.choice((1, 1, 1, 1, 1, 300))
        return value[:at] + odd + value[at:]
    return value


def _changed(value: object, rng: random.Random) -> object:
    """Return a copy with one change."""
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value[:at], value[at], *value[at:]]
            case 2:
                return value * rng.choice((2, 50))
            case _:
                return [*value[:at], _changed(value[at], rng), *value[at + 1 :]]
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.2:
            return {other: one for other, one in value.items() if other != key} | {rng.choice(("", "x", 1)): 1}
        return value | {key: _changed(value[key], rng)}
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.7:
        return rng.choice((value + 1, value - 1, -value, rng.choice(NUMBERS)))
    if isinstance(value, str) and rng.random() < 0.5:
        return value[: rng.randrange(len(value) + 1)] + rng.choice(("", "x", "\n", "\x00"))
    return rng.choice(ODD)


Mutation = Callable[[bytes, random.Random, Sequence[bytes]], bytes]


def mutated(seeds: Sequence[bytes], rng: random.Random, kinds: Sequence[Mutation]) -> bytes:
    """Return one of the seeds, changed up to four times."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(kinds)(data, rng, seeds)
    return data
