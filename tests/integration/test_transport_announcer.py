"""Announcements: immediate, refreshed by the broker's timers, never duplicated, and gone with their silo."""

from __future__ import annotations

import asyncio
import time

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport import topology
from fedbroker.wire import Limits, encode
from fedbroker.wire.messages import Accepted, Announce, Leave, Rejected
from tests.support.proxy import Proxy
from tests.support.transports import (
    HEARTBEAT,
    EchoSilo,
    RecordingCoordinator,
    coordinator_transport,
    eventually,
    queue_admin,
    silo_transport,
)


@pytest.mark.alone
async def test_later_coordinator_discovers_waiting_silos(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort, "ewr", heartbeat=30.0),
        silo_transport(broker.url, cohort, "jfk", heartbeat=30.0),
    ):
        async with queue_admin(broker.url) as look:
            await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 2))
        started = time.monotonic()
        async with coordinator_transport(broker.url, cohort) as coordinator:
            assert coordinator.silos == {"ewr", "jfk"}  # when open() returns
            assert time.monotonic() - started < 1.0


@pytest.mark.alone
async def test_open_coordinator_discovers_a_new_silo_immediately(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator:
        assert coordinator.silos == set()
        async with silo_transport(broker.url, cohort, heartbeat=30.0) as silo:
            await eventually(lambda: coordinator.silos == {"ewr"}, 1.0)
            assert coordinator.announces[0].incarnation == silo.incarnation


@pytest.mark.alone
async def test_two_coordinators_discover_the_same_silos(broker: PrivateBroker, cohort: str) -> None:
    async with (
        coordinator_transport(broker.url, cohort) as one,
        silo_transport(broker.url, cohort, heartbeat=30.0),
        coordinator_transport(broker.url, cohort) as other,
    ):
        await eventually(lambda: one.silos == other.silos == {"ewr"}, 1.0)


async def test_cohorts_are_separate(broker: PrivateBroker, cohort: str) -> None:
    async with (
        coordinator_transport(broker.url, cohort + "-b") as other,
        coordinator_transport(broker.url, cohort) as coordinator,
        silo_transport(broker.url, cohort),
    ):
        await eventually(lambda: len(coordinator.announces) > 2)
        assert other.announces == []


@pytest.mark.alone
async def test_leaving_is_announced_immediately(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator:
        async with silo_transport(broker.url, cohort, heartbeat=30.0) as silo:
            await eventually(lambda: coordinator.silos == {"ewr"})
        await eventually(lambda: coordinator.leaves == [Leave(cohort, "ewr", silo.incarnation)], 1.0)


@pytest.mark.alone
async def test_silo_that_left_is_not_in_the_lobby(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort, heartbeat=30.0), queue_admin(broker.url) as look:
        await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 1))
    started = time.monotonic()
    async with coordinator_transport(broker.url, cohort) as coordinator:
        assert coordinator.announces == []
        assert time.monotonic() - started < 0.9  # and is not waited for


@pytest.mark.alone
async def test_announcements_back_off_without_a_coordinator(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo:
        started = time.monotonic()
        await eventually(lambda: silo.announced == 5)
        # 1, 1.5, 2.25, 3.375 heartbeats; never more than 4
        assert 6 * HEARTBEAT < time.monotonic() - started < 12 * HEARTBEAT
        async with coordinator_transport(broker.url, cohort) as coordinator:
            assert coordinator.announces[-1].heartbeat == HEARTBEAT
            await coordinator.transport.send_notice(
                "ewr", Accepted(coordinator.transport.coordinator_id, "ewr", silo.incarnation)
            )
            before, started = len(coordinator.announces), time.monotonic()
            await eventually(lambda: len(coordinator.announces) >= before + 3)
            assert time.monotonic() - started < 6 * HEARTBEAT


@pytest.mark.alone
async def test_rejected_silo_announces_itself_after_the_given_delay(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator, silo_transport(broker.url, cohort) as silo:
        await eventually(lambda: coordinator.silos == {"ewr"})
        await coordinator.transport.send_notice("ewr", Rejected("k", "ewr", "another", "no room", (60.0, 60.0)))
        before = len(coordinator.announces)
        await eventually(lambda: len(coordinator.announces) > before + 1)  # a message for another silo
        await coordinator.transport.send_notice("ewr", Rejected("k", "ewr", silo.incarnation, "no room", (2.0, 2.5)))
        told = time.monotonic()
        count = len(coordinator.announces)
        await eventually(lambda: len(coordinator.announces) >= count + 2)
        assert 1.5 < time.monotonic() - told < 4.0


async def test_admitted_silo_ignores_another_coordinators_rejection(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator, silo_transport(broker.url, cohort) as silo:
        await eventually(lambda: coordinator.silos == {"ewr"})
        await coordinator.transport.send_notice("ewr", Accepted("ours", "ewr", silo.incarnation))
        await coordinator.transport.send_notice(
            "ewr", Rejected("other", "ewr", silo.incarnation, "too old", (60.0, 60.0), True)
        )
        count = len(coordinator.announces)
        await eventually(lambda: len(coordinator.announces) >= count + 3)


@pytest.mark.alone
async def test_announcements_do_not_multiply(broker: PrivateBroker, cohort: str) -> None:
    """Open many coordinators; each calls for an announcement, whose copy in the lobby must not raise the rate."""
    async with silo_transport(broker.url, cohort, heartbeat=0.5) as silo:
        for _ in range(5):
            async with coordinator_transport(broker.url, cohort):
                pass
        async with coordinator_transport(broker.url, cohort) as coordinator:
            before = len(coordinator.announces)
            started = time.monotonic()
            await eventually(lambda: len(coordinator.announces) >= before + 4)
            assert time.monotonic() - started > 3 * 0.5
        assert silo.announced < 20


async def test_lost_announcement_is_repeated(broker: PrivateBroker, cohort: str) -> None:
    async with (
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as look,
        silo_transport(broker.url, cohort),
    ):
        await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 1))
        await look.delete(f"fedbroker.lobby.{cohort}")
        before = len(coordinator.announces)
        await eventually(lambda: len(coordinator.announces) >= before + 2)


async def test_killed_silo_is_not_announced_again(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy, queue_admin(broker.url) as look:
        silo = EchoSilo(proxy.url, cohort, heartbeat=30.0)
        await silo.transport.open(Deadline.after(5))
        await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 1))
        await proxy.refuse()  # without leaving
        async with coordinator_transport(broker.url, cohort) as coordinator:
            assert coordinator.announces == []  # though its announcement was in the lobby
            assert await look.holds(f"fedbroker.lobby.{cohort}", 0)
        await silo.transport.close()


