"""``fedbroker-silo check`` on masked sums: whether the silo takes part, and until when."""

from __future__ import annotations

import pytest
from fedbroker_worker.cli.masked_sums import masked_sums
from fedbroker_worker.config import load

from fedbroker.masking.roster import new_roster, write_roster
from fedbroker.trust import Identity

NOW, DAY = 1_000_000.0, 86400.0
ADMINISTRATOR, COORDINATOR = Identity(b"a" * 32), Identity(b"c" * 32)
SILOS = {name: Identity(name.encode() * 32) for name in "abcd"}
KEYS = f"""
[security]
secret_file = "secret.key"
coordinators = ["{COORDINATOR.public}"]
"""
ROSTER_KEY = f'roster_key = "{ADMINISTRATOR.public}"\n'
SILO = '[silo]\nname = "a"\ncohort = "airports"\nbroker = "amqp://localhost/"\n'


@pytest.fixture
def check(tmp_path):
    """Return a function that checks the silo ``a``."""

    def check(security=KEYS + ROSTER_KEY, policy="", silos="abcd", days=90.0, by=ADMINISTRATOR):
        (tmp_path / "silo.toml").write_text(f"{SILO}[policy]\n{policy}\n{security}")
        (tmp_path / "secret.key").write_text(SILOS["a"].reveal())
        if silos:
            publics = {name: SILOS[name].public for name in silos}
            roster = new_roster("airports", publics, NOW, lifetime=days * DAY)
            (tmp_path / "cohort.roster").write_bytes(write_roster(roster, by))
        finding = masked_sums(load(tmp_path / "silo.toml", {}), lambda: NOW + 1)
        assert not list(tmp_path.glob("*seen"))
        return finding.level, finding.line

    return check


def test_a_silo_in_a_valid_roster_takes_part(check):
    level, line = check()
    assert level == "ok"
    assert line == (
        f"takes part: roster 1000000 of 4 silos, signed with {ADMINISTRATOR.public.fingerprint}, expires on 1970-04-12"
    )


@pytest.mark.parametrize(
    ("security", "words"),
    [
        ("", "takes no part: the settings have no [security] with keys and a roster_key"),
        (KEYS, "takes no part: the settings have no roster_key in [security]"),
    ],
)
def test_a_silo_without_a_roster_takes_no_part(check, security, words):
    assert check(security) == ("ok", words)
    level, line = check(security, policy='aggregates = "masked"')
    assert level == "problem"
    assert "nothing can leave this silo" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"silos": ""}, "cohort.roster does not exist"),
        ({"silos": "bcd"}, "silo 'a' is not in roster 1000000"),
        ({"days": 0}, "roster 1000000 expired on 1970-01-12"),
        ({"by": COORDINATOR}, "not signed by the cohort's administrator"),
    ],
)
def test_a_roster_that_cannot_be_used_is_named(check, options, words):
    level, line = check(**options)
    assert level == "warning"
    assert words in line
    level, line = check(policy='aggregates = "masked"', **options)
    assert level == "problem"
    assert words in line


def test_a_roster_that_ends_soon_or_is_too_small_is_a_warning(check):
    level, line = check(days=13)
    assert level == "warning"
    assert "expires on 1970-01-25; sign a new one with `fedbroker admin roster`" in line
    level, line = check(policy="min_sum_silos = 5")
    assert level == "warning"
    assert "is too small for min_sum_silos = 5; enroll more silos" in line
