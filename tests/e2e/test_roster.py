"""Silos of masked sums as tests and users start them: each has its keys, and all are in one roster."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest
from fedbroker_worker.cli.check import check_silo
from fedbroker_worker.config import load
from fedbroker_worker.roster import roster_file

from fedbroker.cli.cohort import _rows
from fedbroker.cli.doctor import doctor
from tests.support.computations import sum_numbers
from tests.support.masked_cohort import MASKED, masked_cohort, masked_context
from tests.support.wait import wait_until

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


def masking(silos):
    """Return the silos that announce a mask key now."""
    rows = asyncio.run(_rows(silos.url, silos.cohort))
    return [row.announce.silo for row in rows if row.as_json()["masked_sums"]]


def test_running_silos_follow_the_roster(broker, cohort):
    with masked_cohort(broker, cohort, 3, heartbeat=0.5) as silos:
        assert masking(silos) == ["s00", "s01", "s02"]
        silos.revoke("s01")
        wait_until(lambda: masking(silos) == ["s00", "s02"], 30, "the revoked silo is out")
        silos.install(silos.publics)
        wait_until(lambda: masking(silos) == ["s00", "s01", "s02"], 30, "it is back")
        kept = f"roster {silos.roster.serial} stays in force"
        silos.install({**silos.publics, "s03": silos.administrator.public}, by=silos.identity("s02"))  # no effect
        logs = [silo.log for silo in silos.silos.values()]
        wait_until(lambda: all(kept in log.read_text() for log in logs), 30, "the forged roster is seen")
        assert masking(silos) == ["s00", "s01", "s02"]
        silos.roster_path.unlink()
        silos.restart("s00")  # remembers the newest roster
        assert masking(silos) == ["s00", "s01", "s02"]


def test_a_silo_starts_without_a_roster_and_masks_once_it_has_one(broker, cohort):
    with masked_cohort(broker, cohort, 3, heartbeat=0.5) as silos:
        roster = silos.roster_path.read_bytes()
        silos.roster_path.unlink()
        silo = silos.silos["s00"]
        silo.stop()
        (silo.directory / f"{cohort}.s00.roster-seen").unlink()
        silos.restart("s00")
        assert masking(silos) == ["s01", "s02"]
        assert silo.log.read_text().count("no masked sums: roster") == 1
        silos.roster_path.write_bytes(roster)
        wait_until(lambda: masking(silos) == ["s00", "s01", "s02"], 30, "the silo has the roster")


def test_doctor_and_check_say_who_masks(broker, cohort, capsys):
    with masked_cohort(broker, cohort, 3, policy=MASKED, heartbeat=0.5) as silos:
        silos.revoke("s01")
        wait_until(lambda: masking(silos) == ["s00", "s02"], 30, "the revoked silo is out")
        assert doctor(url=silos.url, cohort=cohort, keys=silos.keys, json=True) == 0
        found = json.loads(capsys.readouterr().out)
        assert [one["what"] for one in found if one["subject"] == "masked sums"] == ["1 silo cannot take part (s01)"]
        before = Path.cwd()
        try:
            for name, level, words in (
                ("s00", "warning", "too small for min_sum_silos = 3"),
                ("s01", "problem", "not in"),
            ):
                settings = load(silos.silos[name].directory / "silo.toml", {})
                code = check_silo(settings, seconds=60.0, as_json=True)
                said = {one["subject"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
                assert (code != 0) == (level == "problem")
                assert said["masked sums"]["level"] == level
                assert words in said["masked sums"]["what"]
                assert "only sums over at least 3 silos" in said["guarantee"]["what"]
        finally:
            os.chdir(before)
