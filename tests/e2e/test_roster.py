"""Silos of masked sums as tests and users start them: each has its keys, and all are in one roster."""

from __future__ import annotations

import time

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.roster import roster_file

from tests.support.computations import sum_numbers
from tests.support.masked_cohort import masked_cohort, masked_context

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_silos_of_a_local_cohort_accept_their_roster(broker, cohort):
    with masked_cohort(broker, cohort, 3) as silos:
        with masked_context(silos, secure_sum="plaintext") as context:
            assert sum_numbers(context) == 1 + 3 + 6
        assert sorted(silos.publics) == ["s00", "s01", "s02"]
        files = [roster_file(load(silo.directory / "silo.toml", {})) for silo in silos.silos.values()]
        assert [file.current() for file in files] == [silos.roster] * 3
        assert silos.roster.expires > time.time() + 80 * 86400
        silos.revoke("s01")
        assert [sorted(file.current().silos) for file in files[::2]] == [["s00", "s02"]] * 2
        silos.install(silos.publics, lifetime=-1)
        assert silos.roster.expires < time.time()


def test_a_silo_is_restarted_with_another_policy(broker, cohort):
    with masked_cohort(broker, cohort, 3) as silos:
        before = silos.silos["s01"].pid
        silos.restart("s01", policy={"max_failures": 2}, security={"roster_key": None, "roster": None})
        settings = load(silos.silos["s01"].directory / "silo.toml", {})
        assert (settings.roster, settings.policy.max_failures) == (None, 2)
        assert silos.silos["s01"].pid != before
        assert settings.data["numbers"].kind == "duckdb"
