"""Membership changes: a part of the cohort, fixed numbers of clients, results without aggregates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import CohortTimeout, DeadlineExceeded
from tests.faults.harness import COHORT, VICTIM
from tests.support import computations as c
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

DROP = {"min_silos": 2, "stragglers": "drop", "stage": 10.0}
SIX = [1.0, 2.0, 10.0, 20.0, 100.0, 200.0]  # two at each silo, distributed in order


@tff.federated_computation()
def count():
    return tff.federated_sum(tff.federated_value(np.int32(1), tff.CLIENTS))


@tff.federated_computation(tff.FederatedType(c.COLUMN, tff.CLIENTS))
def each(values):
    return tff.federated_map(c.add, values)


@pytest.fixture
def mended(bench):
    yield bench
    bench.mend()


@pytest.fixture
def of_cohort(mended):
    """Yield a function that opens a context: ``context, ask = of_cohort(**options)``; it knows all silos."""
    contexts = []

    def make(*, there=3, **options):
        context = fedbroker.create_sync_execution_context(
            mended.broker.url, cohort=COHORT, **context_settings(**options)
        )
        contexts.append(context)
        context.invoke(count, None)
        wait_until(lambda: len(context._coordinator._cohort.silos) == there, 30, f"{there} silos are there")
        return context, lambda comp, *arguments: context.invoke(comp, pack_arguments(comp, arguments))

    yield make
    for context in contexts:
        context.close()


def test_dropped_silo_removes_its_clients_from_the_result(mended, of_cohort):
    context, ask = of_cohort(**DROP)
    assert ask(c.total, SIX) == 333.0
    mended.meddle("stopped")
    assert ask(c.total, SIX) == 303.0
    assert context.last_session.participants == ("bos", "jfk")


@pytest.mark.whole
def test_lost_silo_is_an_error_if_every_client_must_answer(mended, of_cohort):
    _, ask = of_cohort(min_silos=3, stage=10.0)
    mended.meddle("stopped")
    with pytest.raises(DeadlineExceeded, match=VICTIM):
        ask(c.total, SIX)


def test_late_joiner_gets_the_clients_of_the_silo_that_it_replaces(mended, of_cohort):
    context, ask = of_cohort(min_silos=2, stragglers="replace", stage=30.0)
    mended.meddle("killed", spare=True)
    assert ask(c.total, SIX) == 333.0
    assert context.last_session.participants == ("bos", "lga", "jfk")


def test_part_of_the_cohort_suffices_or_raises_a_timeout(mended, of_cohort):
    mended.victim.process.stop()
    _, ask = of_cohort(there=2, min_silos=2)
    assert ask(c.total, SIX) == 333.0  # distributed over the two present silos
    with (
        fedbroker.create_sync_execution_context(
            mended.broker.url, cohort=COHORT, min_silos=3, timeouts=fedbroker.Timeouts(join=1.5)
        ) as context,
        pytest.raises(CohortTimeout) as caught,
    ):
        context.invoke(count, None)
    assert caught.value.present == ("bos", "jfk")


def test_membership_and_number_of_clients_change_between_invocations(mended, of_cohort):
    context, ask = of_cohort(min_silos=2)
    silos = context._coordinator._cohort
    assert ask(c.total, SIX) == 333.0
    assert ask(c.total, SIX[:2]) == 3.0
    assert ask(count) == 3
    assert mended.victim.process.stop() == 0
    wait_until(lambda: len(silos.silos) == 2, 10)
    assert ask(count) == 2
    assert ask(c.total, SIX[:5]) == 133.0
    assert ask(c.total, []) == 0.0
    mended.spare.start()
    wait_until(lambda: len(silos.silos) == 3, 30)
    assert ask(count) == 3
    assert context.last_session.participants == ("bos", "jfk", "lga")


def test_silo_restarted_while_computing_returns_client_values(mended, of_cohort):
    _, ask = of_cohort(min_silos=3, stage=30.0)
    victim = mended.victim
    before = victim.reads
    victim.hold()
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask, each, fedbroker.data("numbers"))
        wait_until(lambda: victim.reads > before, 20, "the silo reads")
        mended.meddle("restarted")
        victim.release()
        assert [float(value) for value in asking.result(240)] == [1.0, 10.0, 100.0]


@pytest.mark.whole
def test_client_values_of_a_dropped_silo_are_not_in_the_result(mended, of_cohort):
    _, ask = of_cohort(**DROP)
    mended.meddle("stopped")
    assert [float(value) for value in ask(each, fedbroker.data("numbers"))] == [1.0, 100.0]
