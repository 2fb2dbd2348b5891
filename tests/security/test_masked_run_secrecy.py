"""Everything that a real broker holds during masked sums, and so all that its coordinator receives, is noise.

Messages are signed and not sealed, so that the broker's copies are the very bytes that the coordinator reads. Two
inputs with the same sum are run again and again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

import fedbroker
from fedbroker.masking.results import read_masked
from fedbroker.masking.rings import Ring
from fedbroker.masking.steps import decode_step
from fedbroker.masking.survivors import Revealed
from fedbroker.trust.envelope import unverified_body
from fedbroker.wire.blobs import digest_of
from fedbroker.wire.codec import decode
from fedbroker.wire.messages import Done, MaskReply
from tests.security.test_masked_secrecy import cells, chi_squared, deviations, packed
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments
from tests.support.masked_cohort import masked_cohort
from tests.support.spy import message_spy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

SIZE, RUNS = 64, 6
SIGMAS = 8  # from the mean of a chi-square, with fresh secrets in each run: below one in ten million
BASES = {"s00": 611_953_000_123, "s01": 407_222_333_777, "s02": 93_517_000_491}
SPREADS = {"one": 0, "other": 87_654_321_987}
"""Input ``other``: so much more at s00, and less at s02; the sums are equal."""

RING = Ring(6)
"""The bytes of sums of three values below 2^40 in magnitude."""

COLUMN = tff.TensorType(np.int64, [None])


def values(silo: str, spread: str):
    """Return a silo's values: each is too large and too odd to occur by chance."""
    shift = {"s00": SPREADS[spread], "s02": -SPREADS[spread]}.get(silo, 0)
    return BASES[silo] + shift + 1_000_003 * np.arange(SIZE, dtype=np.int64)


@tff.tensorflow.computation(COLUMN)
def fixed(column):
    return tf.reshape(column, [SIZE])


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def summed(columns):
    return tff.federated_secure_sum(tff.federated_map(fixed, columns), 1 << 40)


async def record(url, silos, secure_sum="masked", **settings):
    """Run both inputs again and again; return copies of all messages, by input."""
    copies = {}
    options = context_settings(secure_sum=secure_sum, **settings)
    async with fedbroker.create_async_execution_context(
        url, cohort=silos.cohort, keys=silos.keys, min_silos=3, **options
    ) as context:
        for spread in SPREADS:
            async with message_spy(url, silos.cohort, "s00") as found:
                for _ in range(RUNS):
                    total = await context.invoke(summed, pack_arguments(summed, (fedbroker.data(spread),)))
                    assert np.array_equal(total, sum(values(silo, spread) for silo in BASES))
                await asyncio.sleep(0)
                copies[spread] = list(found)
    return copies


@pytest.fixture(scope="module")
def silos(broker):
    query = "select ({base} + 1000003 * i)::bigint as x from range({size}) t(i) order by i"
    sources = {
        silo: {
            spread: {"source": "duckdb", "query": query.format(base=int(values(silo, spread)[0]), size=SIZE)}
            for spread in SPREADS
        }
        for silo in BASES
    }
    with masked_cohort(broker, "masked-secrecy", sources, security="sign") as silos:
        yield silos


def messages(copies):
    """Return the messages of a cohort that are no blobs, with their attachments."""
    found = []
    for copy in copies:
        message, attachments = decode(unverified_body(copy.body))
        found.append((message, [bytes(attachment) for attachment in attachments]))
    return found


def masked_values(copies):
    """Return the masked values of each silo in the order of arrival."""
    found = defaultdict(list)
    for message, attachments in messages(copies):
        by_digest = {digest_of(attachment): attachment for attachment in attachments}
        if isinstance(message, Done):
            _, ((_, elements),) = read_masked(by_digest[message.outputs[-1][0]], (RING,))
            found[message.silo].append(elements)
    return found


def encodings(array):
    """Return the bytes in which values may appear: two neighbours, so that none occurs by chance."""
    for at in range(0, SIZE - 1, 2):
        pair = array[at : at + 2]
        yield pair.astype("<i8").tobytes()
        yield pair.astype(">i8").tobytes()
        yield RING.pack(RING.elements(pair))
        yield b"".join(varint(int(one)) for one in pair)
        yield ", ".join(map(str, pair.tolist())).encode()


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def shows(copies, array) -> bool:
    everything = b"\n".join(copy.everything for copy in copies)
    return any(form in everything for form in encodings(array))


@pytest.mark.parametrize("dropouts", [False, True])
def test_broker_and_coordinator_hold_noise(broker, silos, dropouts):
    policy = {"stragglers": "drop", "quorum": 3} if dropouts else {}
    copies = asyncio.run(record(broker.url, silos, **policy))
    both = []
    for spread, found in copies.items():
        by_silo = masked_values(found)
        assert {silo: len(runs) for silo, runs in by_silo.items()} == dict.fromkeys(BASES, RUNS)
        for silo, runs in by_silo.items():
            elements = np.concatenate(runs)
            assert chi_squared(cells(RING, elements)) < SIGMAS
            assert chi_squared(np.bincount(packed(RING, elements), minlength=256)) < SIGMAS
            assert not shows(found, values(silo, spread))
        both.append(sum(cells(RING, np.concatenate(runs)) for runs in by_silo.values()))
    one, other = both
    assert deviations(((one - other) ** 2 / (one + other)).sum(), len(one) - 1) < SIGMAS
    everything = b"\n".join(copy.everything for found in copies.values() for copy in found)
    for silo in BASES:
        text = (silos.silos[silo].directory / "secret.key").read_text().strip()
        assert text.rpartition(":")[2].encode() not in everything
    steps = [(message, content) for found in copies.values() for message, content in messages(found)]
    shares = [decode_step(content[0], Revealed) for step, content in steps if _is_step(step, "shares")]
    assert bool(shares) == dropouts
    for one in shares:  # of each silo one secret only
        assert (set(one.seeds), set(one.keys)) == (set(BASES), set())


def _is_step(message, step) -> bool:
    return isinstance(message, MaskReply) and message.step == step


def test_the_same_record_shows_sums_in_plaintext(broker, silos):
    copies = asyncio.run(record(broker.url, silos, secure_sum="plaintext"))
    assert all(shows(copies["one"], values(silo, "one")) for silo in BASES)
