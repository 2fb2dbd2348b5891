"""Memory for blobs, small and large."""

from __future__ import annotations

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.wire.blobs import HUGE_PAGES_FROM, allocate, joined


def taken() -> int:
    return psutil.Process().memory_info().rss


@pytest.mark.parametrize("size", [0, 1, HUGE_PAGES_FROM - 1, HUGE_PAGES_FROM, HUGE_PAGES_FROM + 4097])
def test_memory_has_its_size_and_is_zero(size):
    made = allocate(size)
    assert (len(made), made.format, made.readonly) == (size, "B", False)
    assert bytes(made) == bytes(size)


def test_large_memory_is_allocated_when_written():
    before = taken()
    made = allocate(1 << 30)
    made[:100] = bytes(100)
    assert taken() - before < 16 << 20


def test_memory_is_released():
    before = taken()
    for _ in range(8):
        allocate(64 << 20)[:] = bytes(64 << 20)
    assert taken() - before < 100 << 20


@given(st.lists(st.binary(max_size=50), max_size=5), st.sampled_from([0, HUGE_PAGES_FROM // 2, HUGE_PAGES_FROM]))
def test_parts_are_joined_in_order(parts, more):
    every = [*parts, memoryview(bytes(more)), bytearray(b"end")]
    found = joined(iter(every))
    assert memoryview(found).readonly
    assert bytes(found) == b"".join(map(bytes, every))
