"""Present, departed and missing silos in the table, with a clock of the test."""

from __future__ import annotations

import pytest

from fedbroker.cli.silo_table import SiloTable, changed_rows
from fedbroker.wire.messages import Announce, Leave, Source


def announce(silo="ewr", incarnation="1", in_flight=0, mask_key="", **sources):
    return Announce("airports", silo, incarnation, 5.0, sources, in_flight=in_flight, mask_key=mask_key)


def states(silos, now):
    return {row.announce.silo: row.state for row in silos.rows(now)}


def test_silo_is_missing_after_two_missed_heartbeats():
    silos = SiloTable()
    silos.update(announce(), 0.0)
    assert states(silos, 10.0) == {"ewr": "present"}
    assert states(silos, 10.1) == {"ewr": "gone"}
    silos.update(announce(), 20.0)
    assert states(silos, 20.0) == {"ewr": "present"}


def test_leave_applies_to_its_own_incarnation_only():
    silos = SiloTable()
    silos.update(announce(incarnation="2"), 0.0)
    silos.update(Leave("airports", "ewr", "1"), 1.0)
    assert states(silos, 1.0) == {"ewr": "present"}
    silos.update(Leave("airports", "ewr", "2"), 2.0)
    assert states(silos, 2.0) == {"ewr": "left"}
    assert states(silos, 99.0) == {"ewr": "left"}
    assert silos.rows(3.0)[0].ago == 1.0
    silos.update(announce(incarnation="3"), 4.0)
    assert states(silos, 4.0) == {"ewr": "present"}


def test_leave_of_an_unknown_silo_is_ignored():
    silos = SiloTable()
    silos.update(Leave("airports", "ewr", "1"), 0.0)
    assert silos.rows(0.0) == []


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (announce(), 0),
        (announce(incarnation="2"), 1),
        (announce(in_flight=1), 1),
        (announce(flights=Source((), rows=3)), 1),
        (announce(mask_key="00" * 32), 1),
        (announce("jfk"), 1),
    ],
)
def test_only_changes_are_reported(word, told):
    silos = SiloTable()
    silos.update(announce(), 0.0)
    before = {row.announce.silo: row for row in silos.rows(0.0)}
    silos.update(word, 1.0)
    assert len(changed_rows(before, {row.announce.silo: row for row in silos.rows(1.0)})) == told


def test_a_silo_with_a_mask_key_takes_part_in_masked_sums():
    silos = SiloTable()
    silos.update(announce(), 0.0)
    silos.update(announce("jfk", mask_key="00" * 32), 0.0)
    assert [row.as_json()["masked_sums"] for row in silos.rows(0.0)] == [False, True]
