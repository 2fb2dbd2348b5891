"""Enrolled silos form masked sums with the silos of their roster, and follow each new roster without a restart."""

from __future__ import annotations

import contextlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import FedbrokerError
from tests.support.local_tff import pack_arguments
from tests.support.management import Admin, silo_process
from tests.support.wait import wait_until

pytestmark = [pytest.mark.broker, pytest.mark.timeout(600)]

COLUMN = tff.TensorType(np.int32, [None])
ROWS = {"bos": 1, "ewr": 10, "jfk": 100, "lga": 1000}


@tff.tensorflow.computation(COLUMN)
def size(column):
    return tf.size(column)


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def rows(columns):
    """Count all rows, masked."""
    return tff.federated_secure_sum(tff.federated_map(size, columns), 1000)


class Sites:
    """The sites to which an administrator hands silos over."""

    def __init__(self, office: Admin, cohort: str, directory) -> None:
        self.office, self.cohort, self.directory = office, cohort, directory
        self.running: list[str] = []

    def enroll(self, silo: str):
        """Enrol a silo and hand it over; its administrator adds data and insists on masked sums."""
        self.office.done("enroll", silo, "--cohort", self.cohort)
        site = self.directory / silo
        shutil.copytree(self.office.settings(self.cohort, silo).parent, site)
        text = (site / "silo.toml").read_text().replace('aggregates = "recognised"', 'aggregates = "masked"')
        query = f"select i::int as i from range({ROWS[silo]}) t(i)"
        (site / "silo.toml").write_text(f'{text}\n[data.numbers]\nsource = "duckdb"\nquery = "{query}"\n')
        self.running.append(silo)
        return silo_process(site / "silo.toml", variables={"FEDBROKER_SILO_HEARTBEAT": "0.5"})

    def install(self) -> None:
        """Copy the newest roster to the sites, and wait until the silos have read it."""
        name = f"{self.cohort}.roster"
        newest = self.office.out / "rosters" / name
        files = {silo: self.directory / silo / name for silo in self.running}
        old = {silo: self.loaded(silo) for silo, file in files.items() if file.read_bytes() != newest.read_bytes()}
        for silo in old:
            shutil.copy(newest, files[silo])
        wait_until(lambda: all(self.loaded(silo) > count for silo, count in old.items()), 30, "the roster is read")

    def loaded(self, silo: str) -> int:
        return (self.directory / silo / "log").read_text().count('"roster_loaded"')

    def sum(self) -> int:
        """Count the rows of all running silos."""
        keys = self.office.out / "coordinators" / "coordinator" / f"{self.cohort}.keys.toml"
        with fedbroker.create_sync_execution_context(
            self.office.coordinator_url(),
            cohort=self.cohort,
            keys=keys,
            min_silos=len(self.running),
            timeouts=fedbroker.Timeouts(join=60),
            options=fedbroker.Options(secure_sum="masked", retries=0),
        ) as context:
            return int(context.invoke(rows, pack_arguments(rows, (fedbroker.data("numbers"),))))


def test_masked_sums_follow_enrolment_and_revocation(office, cohort, tmp_path):
    sites = Sites(office, cohort, tmp_path)
    with contextlib.ExitStack() as stack:
        handed = [sites.enroll(silo) for silo in ("bos", "ewr", "jfk")]
        for silo in handed:
            stack.enter_context(silo)
        sites.install()
        assert sites.sum() == 111

        stack.enter_context(sites.enroll("lga"))
        with pytest.raises(FedbrokerError, match="silo 'lga' is not in the roster"):
            sites.sum()
        sites.install()
        assert sites.sum() == 1111

        office.done("revoke", "jfk", "--cohort", cohort)
        sites.running.remove("jfk")
        sites.install()
        assert sites.sum() == 1011
