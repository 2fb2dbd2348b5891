"""The memory limit of a runtime: the machine's memory, or the limits of control groups."""

from __future__ import annotations

import os

import pytest

from fedbroker.runtime.resources import SHARE, memory_bytes, share_of_memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


@pytest.fixture
def groups(tmp_path):
    """Return a function that makes control groups with limits, one of which is ours."""

    def make(ours, limits, name="memory.max"):
        for path, limit in limits.items():
            (tmp_path / path).mkdir(parents=True, exist_ok=True)
            (tmp_path / path / name).write_text(f"{limit}\n")
        (tmp_path / "ours").write_text(ours)
        return tmp_path, tmp_path / "ours"

    return make


def test_memory_without_groups_is_the_machines(tmp_path):
    assert memory_bytes(tmp_path, tmp_path / "none") == MACHINE


def test_limit_is_a_share_of_the_memory():
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
def test_lowest_limit_of_our_group_and_its_parents_applies(groups, ours, limits, found):
    assert memory_bytes(*groups(ours, limits)) == found


def test_first_version_of_control_groups_is_supported(groups):
    ours = "5:devices:/x\n4:cpu,memory:/a\n0::/\n"
    limits = {"memory/a": 300 * MIB, "memory": 9223372036854771712}
    assert memory_bytes(*groups(ours, limits, "memory.limit_in_bytes")) == 300 * MIB