async def test_successor_of_a_killed_silo_gets_its_name(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy, coordinator_transport(broker.url, cohort) as coordinator:
        killed = EchoSilo(proxy.url, cohort)
        await killed.transport.open(Deadline.after(5))
        await proxy.refuse()
        async with silo_transport(broker.url, cohort) as successor:
            await eventually(lambda: any(word.incarnation == successor.incarnation for word in coordinator.announces))
            assert await coordinator.ask("ewr") == b"ok"
            assert killed.items == []
        await killed.transport.close()


@pytest.mark.alone
async def test_invalid_messages_in_the_lobby_are_dropped(broker: PrivateBroker, cohort: str) -> None:
    async with (
        queue_admin(broker.url) as look,
        coordinator_transport(broker.url, cohort) as coordinator,
    ):
        foreign = [
            b"junk",
            encode(Announce("other", "ewr", "i", 1.0)),
            encode(Announce(cohort, "jfk", "i", 1.0)),  # under another silo's key
            encode(Leave(cohort, "jfk", "i")),
        ]
        for body in foreign:
            await look.publish("fedbroker.lobby", f"{cohort}.ewr", body, expiration=1)
        async with silo_transport(broker.url, cohort), coordinator_transport(broker.url, cohort) as later:
            await eventually(lambda: coordinator.silos == later.silos == {"ewr"})
            assert coordinator.leaves == later.leaves == []


@pytest.mark.alone
async def test_invalid_notices_are_ignored(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, queue_admin(broker.url) as look:
        for body in (b"junk", encode(Announce(cohort, "ewr", silo.incarnation, 1.0))):
            await look.publish("fedbroker.mail", f"{cohort}.ewr", body)
        async with coordinator_transport(broker.url, cohort) as coordinator:
            assert await coordinator.ask("ewr") == b"ok"


async def test_many_silos_and_coordinators_open_at_once(broker: PrivateBroker, cohort: str) -> None:
    names = {f"silo{number}" for number in range(8)}
    silos = [EchoSilo(broker.url, cohort, name, heartbeat=5.0) for name in names]
    await asyncio.gather(*(silo.transport.open(Deadline.after(20)) for silo in silos))
    async with coordinator_transport(broker.url, cohort) as one, coordinator_transport(broker.url, cohort) as other:
        await eventually(lambda: one.silos == other.silos == names)
    await asyncio.gather(*(silo.transport.close() for silo in silos))


async def test_excess_announcements_of_a_silo_are_dropped(broker: PrivateBroker, cohort: str) -> None:
    """Simulate a silo that crashes and restarts all day; other silos are discovered as fast as before."""
    limits = Limits(max_lobby_entries=2)
    async with coordinator_transport(broker.url, cohort):  # declares the queue
        pass
    async with queue_admin(broker.url) as look, silo_transport(broker.url, cohort, "jfk", heartbeat=30.0):
        for incarnation in ("a", "b", "b", "c", "d"):
            word = encode(Announce(cohort, "ewr", incarnation, 30.0))
            await look.publish("fedbroker.lobby", f"{cohort}.ewr", word, expiration=30)
        await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 6))
        async with coordinator_transport(broker.url, cohort, limits=limits) as coordinator:
            assert coordinator.silos == {"jfk"}
            assert coordinator.transport._discovery._listener._found == {
                "ewr": {"a", "b"},
                "jfk": coordinator_incarnations(coordinator),
            }


def coordinator_incarnations(coordinator: RecordingCoordinator) -> set[str]:
    return {announce.incarnation for announce in coordinator.announces}


async def test_full_lobby_drops_the_oldest_announcement(
    broker: PrivateBroker, cohort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "MAX_IN_LOBBY", 3)
    async with (
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as look,
        silo_transport(broker.url, cohort) as silo,
    ):
        await eventually(lambda: coordinator.silos == {"ewr"})
        before = silo.announced
        for number in range(50):
            word = encode(Announce(cohort, f"x{number}", "i", 30.0))
            await look.publish("fedbroker.lobby", f"{cohort}.x{number}", word, expiration=30)
            assert (await look.depth(f"fedbroker.lobby.{cohort}") or 0) <= 3
        assert silo.announced - before < 10  # a copy that was dropped for space causes no other copy
        before = silo.announced
        await eventually(lambda: silo.announced >= before + 2)
        assert len(coordinator.silos) == 51
