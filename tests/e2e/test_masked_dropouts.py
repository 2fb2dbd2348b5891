"""Silos that are killed while a masked sum is formed: it is the exact sum over the silos that it names."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff
from fedbroker_worker.policy.audit import read_audit

import fedbroker
from fedbroker.errors import SiloError
from tests.support.context_settings import context_settings
from tests.support.gated_source import block_reads, gated_source, read_count, unblock_reads
from tests.support.local_tff import pack_arguments
from tests.support.masked_cohort import MASKED, masked_cohort, masked_context
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

VALUES = {"s00": 1.0, "s01": 10.0, "s02": 100.0, "s03": 1000.0}
COLUMN = tff.TensorType(np.float32, [None])


@tff.tensorflow.computation(COLUMN)
def rounded(column):
    return tf.cast(tf.round(tf.reduce_sum(column)), tf.int32)


@tff.federated_computation(tff.FederatedType(COLUMN, tff.CLIENTS))
def summed(columns):
    return tff.federated_secure_sum(tff.federated_map(rounded, columns), 1000)


@tff.tensorflow.computation(tff.TensorType(np.int32, [None]))
def size(column):
    return tf.size(column)


@tff.federated_computation(tff.FederatedType(tff.TensorType(np.int32, [None]), tff.CLIENTS))
def rows(columns):
    return tff.federated_secure_sum(tff.federated_map(size, columns), 100)


@pytest.fixture
def silos(request, broker, cohort, tmp_path, monkeypatch):
    """Run four silos, the last of which holds its data back; the parameter is their ``min_sum_silos``."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sources"), prepend=os.pathsep)
    gated = gated_source(tmp_path / "sources")
    sources = {name: {"numbers": gated | {"value": value}} for name, value in VALUES.items()}
    policy = {**MASKED, "audit_file": "audit.log", "min_sum_silos": getattr(request, "param", 3)}
    with masked_cohort(broker, cohort, sources, policy=policy, directory=tmp_path / "silos") as silos:
        block_reads(silos.silos["s03"].directory)
        yield silos


def audit(silos, name, outcome):
    """Return the audit log's lines with an outcome."""
    path = silos.silos[name].directory / "audit.log"
    lines = read_audit(path.read_bytes().splitlines(keepends=True)).lines if path.exists() else []
    return [line for line in lines if line["outcome"] == outcome]


def answered(events):
    return {event.silo for event in events if event.name == "silo_answered"}


def start(pool, context):
    return pool.submit(context.invoke, summed, pack_arguments(summed, (fedbroker.data("numbers"),)))


def test_silo_that_is_killed_before_its_reply_is_not_in_the_sum(silos):
    settings = {"stragglers": "drop", "quorum": 3, "stage": 90.0, "grace": 2.0}
    with masked_context(silos, **settings) as context, ThreadPoolExecutor(1) as pool:
        total = start(pool, context)
        assert wait_until(lambda: read_count(silos.silos["s03"].directory) == 1, 60)
        silos.silos["s03"].kill()
        assert total.result(120) == 111
        assert context.last_session.participants == ("s00", "s01", "s02")
    for name in ("s00", "s01", "s02"):
        (line,) = audit(silos, name, "revealed")
        assert line["survivors"] == ["s00", "s01", "s02"]
        assert line["dropped"] in ([], ["s03"])  # none if the stage was shared without it


async def test_more_sums_at_a_time_than_a_silo_computes(broker, cohort, monkeypatch):
    """Two coordinators' work reaches the silos in different orders; each silo computes for one sum at a time."""
    monkeypatch.setenv("FEDBROKER_SILO_MAX_WORK", "1")
    with masked_cohort(broker, cohort, 3, policy=MASKED) as silos:
        settings = context_settings(secure_sum="masked", stragglers="drop", quorum=3, stage=60.0, retries=0)
        make = partial(fedbroker.create_async_execution_context, silos.url, cohort=cohort, keys=silos.keys, min_silos=3)
        async with make(**settings) as one, make(**settings) as other:
            numbers = pack_arguments(rows, (fedbroker.data("numbers"),))
            totals = await asyncio.gather(*[context.invoke(rows, numbers) for context in (one, other) * 3])
    assert list(map(int, totals)) == [6] * 6


@pytest.mark.parametrize("silos", [4], indirect=True)
def test_sum_over_too_few_silos_fails_at_once_with_their_reason(silos):
    settings = {"stragglers": "drop", "quorum": 3, "stage": 90.0, "grace": 2.0, "retries": 0}
    with masked_context(silos, **settings) as context, ThreadPoolExecutor(1) as pool:
        total = start(pool, context)
        assert wait_until(lambda: read_count(silos.silos["s03"].directory) == 1, 60)
        silos.silos["s03"].kill()
        error = total.exception(120)
    assert isinstance(error, SiloError)
    assert "it refused to sign who takes part: a masked sum over 3 silos with clients" in str(error)
    assert "lower min_sum_silos" in error.hint
    assert context.last_session.seconds < 10  # what the time-out of the unmasking takes at least
    assert [audit(silos, name, "revealed") for name in ("s00", "s01", "s02")] == [[], [], []]
    assert "over 3 silos with clients" in audit(silos, "s00", "refused")[-1]["why"]


def test_silo_that_is_killed_after_its_reply_is_in_the_sum(silos):
    events = []
    settings = {"stragglers": "drop", "quorum": 4, "stage": 90.0, "on_event": events.append}
    with masked_context(silos, **settings) as context, ThreadPoolExecutor(1) as pool:
        total = start(pool, context)
        assert wait_until(lambda: {"s00", "s01", "s02"} <= answered(events), 60)
        silos.silos["s00"].kill()
        unblock_reads(silos.silos["s03"].directory)
        assert total.result(120) == 1111
        assert context.last_session.participants == tuple(VALUES)
    assert audit(silos, "s00", "revealed") == []
    for name in ("s01", "s02", "s03"):
        (line,) = audit(silos, name, "revealed")
        assert (line["survivors"], line["dropped"]) == (list(VALUES), [])
