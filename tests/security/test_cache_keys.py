"""A coordinator with valid keys shows one graph to a silo's policy, and makes the C++ runtime run another.

TFF's runtime caches graphs by a number that comes with each, ``cache_key``, for all sessions of its process. If two
graphs have one number, the first one runs in place of the second: instead of a sum that the silo has recognised, or of
another coordinator's graph. Each graph that is sent must be the graph that runs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow_federated as tff
from fedbroker_worker.service import SiloService
from tensorflow_federated.proto.v0 import data_type_pb2

from fedbroker.runtime.cache_keys import with_content_keys
from fedbroker.runtime.protos import executor_pb2
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Call, Compute, Struct, Value
from tests.security.test_aggregates import SOURCE, STRICT, aggregate, asked, function, pair, total_of, zero
from tests.support.attackers import Keyring
from tests.support.transports import coordinator_transport, eventually
from tests.support.worker import WorkClient, load_settings, running_silo

KEY = 77
FLOAT = tff.TensorType(np.float32)

honest = function(lambda so_far, value: so_far + value, pair(FLOAT))
keeps_the_last = function(lambda so_far, value: 0 * so_far + value, pair(FLOAT))


def graphs_of(message):
    """Yield every TensorFlow computation in a message."""
    for field, content in message.ListFields():
        if field.message_type is None:
            continue
        for one in content if field.label == field.LABEL_REPEATED else [content]:
            if one.DESCRIPTOR.name == "TensorFlow":
                yield one
            else:
                yield from graphs_of(one)


def with_key(value: bytes, key: int = KEY) -> bytes:
    """Return the value with that key on the graphs of an addition, or on all."""
    found = executor_pb2.Value.FromString(value)
    for graph in graphs_of(found):
        if b"AddV2" in graph.graph_def.value:
            graph.cache_key.id = key
    return bytes(found.SerializeToString(deterministic=True))


def alone(computation) -> bytes:
    """Return a computation as a value for a silo."""
    proto = tff.framework.serialize_computation(computation)
    return bytes(executor_pb2.Value(computation=proto).SerializeToString(deterministic=True))


def number(value: float) -> bytes:
    found = executor_pb2.Value()
    found.array.dtype = data_type_pb2.DT_FLOAT
    found.array.shape.SetInParent()
    found.array.float32_list.value.append(value)
    return bytes(found.SerializeToString(deterministic=True))


def called(computation: bytes, *arguments: bytes):
    """Return ops that call a computation with the coordinator's numbers, and their blobs."""
    program = [Value(at, digest_of(one)) for at, one in enumerate([computation, *arguments])]
    program += [Struct(10, tuple(("", 1 + at) for at in range(len(arguments)))), Call(11, 0, 10), Compute(11)]
    return program, [computation, *arguments]


def result_of(outputs) -> float:
    (found,) = executor_pb2.Value.FromString(outputs[0]).array.float32_list.value
    return float(found)


@pytest.mark.broker
@pytest.mark.runtime
async def test_the_recognised_sum_is_the_graph_that_runs(broker, cohort, tmp_path):
    own = dataclasses.replace(load_settings(tmp_path, broker.url, cohort, SOURCE), policy=STRICT)
    attack, recognised = with_key(alone(keeps_the_last)), with_key(aggregate(zero, honest, honest))
    async with running_silo(own) as (_, client):
        program, blobs = called(attack, number(3.0), number(4.0))
        assert result_of(await client.outputs(client.item(program, clients=5), blobs)) == 4.0
        outputs = await client.outputs(client.item(asked(recognised), clients=5), [recognised])
    assert total_of(outputs) == [10035.0]


@pytest.mark.broker
@pytest.mark.runtime
async def test_a_coordinator_cannot_replace_the_graph_of_another(broker, cohort, tmp_path):
    keyring = Keyring()
    results = {}
    async with (
        SiloService(keyring.silo_settings(tmp_path, broker.url, cohort, policy={})),
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("a")) as a,
        coordinator_transport(broker.url, cohort, keys=keyring.of_coordinator("b")) as b,
    ):
        for end, computation in ((b, keeps_the_last), (a, honest)):
            await eventually(lambda end=end: "ewr" in end.silos)
            program, blobs = called(with_key(alone(computation)), number(3.0), number(4.0))
            client = WorkClient(end)
            results[computation] = result_of(await client.outputs(client.item(program), blobs))
    assert results == {keeps_the_last: 4.0, honest: 7.0}


def keys_in(value) -> list[int]:
    return [
        graph.cache_key.id for graph in graphs_of(executor_pb2.Value.FromString(b"".join(with_content_keys(value))))
    ]


def test_the_key_of_a_graph_is_independent_of_its_position():
    one, other = with_key(alone(honest)), with_key(alone(keeps_the_last))
    assert keys_in(one) == keys_in(with_key(alone(honest), 5)) != keys_in(other)
    nested = executor_pb2.Value()
    nested.struct.element.add(name="a").value.struct.element.add().value.ParseFromString(one)
    nested.struct.element.add().value.federated.value.add().ParseFromString(other)
    nested.struct.element.add().value.ParseFromString(number(1.0))
    assert keys_in(nested.SerializeToString()) == keys_in(one) + keys_in(other)
    whole = executor_pb2.Value.FromString(b"".join(with_content_keys(nested.SerializeToString())))
    for found in (whole, nested):
        for graph in graphs_of(found):
            graph.ClearField("cache_key")
    assert whole == nested


def test_an_uncached_graph_stays_uncached():
    assert keys_in(alone(honest)) == [0]


@pytest.mark.parametrize("value", [b"", b"\xff", number(1.0), b"\x0a\x05ab", b"\x12\x00"])
def test_unreadable_values_and_values_without_graphs_are_unchanged(value):
    assert b"".join(with_content_keys(value)) == value
