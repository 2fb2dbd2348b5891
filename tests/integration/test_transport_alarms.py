"""A broker that is short of memory: program and silo name the alarm as the cause, and recover when it is over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import fedbroker
from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.errors import BrokerLost, CohortTimeout, FedbrokerError
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.testing import local_cohort
from fedbroker.wire.messages import Failed
from tests.support.computations import sum_numbers
from tests.support.context_settings import context_settings
from tests.support.transports import eventually, silo_transport, work_item

CAUSE = "accepts no messages: it is low on memory"
NUMBERS = {"numbers": {"source": "duckdb", "query": "select i::float as x from range(10) t(i)"}}


@pytest.fixture(scope="module")
def short() -> Iterator[PrivateBroker]:
    """Run a broker of which tests may take the memory."""
    with PrivateBroker() as node:
        yield node


@contextmanager
def alarm(node: PrivateBroker) -> Iterator[None]:
    """Raise the broker's alarm for memory within the block."""
    node.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        yield
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.5")


def invoke_until_it_fails(context: object) -> None:
    """Invoke again and again: during an alarm, the broker takes one more message of each connection."""
    while True:
        sum_numbers(context)


async def test_alarm_is_the_cause_of_too_few_silos(
    short: PrivateBroker, cohort: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fedbroker.transport.amqp.reconnecting")
    async with silo_transport(short.url, cohort) as silo, CoordinatorCohort(short.url, cohort) as ours:
        await ours.gather(1, 60.0)
        with alarm(short):
            await eventually(lambda: not ours.silos, 60)
            with pytest.raises(CohortTimeout) as caught:
                await ours.gather(1, 0.5)
            assert CAUSE in caught.value.what
            assert "rabbitmqctl status" in caught.value.hint
            assert "start more silos" not in str(caught.value)
            await eventually(lambda: f"silo {cohort}.ewr control" in caplog.text, 60)
            assert "the broker is low on memory" in caplog.text
            item = work_item("ewr", "nobody")
            refusal = Failed(item.session_id, item.stage, "ewr", silo.incarnation, "data", "no such table")
            with pytest.raises(BrokerLost, match=CAUSE):
                await silo.transport.reply(item, refusal, {}, Deadline.after(1.0))
        await ours.gather(1, 60.0)
        assert "broker_unblocked" in caplog.text


@pytest.mark.timeout(180)
def test_alarm_is_named_by_a_program_and_survives_its_retries(short: PrivateBroker, cohort: str) -> None:
    settings = context_settings(cohort=cohort, min_silos=1, join=30.0, stage=5.0, retries=1)
    with (
        local_cohort(1, sources=NUMBERS, cohort=cohort, broker=short.url),
        fedbroker.create_sync_execution_context(short.url, **settings) as context,
    ):
        assert sum_numbers(context) == 45.0
        with alarm(short), pytest.raises(FedbrokerError) as caught:
            invoke_until_it_fails(context)
        assert CAUSE in str(caught.value)
        assert caught.value.code in ("FB2003", "FB3001", "FB6002")
        assert sum_numbers(context) == 45.0
