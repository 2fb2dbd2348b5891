"""A malicious silo with valid keys replies with wrong outputs.

Too few or too many outputs, a value at the clients in place of the server or the reverse, wrong numbers of clients,
unrequested outputs, sizes that do not match: each is a failure of that silo, which the error names, and of no other
silo. The honest silo's reply counts, no other kind of exception reaches the program, and outputs that were only
announced are not waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import data_type_pb2

import fedbroker
from fedbroker.context.values.codec import federate, serialize, structure
from fedbroker.errors import SiloError
from fedbroker.runtime.protos import executor_pb2
from fedbroker.trust.keyring import SECRET, keys_table
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Done, WorkItem
from tests.support.attackers import Keyring, MaliciousSilo, malicious_silo
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments

pytestmark = pytest.mark.timeout(600)

NUMBER = tff.TensorType(np.float32)
AT_CLIENTS = tff.FederatedType(NUMBER, tff.CLIENTS)
AT_SERVER = tff.FederatedType(NUMBER, tff.SERVER)
FOUR = [1.0, 2.0, 3.0, 4.0]
"""One value for each client; two belong to the honest silo, two to the malicious one."""


@tff.tensorflow.computation(NUMBER)
def double(x):
    return 2 * x


@tff.federated_computation(AT_CLIENTS)
def two_sums(x):
    return tff.federated_sum(x), tff.federated_sum(tff.federated_map(double, x))


@tff.federated_computation(AT_CLIENTS)
def doubled(x):
    return tff.federated_map(double, x)


def struct(*values: bytes) -> bytes:
    return b"".join(structure(values))


def at_server(value: float) -> bytes:
    return bytes(serialize(value, AT_SERVER))


def at_clients(*values: float) -> bytes:
    return bytes(serialize(list(values), AT_CLIENTS))


def server_with(*values: float) -> bytes:
    """Return a value that claims to be at the server, with any number of members."""
    return bytes(federate([serialize(value, NUMBER) for value in values], AT_SERVER))


PARTIALS = at_server(3.0), at_server(6.0)
"""The outputs of an honest silo with the clients 1.0 and 2.0, for two sums."""

OF_SUMS: Mapping[str, Sequence[bytes]] = {
    "no output": [],
    "the same output twice": [struct(*PARTIALS)] * 2,
    "an output never asked for": [struct(*PARTIALS), struct(at_server(1.0))],
    "its values in a struct each": [struct(PARTIALS[0]), struct(PARTIALS[1])],
    "its values without a struct": list(PARTIALS),
    "an empty struct more": [struct(*PARTIALS), struct()],
    "too few values": [struct(PARTIALS[0])],
    "no values": [struct()],
    "too many values": [struct(*PARTIALS, PARTIALS[0])],
    "no struct": [PARTIALS[0]],
    "a value at the clients": [struct(at_clients(3.0), PARTIALS[1])],
    "values at both clients": [struct(at_clients(1.0, 2.0), PARTIALS[1])],
    "two values at the server": [struct(server_with(1.0, 2.0), PARTIALS[1])],
    "no value at the server": [struct(server_with(), PARTIALS[1])],
    "a value that is placed nowhere": [struct(bytes(serialize(3.0, NUMBER)), PARTIALS[1])],
    "no bytes": [b""],
    "garbage": [b"\xff" * 64],
}
OF_CLIENTS: Mapping[str, Sequence[bytes]] = {
    "too few clients": [struct(at_clients(2.0))],
    "too many clients": [struct(at_clients(2.0, 4.0, 6.0))],
    "no clients": [struct(at_clients())],
    "a value at the server": [struct(at_server(2.0))],
    "two values at the server": [struct(server_with(2.0, 4.0))],
}


def with_outputs(attacker: MaliciousSilo, outputs: Sequence[bytes]) -> Callable[[WorkItem], Awaitable[None]]:
    return lambda item: attacker.reply_with_outputs(item, outputs)


def announcing(
    attacker: MaliciousSilo, outputs: Sequence[tuple[bytes, int]], *sent: bytes, held: bool = False
) -> Callable[[WorkItem], Awaitable[None]]:
    """Return a handler that announces outputs with any sizes and sends only some of them."""

    async def answer(item: WorkItem) -> None:
        sizes = tuple((digest_of(output), size) for output, size in outputs)
        name, incarnation = attacker.silo.name, attacker.silo.incarnation
        await attacker.reply(
            item, Done(item.session_id, item.stage, name, incarnation, sizes, 0.0, deferred=held), sent
        )

    return answer


@asynccontextmanager
async def victim(broker, cohort: str, directory: Path, honest: Sequence[bytes], **options):
    """Run a program whose cohort is an honest silo, ``ewr``, and the malicious one, ``jfk``."""
    keyring = Keyring()
    public = {name: own.public for name, own in keyring.silos.items()}
    (directory / SECRET).write_text(keyring.coordinators["a"].reveal() + "\n")
    (directory / "keys.toml").write_text(keys_table(public, seal=False))
    context = fedbroker.create_sync_execution_context(
        broker.url,
        cohort=cohort,
        min_silos=2,
        keys=directory / "keys.toml",
        progress=False,
        **context_settings(**options),
    )
    async with (
        malicious_silo(broker.url, cohort, keyring, "ewr") as ewr,
        malicious_silo(broker.url, cohort, keyring, "jfk") as jfk,
    ):
        ewr.silo.answer = with_outputs(ewr, honest)
        try:
            yield context, jfk
        finally:
            await asyncio.to_thread(context.close)


async def invoke(context, comp):
    return await asyncio.to_thread(context.invoke, comp, pack_arguments(comp, (FOUR,)))


def endings(context) -> dict[str, str]:
    (stage,) = context.last_session.stages
    return {one.silo: one.outcome for one in stage.silos}


DROP = {"stragglers": "drop", "quorum": 1}


async def test_unrequested_outputs_fail_only_that_silo(broker, cohort, tmp_path):
    async with victim(broker, cohort, tmp_path, [struct(*PARTIALS)], **DROP) as (context, jfk):
        for attack, outputs in OF_SUMS.items():
            jfk.silo.answer = with_outputs(jfk, outputs)
            assert await invoke(context, two_sums) == (3.0, 6.0), attack
            assert endings(context) == {"ewr": "answered", "jfk": "refused"}, attack
        jfk.silo.answer = with_outputs(jfk, [struct(at_server(7.0), at_server(14.0))])
        assert await invoke(context, two_sums) == (10.0, 20.0)


async def test_values_of_other_clients_fail_only_that_silo(broker, cohort, tmp_path):
    async with victim(broker, cohort, tmp_path, [struct(at_clients(2.0, 4.0))], **DROP) as (context, jfk):
        for attack, outputs in OF_CLIENTS.items():
            jfk.silo.answer = with_outputs(jfk, outputs)
            assert await invoke(context, doubled) == [2.0, 4.0], attack
            assert endings(context) == {"ewr": "answered", "jfk": "refused"}, attack
        jfk.silo.answer = with_outputs(jfk, [struct(at_clients(6.0, 8.0))])
        assert await invoke(context, doubled) == [2.0, 4.0, 6.0, 8.0]


OF_ANY_SHAPE = tff.TensorType(np.float32, [None, None, None])


@tff.federated_computation(AT_CLIENTS)
def of_any_shape(x):
    same = tff.tensorflow.computation(lambda one: tf.compat.v1.placeholder_with_default([[[one]]], [None] * 3), NUMBER)
    return tff.federated_map(same, x)


IMPOSSIBLE: Mapping[str, Sequence[int]] = {
    "none, times more elements than can be counted": [0, 1 << 31, 1 << 31],
    "more elements than can be counted, times none": [1, 1 << 62, 0],
}


async def test_impossible_shape_fails_only_that_silo(broker, cohort, tmp_path):
    type_ = tff.FederatedType(OF_ANY_SHAPE, tff.CLIENTS)
    honest = struct(bytes(serialize([np.full([1, 1, 1], value, np.float32) for value in (2.0, 4.0)], type_)))
    async with victim(broker, cohort, tmp_path, [honest], **DROP) as (context, jfk):
        for attack, dims in IMPOSSIBLE.items():
            value = executor_pb2.Value()
            value.array.dtype = data_type_pb2.DT_FLOAT
            value.array.shape.dim.extend(dims)
            value.array.content = b""
            jfk.silo.answer = with_outputs(jfk, [struct(bytes(federate([value.SerializeToString()] * 2, type_)))])
            assert [one.item() for one in await invoke(context, of_any_shape)] == [2.0, 4.0], attack
            assert endings(context) == {"ewr": "answered", "jfk": "refused"}, attack


async def test_error_names_the_malicious_silo_if_every_silo_must_answer(broker, cohort, tmp_path):
    async with victim(broker, cohort, tmp_path, [struct(*PARTIALS)]) as (context, jfk):
        for attack, outputs in OF_SUMS.items():
            jfk.silo.answer = with_outputs(jfk, outputs)
            with pytest.raises(SiloError, match="reply is invalid") as caught:
                await invoke(context, two_sums)
            assert caught.value.silo == "jfk", attack
            assert not caught.value.retryable


async def test_announced_outputs_that_are_never_sent_are_not_waited_for(broker, cohort, tmp_path):
    good = struct(*PARTIALS)
    async with victim(broker, cohort, tmp_path, [good], **DROP) as (context, jfk):
        attacks = {
            "a thousand outputs": announcing(jfk, [(b"%d" % number, 9) for number in range(1000)]),
            "a thousand outputs that it holds": announcing(jfk, [(b"%d" % n, 9) for n in range(1000)], held=True),
            "more than any value may have": announcing(jfk, [(good, 1 << 40)]),
            "a size that no machine has": announcing(jfk, [(good, (1 << 63) - 1)], held=True),
        }
        for attack, answer in attacks.items():
            jfk.silo.answer = answer
            started = time.monotonic()
            assert await invoke(context, two_sums) == (3.0, 6.0), attack
            assert endings(context)["jfk"] == "refused", attack
            assert time.monotonic() - started < 25, attack  # outstanding results are given up after 30 s


async def test_output_of_another_size_than_announced_is_refused(broker, cohort, tmp_path):
    good = struct(*PARTIALS)
    async with victim(broker, cohort, tmp_path, [good], **DROP) as (context, jfk):
        for size in (0, 1, len(good) - 1, len(good) + 1, 1 << 20):
            jfk.silo.answer = announcing(jfk, [(good, size)], good)
            assert await invoke(context, two_sums) == (3.0, 6.0), size
            assert endings(context)["jfk"] == "refused", size
