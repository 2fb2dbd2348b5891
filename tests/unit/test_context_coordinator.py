"""A computation is planned once, however many ask for it at the same time."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.context import coordinator as module
from fedbroker.context.coordinator import Coordinator
from fedbroker.context.settings import Settings
from fedbroker.errors import PlanError
from tests.support import computations as c


@pytest.fixture
def coordinator():
    return Coordinator(Settings(url="amqp://localhost/", cohort="airports"))


@pytest.fixture
def made(monkeypatch):
    """Each computation that was planned."""
    planned, make_plan = [], module.make_plan

    def counting(comp, **options):
        planned.append(comp)
        if len(planned) == 1 and comp is c.total:
            raise PlanError("not this time")
        return make_plan(comp, **options)

    monkeypatch.setattr(module, "make_plan", counting)
    return planned


async def test_many_who_ask_at_once_share_one_plan(coordinator, made):
    plans = await asyncio.gather(*(coordinator.plan(c.two_barriers) for _ in range(20)))
    assert made == [c.two_barriers]
    assert {id(plan) for plan in plans} == {id(await coordinator.plan(c.two_barriers))}


async def test_who_gives_up_waiting_does_not_take_it_from_the_others(coordinator, made):
    first, second = (asyncio.create_task(coordinator.plan(c.two_barriers)) for _ in range(2))
    await asyncio.wait([first], timeout=0.001)
    first.cancel()
    assert (await second).round_trips == 2
    assert len(made) == 1


async def test_a_plan_that_failed_is_made_again(coordinator, made):
    failed = await asyncio.gather(*(coordinator.plan(c.total) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in failed] == [PlanError] * 3
    assert (await coordinator.plan(c.total)).round_trips == 1
    assert len(made) == 2
