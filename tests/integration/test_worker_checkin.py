"""A silo's handling of coordinators' notices that admit or reject it."""

from __future__ import annotations

import logging
import math
import time

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.wire import encode
from fedbroker.wire.messages import Accepted, Rejected
from tests.support.transports import HEARTBEAT, EchoSilo, coordinator_transport, eventually, queue_admin, silo_transport

FAR = (3600.0, 3600.0)


@pytest.fixture
async def ends(broker: PrivateBroker, cohort: str):
    """Open a silo, a coordinator without its own notices, and a client that sends notices by hand."""
    async with (
        queue_admin(broker.url) as look,
        coordinator_transport(broker.url, cohort) as coordinator,
        silo_transport(broker.url, cohort) as silo,
    ):
        await eventually(lambda: coordinator.silos == {"ewr"})

        async def say(word) -> None:
            await look.publish("fedbroker.mail", f"{cohort}.ewr", encode(word))

        yield silo, coordinator, say


def rejected(silo: EchoSilo, coordinator: str = "one", retry=FAR, **options) -> Rejected:
    return Rejected(coordinator, "ewr", silo.incarnation, "no room", retry, **options)


async def quiet(silo: EchoSilo) -> None:
    """Wait until the silo has been silent for several heartbeats."""
    last, since = silo.announced, time.monotonic()

    def still() -> bool:
        nonlocal last, since
        if silo.announced != last:
            last, since = silo.announced, time.monotonic()
        return time.monotonic() - since > 10 * HEARTBEAT  # twice its longest interval

    await eventually(still, 30)


async def goes_on(silo: EchoSilo) -> None:
    count = silo.announced
    await eventually(lambda: silo.announced >= count + 3)


async def test_rejected_silo_announces_itself_once_admitted(ends):
    silo, _, say = ends
    await say(rejected(silo))
    await quiet(silo)
    await say(Accepted("other", "ewr", silo.incarnation))
    await goes_on(silo)


async def test_coordinator_may_reject_an_admitted_silo(ends):
    silo, _, say = ends
    await say(Accepted("one", "ewr", silo.incarnation))
    await goes_on(silo)
    await say(rejected(silo))
    await quiet(silo)


@pytest.mark.parametrize("retry", [(math.nan, math.nan), (-5.0, -1.0), (0.3, 0.1)])
async def test_invalid_delays_do_not_silence_a_silo(ends, retry):
    silo, _, say = ends
    for _ in range(3):
        await say(rejected(silo, retry=retry))
    await goes_on(silo)


async def test_rejection_log_has_a_remedy(ends, caplog):
    silo, _, say = ends
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            await say(Accepted("one", "ewr", silo.incarnation))
        await say(rejected(silo, "other", permanent=True))
        await say(Accepted("one", "ewr", "another"))
        await eventually(lambda: "silo_rejected" in caplog.text)
    assert caplog.text.count("silo_admitted") == 1
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert all(word in errors[0] for word in ("no room", "other", "start the silo again"))
