"""A silo's replies to hand-made work that tries to evade its policy, and its audit log of them."""

from __future__ import annotations

import dataclasses

import pytest
import tensorflow as tf
from fedbroker_worker.policy.audit import read_audit
from fedbroker_worker.policy.rules import PolicySettings

from fedbroker.runtime.protos import computation_pb2, executor_pb2
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.messages import Call, Compute, Data, Done, Failed, Struct, Value
from tests.support.worker import call_ops, echo_ops, identity_computation, load_settings, running_silo

pytestmark = [pytest.mark.broker, pytest.mark.runtime]

AGGREGATE = [Struct(1, ()), Compute(1)]  # contains no client value


@pytest.fixture
async def silo(broker, cohort, tmp_path):
    """Run a silo with the default policy and an audit log."""
    own = load_settings(tmp_path, broker.url, cohort)
    policy = PolicySettings(audit_file="audit.log")
    async with running_silo(dataclasses.replace(own, policy=policy)) as (_, client):
        yield client


def audit(path):
    found = read_audit((path / "audit.log").read_bytes().splitlines(keepends=True))
    assert found.problem is None
    return found.lines


async def refused(client, item, blobs=()):
    reply = await client.send(item, blobs)
    assert isinstance(reply, Failed), reply
    assert isinstance(await client.send(client.item(AGGREGATE)), Done)  # the next one succeeds
    return reply


def hidden():
    """Return a graph that reads a file, as bytes in a constant that is declared a sequence."""
    inner = tf.compat.v1.GraphDef()
    inner.node.add(name="out", op="ReadFile")
    with tf.Graph().as_default() as outer:
        tf.constant(inner.SerializeToString(), name="bytes")
    computation = computation_pb2.Computation()
    computation.tensorflow.graph_def.Pack(outer.as_graph_def())
    computation.tensorflow.result.sequence.graph_def_tensor_name = "bytes:0"
    return executor_pb2.Value(computation=computation).SerializeToString()


def sequence():
    graph = tf.compat.v1.GraphDef()
    graph.node.add(name="out", op="TextLineDataset")
    value = executor_pb2.Value()
    value.sequence.serialized_graph_def = graph.SerializeToString()
    return value.SerializeToString()


@pytest.mark.parametrize(
    ("blob", "said"),
    [(hidden(), "bytes of a graph"), (sequence(), "TextLineDataset"), (b"\x0a", "malformed"), (b"", "unknown way")],
)
async def test_hidden_or_unreadable_graphs_are_refused(silo, tmp_path, blob, said):
    reply = await refused(silo, silo.item([Value(1, digest_of(blob)), Compute(1)]), [blob])
    assert (reply.error_type, reply.rule) == ("refused", "refuse_ops")
    assert said in reply.cause


async def test_client_value_in_a_struct_is_refused(silo):
    function = identity_computation()
    program = [*call_ops(function)[:-1], Struct(4, (("", 3), ("", 3))), Struct(5, (("", 4),)), Compute(5)]
    reply = await refused(silo, silo.item(program), [function])
    assert reply.rule == "client_results"


async def test_refusal_ends_the_session(silo):
    item = silo.item(echo_ops(), session="gone", last=False)
    assert (await refused(silo, item)).rule == "client_results"
    reply = await refused(silo, silo.item([Compute(1)], session="gone", stage=1))
    assert reply.error_type == "lost"


async def test_output_bytes_are_counted_over_a_session(broker, cohort, tmp_path):
    size = len(executor_pb2.Value(struct=executor_pb2.Value.Struct()).SerializeToString())
    own = dataclasses.replace(
        load_settings(tmp_path, broker.url, cohort), policy=PolicySettings(max_bytes_out=2 * size)
    )
    async with running_silo(own) as (_, client):
        for stage in (0, 1):
            item = client.item(AGGREGATE, session="s", stage=stage, last=False)
            assert isinstance(await client.send(item), Done)
        reply = await client.send(client.item(AGGREGATE, session="s", stage=2))
        assert isinstance(reply, Failed)
        assert reply.rule == "max_bytes_out"
        assert isinstance(await client.send(client.item(AGGREGATE)), Done)


async def test_audit_log_records_beginning_and_outcome_of_work(silo, tmp_path):
    function = identity_computation()
    columns = (("x", "float32"), ("k", "int32"))
    program = [Data(1, "rows", columns), Value(2, digest_of(function)), Call(3, 2, 1), Compute(3)]
    item = silo.item(program)
    await silo.send(item, [function])
    other = silo.item(AGGREGATE, stage=0)
    done = await silo.send(other)
    began, first, second = audit(tmp_path)
    assert (began["outcome"], began["session"], began["sources"]) == ("begun", first["session"], first["sources"])
    assert first["begun"] == first["previous"]  # the hash of the previous line
    assert "begun" not in second  # it read no data
    assert first["session"] == item.session_id
    assert first["coordinator"] == silo.transport.coordinator_id
    assert first["sources"] == [{"name": "rows", "columns": ["x", "k"], "types": ["float32", "int32"]}]
    assert len(first["computations"]) == 1
    assert (first["outcome"], first["rule"], first["bytes_out"]) == ("refused", "client_results", 0)
    assert (second["outcome"], second["outputs"]) == ("answered", [digest for digest, _ in done.outputs])
    assert second["bytes_out"] == sum(size for _, size in done.outputs)


async def test_work_fails_if_the_audit_log_cannot_be_written(silo, tmp_path):
    (tmp_path / "audit.log").unlink()
    (tmp_path / "audit.log").mkdir()
    reply = await silo.send(silo.item(AGGREGATE))
    assert isinstance(reply, Failed)
    assert (reply.error_type, reply.cause) == ("refused", "the silo's audit log cannot be written")
    (tmp_path / "audit.log").rmdir()
    assert isinstance(await silo.send(silo.item(AGGREGATE)), Done)
