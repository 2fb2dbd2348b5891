"""``fedbroker-silo audit`` prints, as its own process, what a real cohort's silo was asked and what it released."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.testing import local_cohort
from tests.support.local_tff import pack_arguments
from tests.support.management import environment
from tests.support.wait import PROCESS_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F = np.float32
SOURCES = {
    "delays": {
        "source": "duckdb",
        "query": "select i::float as delay, i::varchar as who from range(1, 5) t(i)",
        "clients": "who",
    }
}


@tff.tensorflow.computation(F, F)
def keep_last(_, delay):
    """Keep one client's value: an aggregate in name only."""
    return delay


@tff.tensorflow.computation(F)
def report(delay):
    return delay


@tff.federated_computation(tff.FederatedType(F, tff.CLIENTS))
def delays_of_a_day(delays):
    last = tff.federated_aggregate(delays, F(0), keep_last, keep_last, report)
    return tff.federated_sum(delays), tff.federated_max(delays), last


@tff.federated_computation(tff.FederatedType(F, tff.CLIENTS))
def each_delay(delays):
    return delays


def audit(settings: Path, *options: str) -> str:
    """Run the command without the silo's secret, and without a broker."""
    done = subprocess.run(
        [sys.executable, "-m", "fedbroker_worker", "audit", "--config", str(settings), *options],
        env=environment(COLUMNS="200"), cwd="/", capture_output=True, text=True, timeout=PROCESS_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def shown(settings: Path, line: int) -> dict[str, list[str]]:
    """Return the facts that ``--show`` prints, by label; further lines of a fact begin with spaces."""
    found: dict[str, list[str]] = {}
    label = ""
    for text in audit(settings, "--show", str(line)).splitlines():
        label = text[:12].strip() or label
        found.setdefault(label, []).append(text[12:].strip())
    return found


@pytest.fixture(scope="module")
def log(broker, tmp_path_factory):
    """Run three computations, one of which the policy refuses; return the path of the silo's settings."""
    directory = tmp_path_factory.mktemp("audited")
    with (
        local_cohort(
            {"ewr": SOURCES}, cohort="audited", broker=broker.url, directory=directory,
            policy={"audit_file": "audit.log"}, security="sign",
        ) as silos,
        fedbroker.create_sync_execution_context(
            broker.url, cohort="audited", keys=silos.keys, min_silos=1
        ) as context,
    ):  # fmt: skip
        data = fedbroker.data("delays")
        results = context.invoke(delays_of_a_day, pack_arguments(delays_of_a_day, (data,)))
        assert results[0] == 10.0
        with pytest.raises(fedbroker.errors.PolicyRefusal):
            context.invoke(each_delay, pack_arguments(each_delay, (data,)))
    settings = directory / "ewr" / "silo.toml"
    (directory / "ewr" / "secret.key").unlink()  # reading the log needs no secret
    return settings


def test_what_left_is_shown_with_the_name_that_the_coordinator_claims(log):
    facts = shown(log, 2)
    assert facts["computation"] == ["delays_of_a_day (claimed by the coordinator)"]
    assert facts["reads"] == ["delays(#0: float32)"]  # asked for by its position
    assert facts["clients"] == ["4"]
    assert facts["outcome"] == ["answered"]
    released = ["float32 of an aggregate that is not recognised", "max of float32", "sum of float32"]
    assert sorted(facts["releases"]) == released


def test_work_that_was_refused_released_nothing(log):
    facts = shown(log, 4)
    assert facts["computation"] == ["each_delay (claimed by the coordinator)"]
    assert facts["outcome"] == ["refused (client_results)"]
    assert facts["releases"] == ["nothing, or unknown"]
    first = json.loads(audit(log, "--show", "3", "--json"))
    assert (first["outcome"], first["claimed_name"]) == ("begun", "each_delay")


def test_table_lists_both_computations(log):
    printed = audit(log)
    assert " answered " in printed
    assert "refused (client_results)" in printed
    assert "4 lines, none missing or changed" in printed
