"""A roster is believed if its administrator has signed it, and never goes back."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import ConfigError
from fedbroker.masking.roster import HEADER, Roster, new_roster, parse_roster, write_roster
from fedbroker.trust import Identity

ADMINISTRATOR, OTHER = Identity(b"a" * 32), Identity(b"o" * 32)
EWR, JFK = Identity(b"e" * 32), Identity(b"j" * 32)
NOW = 1000.0


def roster(serial=1, expires=2000.0, cohort="airports", **silos):
    silos = silos or {"ewr": EWR, "jfk": JFK}
    return Roster(cohort, serial, expires, {name: str(identity.public) for name, identity in silos.items()})


def read(content, previous=None):
    return parse_roster(content, ADMINISTRATOR.public, "airports", NOW, previous)


def test_a_signed_roster_is_read():
    found = read(write_roster(roster(), ADMINISTRATOR))
    assert found == roster()
    assert found.keys == {"ewr": EWR.public, "jfk": JFK.public}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no roster"),
        (b"fedbroker roster 1\nnot JSON", "damaged"),
        (b'fedbroker roster 1\n{"roster": {}, "signature": "xyz"}', "damaged"),
        (write_roster(roster(), OTHER), "not signed by the cohort's administrator"),
        (write_roster(roster(), ADMINISTRATOR).replace(b'"serial":1', b'"serial":2'), "not signed"),
        (write_roster(roster(cohort="banks"), ADMINISTRATOR), "is of cohort 'banks'"),
        (write_roster(roster(expires=999.0), ADMINISTRATOR), "roster 1 expired on 1970-01-01"),
        (write_roster(roster(serial=-1), ADMINISTRATOR), "damaged"),
        (write_roster(roster(expires=1e300), ADMINISTRATOR), "damaged"),
        (b'fedbroker roster 1\n{"x": ' + b"[" * 100_000, "damaged"),
        (write_roster(roster(ewr=EWR, jfk=EWR), ADMINISTRATOR), "the same public key"),
    ],
    ids=[
        "empty",
        "no JSON",
        "no roster",
        "stranger",
        "changed",
        "cohort",
        "expired",
        "negative",
        "no date",
        "nested",
        "one key",
    ],
)
def test_each_other_file_is_refused(content, words):
    with pytest.raises(ConfigError, match=words):
        read(content)


def test_an_older_or_another_roster_of_the_same_number_is_refused():
    installed = roster(serial=3)
    assert read(write_roster(roster(serial=4), ADMINISTRATOR), installed).serial == 4
    assert read(write_roster(installed, ADMINISTRATOR), installed) == installed
    for back in (roster(serial=2), roster(serial=3, ewr=EWR)):
        with pytest.raises(ConfigError, match="was installed before"):
            read(write_roster(back, ADMINISTRATOR), installed)


def test_a_silo_must_be_in_the_roster_with_its_own_key():
    roster().check_member("ewr", EWR.public)
    with pytest.raises(ConfigError, match="silo 'lga' is not in roster 1"):
        roster().check_member("lga", EWR.public)
    with pytest.raises(ConfigError, match="roster 1 has another public key for silo 'ewr'"):
        roster().check_member("ewr", JFK.public)


def test_numbers_of_rosters_grow_with_the_time_and_with_each_roster():
    silos = {"jfk": JFK.public, "ewr": EWR.public}
    first = new_roster("airports", silos, NOW, lifetime=10)
    assert (first.serial, first.expires, list(first.silos)) == (1000, 1010.0, ["ewr", "jfk"])
    assert new_roster("airports", silos, NOW, first).serial == 1001
    assert new_roster("airports", silos, NOW - 500, first).serial == 1001  # the clock went back
    assert new_roster("airports", silos, NOW + 500).serial == 1500  # the first roster was lost
    assert read(write_roster(first, ADMINISTRATOR)) == first


def test_one_silo_with_two_names_gets_no_roster():
    with pytest.raises(ConfigError, match="silos 'ewr' and 'jfk' have the same public key"):
        new_roster("airports", {"ewr": EWR.public, "jfk": EWR.public}, NOW)
    with pytest.raises(ConfigError, match="year 9999"):
        new_roster("airports", {"ewr": EWR.public}, NOW, lifetime=1e12)
    with pytest.raises(ConfigError, match="year 9999"):
        new_roster("airports", {"ewr": EWR.public}, NOW, lifetime=float("nan"))


SIGNED = write_roster(roster(), ADMINISTRATOR)


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_a_changed_byte_adds_no_silo(at, change):
    changed = SIGNED[:at] + bytes([SIGNED[at] ^ change]) + SIGNED[at + 1 :]
    found = None
    with contextlib.suppress(ConfigError):
        found = read(changed)
    # The same roster if the byte is not signed: a digit of the signature in upper case, or the space after it.
    assert found in (None, roster())


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused(content):
    for file in (content, SIGNED[: len(HEADER)] + content):
        with pytest.raises(ConfigError):
            read(file)
