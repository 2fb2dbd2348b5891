"""How much memory a runtime may have: the machine's, or what control groups leave of it."""

from __future__ import annotations

import os

import pytest

from fedbroker.runtime.resources import SHARE, memory_bytes, share_of_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


@pytest.fixture
def groups(tmp_path):
    """Makes control groups with limits, and says which one is ours."""

    def make(ours, limits, name="memory.max"):
        for path, limit in limits.items():
            (tmp_path / path).mkdir(parents=True, exist_ok=True)
            (tmp_path / path / name).write_text(f"{limit}\n")
        (tmp_path / "ours").write_text(ours)
        return tmp_path, tmp_path / "ours"

    return make


def test_without_groups_it_is_the_machines(tmp_path):
    assert memory_bytes(tmp_path, tmp_path / "none") == MACHINE


def test_ours_is_a_share_of_it():
    assert 0 < share_of_memory() <= MACHINE * SHARE


@pytest.mark.parametrize(
    ("ours", "limits", "found"),
    [
        ("0::/a/b\n", {"a": 512 * MIB, "a/b": "max"}, 512 * MIB),
        ("0::/a/b\n", {"a": 512 * MIB, "a/b": 256 * MIB}, 256 * MIB),
        ("0::/\n", {"": 128 * MIB}, 128 * MIB),
        ("0::/\n", {"": "max"}, MACHINE),
        ("0::/of/the/host\n", {"": 64 * MIB}, 64 * MIB),
        ("0::/a\n", {"a": 1 << 62}, MACHINE),
    ],
)
def test_the_least_of_our_group_and_those_above_it_counts(groups, ours, limits, found):
    assert memory_bytes(*groups(ours, limits)) == found


def test_the_first_version_of_groups_is_understood(groups):
    ours = "5:devices:/x\n4:cpu,memory:/a\n0::/\n"
    limits = {"memory/a": 300 * MIB, "memory": 9223372036854771712}
    assert memory_bytes(*groups(ours, limits, "memory.limit_in_bytes")) == 300 * MIB
