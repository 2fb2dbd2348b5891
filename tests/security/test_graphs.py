"""Graphs that write files: a malicious coordinator sends them to a silo, a malicious silo replies with them.

The coordinator has valid keys, and the attacked silo has the default policy. Every graph caches a dataset, which is
allowed in memory and refused in files, and smuggles in a file's name, or an op that writes a file, where a careless
parser sees none. The first two tests show that TensorFlow would write each file. None of them may appear.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker_worker.service import SiloService
from tensorflow_federated.python.core.impl.executors import value_serialization
from tensorflow_federated.python.core.impl.types import type_serialization

import fedbroker
from fedbroker.context.values.codec import structure
from fedbroker.deadline import Deadline
from fedbroker.runtime.protos import executor_pb2
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Call, Compute, Failed, Value
from tests.support.attackers import Keyring, malicious_coordinator
from tests.support.cache_attacks import (
    ATTACKS,
    ONLY_IN_DATASETS,
    ONLY_IN_SESSIONS,
    caching_graph,
    counting_graph,
    sequence_of,
    value_of,
)
from tests.support.local_tff import pack_arguments
from tests.support.transports import eventually, silo_transport

pytestmark = [pytest.mark.broker, pytest.mark.runtime]


@pytest.fixture
async def attacker(broker, cohort, tmp_path):
    """Connect a malicious coordinator to a silo with the default policy."""
    keyring = Keyring()
    async with (
        SiloService(keyring.silo_settings(tmp_path, broker.url, cohort, policy={})),
        malicious_coordinator(broker.url, cohort, keyring) as attacker,
    ):
        await eventually(lambda: "ewr" in attacker.coordinator.silos)
        yield attacker


def written(path):
    return sorted(path.parent.glob(f"{path.name}*"))


def run(computation):
    return [Value(1, digest_of(computation)), Call(2, 1, None), Compute(2)]


@pytest.mark.parametrize("attack", sorted(ATTACKS.keys() - ONLY_IN_DATASETS))
def test_tensorflow_writes_the_file_of_each_of_these_graphs(attack, tmp_path):
    path = tmp_path / "stolen"
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.import_graph_def(ATTACKS[attack](counting_graph, str(path)), name="")
        assert session.run("out:0") == 3
    assert written(path)


@pytest.mark.parametrize("attack", sorted(ATTACKS.keys() - ONLY_IN_SESSIONS))
def test_tensorflow_writes_the_file_of_each_of_these_sequences(attack, tmp_path):
    path = tmp_path / "stolen"
    graph = sequence_of(ATTACKS[attack](caching_graph, str(path)))
    variant = tf.raw_ops.DatasetFromGraph(graph_def=graph)
    dataset = tf.data.experimental.from_variant(variant, structure=tf.TensorSpec([], tf.int64))
    assert [int(number) for number in dataset] == [0, 1, 2]
    assert written(path)


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_silo_refuses_a_work_item_with_a_graph_that_writes_a_file(attacker, attack, tmp_path):
    path, client = tmp_path / "stolen", attacker.client()
    computation = value_of(ATTACKS[attack](counting_graph, str(path)))
    reply = await client.send(client.item(run(computation)), [computation])
    assert isinstance(reply, Failed), reply
    assert (reply.error_type, reply.rule) == ("refused", "refuse_ops")
    assert not written(path)


async def test_a_silo_runs_a_graph_that_caches_in_memory(attacker):
    client = attacker.client()
    computation = value_of(counting_graph())
    (output,) = await client.outputs(client.item(run(computation)), [computation])
    assert output


NUMBERS = tff.SequenceType(np.int64)


@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
def counting(x):
    up_to = tff.tensorflow.computation(lambda n: tf.data.Dataset.range(tf.cast(n, tf.int64)), np.int32)
    return tff.federated_map(up_to, x)


def answer_of(graph):
    """Return a silo's reply to its part of that computation, with a sequence's graph as its only client's value."""
    value = executor_pb2.Value()
    value.federated.type.CopyFrom(type_serialization.serialize_type(tff.FederatedType(NUMBERS, tff.CLIENTS)).federated)
    value.federated.value.add().sequence.serialized_graph_def = graph
    return b"".join(map(bytes, structure([value.SerializeToString()])))


@asynccontextmanager
async def asked_of(broker, cohort, graph):
    """Open a context whose only silo is malicious, and replies with the graph of a sequence."""
    async with silo_transport(broker.url, cohort, "jfk") as attacker:

        async def answer(item):
            await attacker.send(item, [answer_of(graph)], Deadline.after(item.timeout))

        attacker.answer = answer
        async with fedbroker.create_async_execution_context(
            broker.url,
            cohort=cohort,
            min_silos=1,
            timeouts=fedbroker.Timeouts(stage=30),
            options=fedbroker.Options(retries=0),
        ) as context:
            yield context


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_sequence_that_writes_a_file_is_not_read(broker, cohort, attack, tmp_path):
    path = tmp_path / "stolen"
    graph = sequence_of(ATTACKS[attack](caching_graph, str(path)))
    async with asked_of(broker, cohort, graph) as context:
        with pytest.raises(fedbroker.errors.FedbrokerError):
            await context.invoke(counting, pack_arguments(counting, [[3]]))
    assert not written(path)


async def test_a_silos_sequence_is_read_without_running_its_graph_in_the_program(broker, cohort, monkeypatch):
    def run_here(*_, **__):
        raise AssertionError("a silo's graph was run in the program's process")

    monkeypatch.setattr(value_serialization, "_deserialize_dataset_from_graph_def", run_here)
    async with asked_of(broker, cohort, sequence_of(caching_graph())) as context:
        (found,) = await context.invoke(counting, pack_arguments(counting, [[3]]))
    assert [int(number) for number in found] == [0, 1, 2]
