"""A computation is planned once for all concurrent invocations."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.context import coordinator as module
from fedbroker.context.coordinator import Coordinator
from fedbroker.context.settings import Settings
from fedbroker.errors import (
    BrokerLost,
    ComputationFailed,
    DataError,
    DeadlineExceeded,
    PlanError,
    RuntimeUnavailable,
    SiloError,
    UsageError,
)
from tests.support import computations as c


@pytest.fixture
def coordinator():
    return Coordinator(Settings(url="amqp://localhost/", cohort="airports", min_silos=1))


@pytest.fixture
def made(monkeypatch):
    """Record the planned computations."""
    planned, make_plan = [], module.make_plan

    def counting(comp, **options):
        planned.append(comp)
        if len(planned) == 1 and comp is c.total:
            raise PlanError("not this time")
        return make_plan(comp, **options)

    monkeypatch.setattr(module, "make_plan", counting)
    return planned


async def test_concurrent_invocations_share_one_plan(coordinator, made):
    plans = await asyncio.gather(*(coordinator.plan(c.two_barriers) for _ in range(20)))
    assert made == [c.two_barriers]
    assert {id(plan) for plan in plans} == {id(await coordinator.plan(c.two_barriers))}


async def test_cancelled_invocation_does_not_cancel_the_shared_plan(coordinator, made):
    first, second = (asyncio.create_task(coordinator.plan(c.two_barriers)) for _ in range(2))
    await asyncio.wait([first], timeout=0.001)
    first.cancel()
    assert (await second).round_trips == 2
    assert len(made) == 1


async def test_failed_plan_is_made_again(coordinator, made):
    failed = await asyncio.gather(*(coordinator.plan(c.total) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in failed] == [PlanError] * 3
    assert (await coordinator.plan(c.total)).round_trips == 1
    assert len(made) == 2


async def test_error_names_the_computation_and_keeps_its_class(coordinator, monkeypatch):
    error = SiloError("ewr", "no such table", stage=0, hint="look", retryable=True)

    async def failing(*_, **__):
        raise error

    monkeypatch.setattr(module, "with_retries", failing)
    with pytest.raises(SiloError) as caught:
        await coordinator.invoke(c.two_barriers, None)
    assert caught.value is error
    assert type(caught.value) is SiloError
    assert str(error) == "[FB4001] two_barriers: silo 'ewr' failed in client stage 0: no such table; look"
    assert error.retryable


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (BrokerLost("the broker went away"), True),
        (RuntimeUnavailable("the C++ runtime is gone", retryable=True), True),
        (RuntimeUnavailable("no user namespaces"), False),
        (SiloError("ewr", "its runtime died", stage=0, retryable=True), True),
        (SiloError("ewr", "INVALID_ARGUMENT: assertion failed", stage=0), False),
        (DataError("ewr", "flights", expected="int32", found="str"), False),
        (ComputationFailed("INTERNAL", "no such op", stage=1), False),
        (DeadlineExceeded("a stage took too long"), False),
        (PlanError("no such intrinsic"), False),
        (UsageError("a list was given"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_error_is_marked_retryable(error, retryable):
    assert error.retryable is retryable
