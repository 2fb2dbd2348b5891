"""Errors of failed computations, as a channel for single clients' values.

A malicious coordinator with valid keys sends ordinary ops that fail on a client's data. TensorFlow's message for such a
failure quotes the values. Under the default policy the reply must hold none of them: only the status, the op and its
position in the graph that the coordinator itself sent. The message is in the silo's log, under an id that the reply
shows. Errors count towards the bytes that may leave, and a session that fails repeatedly is refused.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker_worker.policy.rules import PolicySettings
from fedbroker_worker.service import SiloService
from tensorflow_federated.python.core.backends.native import compiler

from fedbroker.broker import PrivateBroker
from fedbroker.graphs import known_ops
from fedbroker.log import configure
from fedbroker.runtime.protos import executor_pb2
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Call, Compute, Data, Done, Failed, Value
from tests.support.attackers import Keyring, malicious_coordinator
from tests.support.transports import eventually
from tests.support.worker import WorkClient

pytestmark = [pytest.mark.broker, pytest.mark.runtime, pytest.mark.timeout(900)]

NUMBER = 918273645
WORD = "hugo-paracetamol"
SECRETS = {
    "secret": {"query": f"select ({NUMBER} + i)::int as number, '{WORD}-' || i as word from range(3) t(i)"},
}
MARKS = (str(NUMBER)[:6], WORD, "hugo", "paracetamol", base64.b64encode(WORD.encode()).decode()[:12], "e+08", "645")
COLUMNS = (("number", "int32"), ("word", "str"))
MEMBER = tff.StructType([tff.TensorType(np.int32, [None]), tff.TensorType(np.str_, [None])])

raw = tf.raw_ops


def asserted(number: tf.Tensor, word: tf.Tensor) -> tf.Tensor:
    with tf.control_dependencies([tf.debugging.Assert(number[0] < 0, [number, word], summarize=100)]):
        return tf.identity(number)


def looped(number: tf.Tensor, word: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda i: i < 3, lambda i: i + tf.cast(tf.strings.to_number(word[i]), tf.int32), [0])[0]


OPS: dict[str, Callable[[tf.Tensor, tf.Tensor], object]] = {
    "StringToNumber": lambda number, word: tf.strings.to_number(word),
    "StringToNumber of all rows": lambda number, word: tf.strings.to_number(tf.strings.reduce_join(word)),
    "StringToNumber in a loop": looped,
    "StringToNumber in a branch": lambda number, word: tf.cond(
        number[0] > 0, lambda: tf.strings.to_number(word), lambda: tf.constant([0.0])
    ),
    "StringToNumber in a function": lambda number, word: tf.map_fn(tf.strings.to_number, word, tf.float32),
    "StringToNumber in a dataset": lambda number, word: (
        tf.data.Dataset.from_tensor_slices(word).map(tf.strings.to_number).reduce(0.0, lambda total, one: total + one)
    ),
    "GatherV2": lambda number, word: tf.gather(number, number),
    "Slice": lambda number, word: tf.slice(number, number[:1], [1]),
    "SplitV": lambda number, word: raw.SplitV(value=tf.zeros([7]), size_splits=number, axis=0, num_split=3)[0],
    "EnsureShape": lambda number, word: tf.ensure_shape(tf.zeros([number[0] % 1000]), [7]),
    "ConcatV2": lambda number, word: tf.concat([tf.zeros([number[0] % 1000, 2]), tf.zeros([1, 3])], number[0] * 0),
    "Reshape": lambda number, word: tf.reshape(tf.cast(number, tf.float32) * 2.0, [number[0], 2])[0],
    "Assert": asserted,
    "CheckNumerics": lambda number, word: tf.debugging.check_numerics(tf.cast(number, tf.float32) / 0.0, "no"),
    "DecodeBase64": lambda number, word: tf.strings.length(tf.io.decode_base64(word + "!")),
    "ParseTensor": lambda number, word: tf.io.parse_tensor(word[0], tf.float32),
    "ScatterNd": lambda number, word: tf.scatter_nd(number[:, tf.newaxis], number, [3]),
    "OneHot": lambda number, word: tf.one_hot(number, -number[0]),
    "Cholesky": lambda number, word: tf.linalg.cholesky(tf.zeros([number[0] % 1000, 2])),
    "DynamicStitch": lambda number, word: tf.dynamic_stitch([-number], [number]),
    "AsString": lambda number, word: tf.strings.to_number(tf.strings.as_string(number) + "x"),
    "Fill": lambda number, word: tf.fill([-number[0]], 0.0),
    "Range": lambda number, word: tf.range(0, number[0], -number[0]),
    "StridedSlice": lambda number, word: number[number[0]],
    "SparseToDense": lambda number, word: raw.SparseToDense(
        sparse_indices=number, output_shape=[3], sparse_values=1, default_value=0, validate_indices=True
    ),
    "DecodeCSV": lambda number, word: tf.io.decode_csv(word, [[0]])[0],
    "ParseExample": lambda number, word: tf.io.parse_example(word, {"x": tf.io.FixedLenFeature([], tf.float32)})["x"],
    "DecodeRaw": lambda number, word: tf.io.decode_raw(word, tf.int64),
    "UnicodeDecode": lambda number, word: tf.strings.unicode_decode(word + b"\xff", "UTF-8", errors="strict").values,
    "RegexReplace": lambda number, word: tf.strings.length(tf.strings.regex_replace(word, word[0] + "[", "")),
    "InvertPermutation": lambda number, word: tf.math.invert_permutation(number),
    "BroadcastTo": lambda number, word: tf.broadcast_to(number, [number[0] % 1000]),
    "HistogramFixedWidth": lambda number, word: tf.histogram_fixed_width(number, [number[0], number[0]]),
}
SENTENCE = re.compile(
    r"[A-Z_]+: (the computation failed"
    r"|(?P<op>\w+) failed, node \d+ of (function \d+ of )?graph \d+ of computation \d+ of value \d+)"
)


def summed(function: Callable[[tf.Tensor, tf.Tensor], object]) -> bytes:
    """Return the sum over the clients of a function of their columns, as a blob."""

    @tff.tensorflow.computation(MEMBER)
    def local(columns: object) -> object:
        return tf.reduce_sum(tf.cast(function(columns[0], columns[1]), tf.float32))

    @tff.federated_computation(tff.FederatedType(MEMBER, tff.CLIENTS))
    def run(values: object) -> object:
        return tff.federated_sum(tff.federated_map(local, values))

    proto = tff.framework.ConcreteComputation.get_proto(compiler.desugar_and_transform_to_native(run))
    return executor_pb2.Value(computation=proto).SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def computations() -> Mapping[str, bytes]:
    return {name: summed(op) for name, op in OPS.items()}


@asynccontextmanager
async def attacked(
    broker: PrivateBroker, cohort: str, directory: Path, policy: PolicySettings
) -> AsyncIterator[WorkClient]:
    """Run a real silo with secrets, and a malicious coordinator that it accepts."""
    keyring = Keyring()
    own = keyring.silo_settings(directory, broker.url, cohort, sources=SECRETS)
    async with (
        SiloService(dataclasses.replace(own, policy=policy)),
        malicious_coordinator(broker.url, cohort, keyring) as attacker,
    ):
        await eventually(lambda: "ewr" in attacker.coordinator.silos)
        yield attacker.client()


async def reply_to(client: WorkClient, blob: bytes, session: str | None = None) -> Failed | Done:
    program = [Data(1, "secret", COLUMNS), Value(2, digest_of(blob)), Call(3, 2, 1), Compute(3)]
    reply = await client.send(client.item(program, session=session), [blob])
    assert isinstance(reply, Failed | Done), reply
    return reply


def marks_in(reply: Failed) -> list[str]:
    told = json.dumps(msgspec.to_builtins(msgspec.structs.replace(reply, session_id="")))
    told = re.sub(r"under id [0-9a-f]{8}", "", told.replace(reply.incarnation, ""))
    return [mark for mark in MARKS if mark in told]


async def test_error_of_a_computation_has_op_and_position_and_no_value(
    broker: PrivateBroker,
    cohort: str,
    tmp_path: Path,
    computations: Mapping[str, bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure("json", "info")
    unplaced = []
    async with attacked(broker, cohort, tmp_path, PolicySettings()) as client:
        for name, blob in computations.items():
            reply = await reply_to(client, blob)
            assert isinstance(reply, Failed), name
            assert reply.error_type == "computation", f"{name}: {reply}"
            told = SENTENCE.fullmatch(reply.cause)
            assert told, f"{name}: {reply.cause}"
            assert told["op"] is None or told["op"] in known_ops()
            if told["op"] is None:
                unplaced.append(name)
            assert marks_in(reply) == [], name
            incident = re.search(r"detail in the silo's log under id ([0-9a-f]{8})$", reply.hint)
            assert incident, f"{name}: {reply.hint}"
            # The administrator finds the message.
            lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if '"failure_detail"' in line]
            assert [line["id"] for line in lines] == [incident[1]]
    assert len(unplaced) <= 3, unplaced


async def test_the_same_errors_have_values_if_the_silo_allows_it(
    broker: PrivateBroker, cohort: str, tmp_path: Path, computations: Mapping[str, bytes]
) -> None:
    async with attacked(broker, cohort, tmp_path, PolicySettings(error_detail="full")) as client:
        replies = {name: await reply_to(client, blob) for name, blob in computations.items()}
    telling = [name for name, reply in replies.items() if isinstance(reply, Failed) and marks_in(reply)]
    assert len(telling) > len(OPS) // 2, telling  # else the test above proves nothing


async def test_error_has_no_details_if_too_few_bytes_may_leave(
    broker: PrivateBroker, cohort: str, tmp_path: Path, computations: Mapping[str, bytes]
) -> None:
    for detail in ("position", "full"):
        policy = PolicySettings(max_bytes_out=1, error_detail=detail)
        async with attacked(broker, f"{cohort}{detail}", tmp_path, policy) as client:
            for name in ("StringToNumber", "GatherV2"):
                reply = await reply_to(client, computations[name])
                assert isinstance(reply, Failed)
                assert (reply.cause, reply.hint) == (
                    "it failed, and the session has used up its bytes (max_bytes_out)",
                    "",
                )


async def test_error_is_independent_of_the_data_if_no_bytes_may_leave(
    broker: PrivateBroker, cohort: str, tmp_path: Path, computations: Mapping[str, bytes]
) -> None:
    policy = PolicySettings(max_bytes_out=0, aggregates="recognised")
    works = summed(lambda number, word: tf.reduce_sum(number))
    grows = summed(lambda number, word: tf.zeros([number[0] % 1000]))
    async with attacked(broker, cohort, tmp_path, policy) as client:
        replies = [await reply_to(client, one) for one in (works, grows, computations["StringToNumber"])]
    told = {(reply.error_type, reply.rule, reply.cause, reply.hint) for reply in replies if isinstance(reply, Failed)}
    assert len(replies) == 3
    assert {one[:2] for one in told} == {("refused", "max_bytes_out")}
    assert len(told) == 1


async def test_data_dependent_refusals_count_as_failures_of_the_session(
    broker: PrivateBroker, cohort: str, tmp_path: Path
) -> None:
    async with attacked(broker, cohort, tmp_path, PolicySettings(max_bytes_out=10, max_failures=2)) as client:
        grows = summed(lambda number, word: tf.zeros([number[0] % 1000]))
        replies = [await reply_to(client, grows, session="s") for _ in range(3)]
    assert [reply.rule for reply in replies] == ["max_bytes_out", "max_bytes_out", "max_failures"]


async def test_errors_count_towards_the_bytes_that_may_leave(
    broker: PrivateBroker, cohort: str, tmp_path: Path, computations: Mapping[str, bytes]
) -> None:
    policy = PolicySettings(max_bytes_out=500, max_failures=100)
    async with attacked(broker, cohort, tmp_path, policy) as client:
        left = 0
        for _ in range(8):
            reply = await reply_to(client, computations["StringToNumber"], session="s")
            assert isinstance(reply, Failed)
            if "used up its bytes" not in reply.cause:
                left += len(reply.cause) + len(reply.hint)
        assert "used up its bytes" in reply.cause
        assert 0 < left <= 500
        reply = await reply_to(client, computations["StringToNumber"])  # of another session
        assert SENTENCE.fullmatch(reply.cause)


async def test_a_session_that_fails_too_often_is_refused(
    broker: PrivateBroker, cohort: str, tmp_path: Path, computations: Mapping[str, bytes]
) -> None:
    async with attacked(broker, cohort, tmp_path, PolicySettings()) as client:
        replies = [await reply_to(client, computations["Fill"], session="s") for _ in range(6)]
        assert [(reply.error_type, reply.rule) for reply in replies] == [
            *[("computation", "")] * 4,
            *[("refused", "max_failures")] * 2,
        ]
        assert (await reply_to(client, computations["Fill"])).error_type == "computation"


async def test_size_of_refused_results_is_not_shown(broker: PrivateBroker, cohort: str, tmp_path: Path) -> None:
    async with attacked(broker, cohort, tmp_path, PolicySettings(max_bytes_out=10)) as client:
        reply = await reply_to(client, summed(lambda number, word: tf.zeros([number[0] % 1000])))
        assert isinstance(reply, Failed)
        assert reply.rule == "max_bytes_out"
        assert reply.cause == "the session's results would take more than the 10 bytes that may leave"
