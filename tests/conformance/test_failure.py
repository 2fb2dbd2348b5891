"""Errors name the computation, the silo and the stage, quote the runtime, and are retryable where TFF's are."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.errors import ComputationFailed, DeadlineExceeded, PlanError, RuntimeUnavailable, SiloError, UsageError
from tests.support import computations as c
from tests.support.context_settings import context_settings
from tests.support.local_tff import pack_arguments
from tests.support.wait import wait_until
from tests.support.worker import child_runtimes

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

F = np.float32


@tff.federated_computation(c.AT_CLIENTS, c.AT_SERVER)
def at_second_client_stage(x, s):
    mean = tff.federated_mean(x)
    checked = tff.federated_map(c.positive, tff.federated_map(c.minus, (x, tff.federated_broadcast(mean))))
    return tff.federated_sum(checked), s


@tff.federated_computation(c.AT_CLIENTS)
def at_the_server(x):
    return tff.federated_map(c.positive, tff.federated_sum(x))


@tff.federated_computation(c.AT_CLIENTS)
def never_done_at_the_server(x):
    return tff.federated_map(c.endless, tff.federated_sum(x))


def test_error_in_a_clients_graph_names_silo_and_stage(ours):
    with pytest.raises(SiloError, match="this one is negative") as caught:
        ours.invoke(at_second_client_stage, pack_arguments(at_second_client_stage, ([1.0, 1.0, 1.0], 0.0)))
    error = caught.value
    assert (error.computation, error.stage) == ("at_second_client_stage", 1)
    assert error.silo in ("ewr", "jfk", "lga")
    assert error.session
    assert str(error).startswith(f"[FB4001] at_second_client_stage: silo '{error.silo}' failed in client stage 1: ")
    assert type(error) is SiloError
    assert error.code == "FB4001"
    assert error.cause.startswith("INTERNAL: ")
    assert "this one is negative" in error.cause
    assert not error.retryable


def test_error_in_a_server_stage_names_the_stage(ours):
    with pytest.raises(ComputationFailed, match="this one is negative") as caught:
        ours.invoke(at_the_server, pack_arguments(at_the_server, ([-1.0, -2.0],)))
    error = caught.value
    assert (error.computation, error.stage, error.status) == ("at_the_server", 1, "INTERNAL")
    assert str(error).startswith("[FB8002] at_the_server: server stage 1 failed: INTERNAL: ")
    assert type(error) is ComputationFailed
    assert not error.retryable
    assert ours.invoke(at_the_server, pack_arguments(at_the_server, ([1.0, 2.0],))) == 3.0


@pytest.mark.parametrize(
    ("values", "server", "words"),
    [
        ([1.0, "two"], 0.0, "float32"),
        ([1.0, np.ones(2, F)], 0.0, "shape"),
        (3.0, 0.0, "one value for each client"),
        ([1.0, 2.0], [1.0], "float32"),
    ],
)
def test_argument_of_another_type_is_a_usage_error(ours, values, server, words):
    with pytest.raises(UsageError, match=words) as caught:
        ours.invoke(at_second_client_stage, pack_arguments(at_second_client_stage, (values, server)))
    assert caught.value.computation == "at_second_client_stage"
    assert isinstance(caught.value, TypeError)
    assert "\n" not in str(caught.value)


def test_jax_computation_cannot_be_planned(ours):
    jax = tff.jax.computation(lambda x: x * 2, F)

    @tff.federated_computation(c.AT_CLIENTS)
    def doubled(x):
        return tff.federated_sum(tff.federated_map(jax, x))

    with pytest.raises(PlanError, match=r"doubled: tff\.jax\.computation cannot be planned"):
        ours.invoke(doubled, pack_arguments(doubled, ([1.0],)))


@pytest.fixture
def once(silos):
    """Open a context without retries."""
    with fedbroker.create_sync_execution_context(
        silos.url, cohort=silos.cohort, min_silos=3, options=fedbroker.Options(retries=0)
    ) as context:
        yield context


def test_death_of_a_silos_runtime_is_retryable(once, silos):
    silo = silos.silos["jfk"]
    error = _killed_while_running(once, c.endless_sum, [1.0, 2.0, 3.0], lambda: silo.pid)
    assert isinstance(error, SiloError)
    assert (error.computation, error.silo, error.stage) == ("endless_sum", "jfk", 0)
    assert error.retryable
    assert once.invoke(c.total, pack_arguments(c.total, ([1.0, 2.0, 3.0],))) == 6.0


def test_death_of_the_coordinators_runtime_is_retryable(once):
    assert once.invoke(c.total, pack_arguments(c.total, ([1.0, 2.0],))) == 3.0
    error = _killed_while_running(once, never_done_at_the_server, [1.0, 2.0], lambda: once._coordinator._runtimes.pid)
    assert isinstance(error, RuntimeUnavailable)
    assert error.computation == "never_done_at_the_server"
    assert error.retryable
    assert error.code == "FB8001"
    assert once.invoke(c.total, pack_arguments(c.total, ([1.0, 2.0, 3.0],))) == 6.0


def test_endless_server_computation_ends_at_its_timeout(silos):
    settings = {"cohort": silos.cohort, "min_silos": 3, "retries": 0, "stage": 10.0}
    with fedbroker.create_sync_execution_context(silos.url, **context_settings(**settings)) as context:
        assert context.invoke(c.total, pack_arguments(c.total, ([1.0, 2.0],))) == 3.0
        before = context._coordinator._runtimes.pid
        with pytest.raises(DeadlineExceeded):
            context.invoke(never_done_at_the_server, pack_arguments(never_done_at_the_server, ([1.0, 2.0],)))
        wait_until(lambda: not psutil.pid_exists(before))
        assert context.invoke(c.total, pack_arguments(c.total, ([1.0, 2.0],))) == 3.0


def _killed_while_running(context, comp, values, host):
    """Return the error of an invocation whose runtimes below a process are killed as soon as they compute."""
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: context.invoke(comp, pack_arguments(comp, (values,))))
        idle = {}

        def killed():
            for process in _runtimes_of(host()):
                with contextlib.suppress(psutil.Error):
                    used = process.cpu_times().user
                    if used > idle.setdefault(process, used) + 0.5:
                        process.kill()
            return call.done()

        wait_until(killed, 60, "the invocation gives up")
        return call.exception(1)


def _runtimes_of(pid):
    with contextlib.suppress(psutil.Error, TypeError):
        return child_runtimes(pid)
    return []
