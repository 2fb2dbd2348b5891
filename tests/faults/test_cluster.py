"""A cluster of three broker nodes loses one in the middle of a stage: the session completes with all silos."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.testing import local_cohort
from tests.support.cluster import PrivateCluster, is_complete, killed_node
from tests.support.computations import COLUMN
from tests.support.gated_source import block_reads, gated_source, read_count, unblock_reads
from tests.support.local_tff import pack_arguments
from tests.support.management import Admin, silo_process
from tests.support.masked_cohort import MASKED, masked_cohort, masked_context
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

VALUES = {"bos": 1.0, "ewr": 10.0, "jfk": 100.0}
LARGE = 200_000
"""Number of elements in each direction: too many for the message itself, so they are sent as blobs."""


@tff.tensorflow.computation(COLUMN)
def wide(column):
    return tf.fill([LARGE], tf.reduce_sum(column))


@tff.tensorflow.computation(tff.TensorType(np.float32, [LARGE]), tff.TensorType(np.float32, [LARGE]))
def plus(one, other):
    return one + other


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def twice(columns):
    """Run two stages: each silo's value, then its value plus the total."""
    values = tff.federated_map(wide, columns)
    total = tff.federated_broadcast(tff.federated_sum(values))
    return tff.federated_sum(tff.federated_map(plus, (values, total)))


@tff.tensorflow.computation(COLUMN)
def whole(column):
    return tf.cast(tf.reduce_sum(column), tf.int32)


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def masked_sum(columns):
    return tff.federated_secure_sum(tff.federated_map(whole, columns), 1000)


@pytest.fixture(scope="module")
def cluster():
    with PrivateCluster() as cluster:
        yield cluster


VICTIMS = pytest.mark.parametrize("victim", [0, *(pytest.param(node, marks=pytest.mark.whole) for node in (1, 2))])


def all_answer_without(cluster, victim, context, directories):
    """Kill a node while all silos read their data; check that this session and the next one have all silos."""
    for directory in directories:
        block_reads(directory)
    arguments = pack_arguments(twice, (fedbroker.data("numbers"),))
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(context.invoke, twice, arguments)
        assert wait_until(lambda: all(read_count(directory) == 1 for directory in directories), 60)
        with killed_node(cluster, cluster.nodes[victim]):
            for directory in directories:
                unblock_reads(directory)
            total = asking.result(90)
            assert total.shape == (LARGE,)
            assert set(total) == {4 * 111.0}
            assert context.last_session.participants == tuple(VALUES)
            assert not context.last_session.dropped
            assert all(read_count(directory) == 1 for directory in directories)  # no silo computed twice
            again = context.invoke(twice, arguments)  # with two remaining nodes
            assert again[0] == 4 * 111.0


@VICTIMS
def test_session_survives_the_loss_of_any_node_in_mid_stage(cluster, cohort, tmp_path, monkeypatch, victim):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sources"), prepend=os.pathsep)
    gated = gated_source(tmp_path / "sources")
    sources = {name: {"numbers": gated | {"value": value}} for name, value in VALUES.items()}
    with (
        local_cohort(sources, cohort=cohort, broker=cluster.url, directory=tmp_path, heartbeat=1.0) as silos,
        fedbroker.create_sync_execution_context(
            silos.url,
            cohort=cohort,
            min_silos=3,
            timeouts=fedbroker.Timeouts(stage=90.0),
            options=fedbroker.Options(retries=0),
        ) as context,
    ):
        assert wait_until(lambda: is_complete(cluster), 60)
        all_answer_without(cluster, victim, context, [silo.directory for silo in silos.silos.values()])


@VICTIMS
def test_masked_sum_survives_the_loss_of_any_node(cluster, cohort, tmp_path, monkeypatch, victim):
    """The node is lost after the silos' offers: their values, the survivors and the shares pass the other two."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sources"), prepend=os.pathsep)
    gated = gated_source(tmp_path / "sources")
    sources = {name: {"numbers": gated | {"value": value}} for name, value in VALUES.items()}
    with (
        masked_cohort(cluster.url, cohort, sources, policy=MASKED, directory=tmp_path, heartbeat=1.0) as silos,
        masked_context(silos, stragglers="drop", quorum=3, stage=90.0, retries=0) as context,
        ThreadPoolExecutor(1) as pool,
    ):
        assert wait_until(lambda: is_complete(cluster), 60)
        directories = [silo.directory for silo in silos.silos.values()]
        for directory in directories:
            block_reads(directory)
        arguments = pack_arguments(masked_sum, (fedbroker.data("numbers"),))
        asking = pool.submit(context.invoke, masked_sum, arguments)
        assert wait_until(lambda: all(read_count(directory) == 1 for directory in directories), 60)
        with killed_node(cluster, cluster.nodes[victim]):
            for directory in directories:
                unblock_reads(directory)
            assert asking.result(90) == 111
            assert context.last_session.participants == tuple(VALUES)
            assert context.last_session.stages[0].masking.seconds > 0
            assert context.invoke(masked_sum, arguments) == 111  # with two remaining nodes


@pytest.fixture
def enrolled(cluster, cohort, tmp_path):
    """Enrol three silos with replicated queues, by an administrator without the management API."""
    office = Admin(tmp_path, {})
    public = f"amqp://{','.join(f'127.0.0.1:{node.port}' for node in cluster.nodes)}/"
    definitions = tmp_path / "definitions.json"

    def made(*arguments):
        office.done(*arguments, "--definitions", str(definitions), "--force")
        cluster.nodes[0].ctl("import_definitions", str(definitions))

    made("init", "--vhost", cohort, "--broker", public)
    for silo in VALUES:
        made("enroll", silo, "--cohort", cohort, "--replicated")
    yield office
    cluster.nodes[0].ctl("delete_vhost", cohort)


@VICTIMS
def test_enrolled_silos_survive_the_loss_of_any_node(cluster, cohort, enrolled, tmp_path, victim):
    modules = tmp_path / "sources"
    gated = gated_source(modules)
    directories = []
    with ExitStack() as stack:
        for silo, value in VALUES.items():
            settings = enrolled.settings(cohort, silo)
            data = {**gated, "value": value}
            lines = "".join(f"{name} = {content!r}\n" for name, content in data.items())
            settings.write_text(f"{settings.read_text()}\n[data.numbers]\n{lines}")
            stack.enter_context(silo_process(settings, modules=modules))
            directories.append(settings.parent)
        context = stack.enter_context(
            fedbroker.create_sync_execution_context(
                enrolled.coordinator_url(),
                cohort=cohort,
                min_silos=3,
                keys=enrolled.out / "coordinators" / "coordinator" / f"{cohort}.keys.toml",
                timeouts=fedbroker.Timeouts(stage=90.0),
                options=fedbroker.Options(retries=0),
            )
        )
        assert wait_until(lambda: is_complete(cluster, cohort), 60)
        all_answer_without(cluster, victim, context, directories)
