"""Who is there: announced at once, kept fresh by the broker's own timers, never twice, never a ghost."""

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
async def test_a_coordinator_that_comes_later_knows_who_waits(broker: PrivateBroker, cohort: str) -> None:
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
async def test_a_coordinator_that_came_before_hears_at_once(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator:
        assert coordinator.silos == set()
        async with silo_transport(broker.url, cohort, heartbeat=30.0) as silo:
            await eventually(lambda: coordinator.silos == {"ewr"}, 1.0)
            assert coordinator.announces[0].incarnation == silo.incarnation


@pytest.mark.alone
async def test_two_coordinators_know_the_same_silos(broker: PrivateBroker, cohort: str) -> None:
    async with (
        coordinator_transport(broker.url, cohort) as one,
        silo_transport(broker.url, cohort, heartbeat=30.0),
        coordinator_transport(broker.url, cohort) as other,
    ):
        await eventually(lambda: one.silos == other.silos == {"ewr"}, 1.0)


async def test_cohorts_do_not_hear_each_other(broker: PrivateBroker, cohort: str) -> None:
    async with (
        coordinator_transport(broker.url, cohort + "-b") as other,
        coordinator_transport(broker.url, cohort) as coordinator,
        silo_transport(broker.url, cohort),
    ):
        await eventually(lambda: len(coordinator.announces) > 2)
        assert other.announces == []


@pytest.mark.alone
async def test_a_goodbye_is_heard_at_once(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator:
        async with silo_transport(broker.url, cohort, heartbeat=30.0) as silo:
            await eventually(lambda: coordinator.silos == {"ewr"})
        await eventually(lambda: coordinator.leaves == [Leave(cohort, "ewr", silo.incarnation)], 1.0)


@pytest.mark.alone
async def test_whoever_left_is_not_found_in_the_lobby(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort, heartbeat=30.0), queue_admin(broker.url) as look:
        await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 1))
    started = time.monotonic()
    async with coordinator_transport(broker.url, cohort) as coordinator:
        assert coordinator.announces == []
        assert time.monotonic() - started < 0.9  # and is not waited for


@pytest.mark.alone
async def test_without_a_coordinator_a_silo_announces_itself_ever_more_seldom(
    broker: PrivateBroker, cohort: str
) -> None:
    async with silo_transport(broker.url, cohort) as silo:
        started = time.monotonic()
        await eventually(lambda: silo.announced == 5)
        # 1, 1.5, 2.25, 3.375 heartbeats; never more than 4
        assert 6 * HEARTBEAT < time.monotonic() - started < 12 * HEARTBEAT
        async with coordinator_transport(broker.url, cohort) as coordinator:
            assert coordinator.announces[-1].heartbeat == HEARTBEAT
            await coordinator.transport.tell(
                "ewr", Accepted(coordinator.transport.coordinator_id, "ewr", silo.incarnation)
            )
            before, started = len(coordinator.announces), time.monotonic()
            await eventually(lambda: len(coordinator.announces) >= before + 3)
            assert time.monotonic() - started < 6 * HEARTBEAT


@pytest.mark.alone
async def test_a_silo_that_is_sent_away_asks_again_when_it_was_told_to(broker: PrivateBroker, cohort: str) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator, silo_transport(broker.url, cohort) as silo:
        await eventually(lambda: coordinator.silos == {"ewr"})
        await coordinator.transport.tell("ewr", Rejected("k", "ewr", "another", "no room", (60.0, 60.0)))
        before = len(coordinator.announces)
        await eventually(lambda: len(coordinator.announces) > before + 1)  # that word was meant for another
        await coordinator.transport.tell("ewr", Rejected("k", "ewr", silo.incarnation, "no room", (2.0, 2.5)))
        told = time.monotonic()
        count = len(coordinator.announces)
        await eventually(lambda: len(coordinator.announces) >= count + 2)
        assert 1.5 < time.monotonic() - told < 4.0


async def test_who_is_taken_in_by_one_coordinator_stays_whatever_another_says(
    broker: PrivateBroker, cohort: str
) -> None:
    async with coordinator_transport(broker.url, cohort) as coordinator, silo_transport(broker.url, cohort) as silo:
        await eventually(lambda: coordinator.silos == {"ewr"})
        await coordinator.transport.tell("ewr", Accepted("ours", "ewr", silo.incarnation))
        await coordinator.transport.tell(
            "ewr", Rejected("other", "ewr", silo.incarnation, "too old", (60.0, 60.0), True)
        )
        count = len(coordinator.announces)
        await eventually(lambda: len(coordinator.announces) >= count + 3)


@pytest.mark.alone
async def test_an_announcement_never_breeds_two(broker: PrivateBroker, cohort: str) -> None:
    """Each coordinator that opens calls for an announcement, whose copy in the lobby must not add to the pace."""
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


async def test_a_lost_copy_does_not_silence_a_silo(broker: PrivateBroker, cohort: str) -> None:
    async with (
        coordinator_transport(broker.url, cohort) as coordinator,
        queue_admin(broker.url) as look,
        silo_transport(broker.url, cohort),
    ):
        await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 1))
        await look.delete(f"fedbroker.lobby.{cohort}")
        before = len(coordinator.announces)
        await eventually(lambda: len(coordinator.announces) >= before + 2)


async def test_a_silo_that_was_killed_is_not_announced_again(broker: PrivateBroker, cohort: str) -> None:
    async with Proxy(broker.url) as proxy, queue_admin(broker.url) as look:
        silo = EchoSilo(proxy.url, cohort, heartbeat=30.0)
        await silo.transport.open(Deadline.after(5))
        await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 1))
        await proxy.refuse()  # no goodbye
        async with coordinator_transport(broker.url, cohort) as coordinator:
            assert coordinator.announces == []  # though its announcement lay in the lobby
            assert await look.holds(f"fedbroker.lobby.{cohort}", 0)
        await silo.transport.close()


async def test_a_successor_takes_the_name_of_one_that_was_killed(broker: PrivateBroker, cohort: str) -> None:
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
async def test_what_does_not_belong_in_the_lobby_is_dropped(broker: PrivateBroker, cohort: str) -> None:
    async with (
        queue_admin(broker.url) as look,
        coordinator_transport(broker.url, cohort) as coordinator,
    ):
        foreign = [
            b"junk",
            encode(Announce("other", "ewr", "i", 1.0)),
            encode(Announce(cohort, "jfk", "i", 1.0)),  # under the key of another
            encode(Leave(cohort, "jfk", "i")),
        ]
        for body in foreign:
            await look.publish("fedbroker.lobby", f"{cohort}.ewr", body, expiration=1)
        async with silo_transport(broker.url, cohort), coordinator_transport(broker.url, cohort) as later:
            await eventually(lambda: coordinator.silos == later.silos == {"ewr"})
            assert coordinator.leaves == later.leaves == []


@pytest.mark.alone
async def test_a_stranger_in_the_mailbox_does_no_harm(broker: PrivateBroker, cohort: str) -> None:
    async with silo_transport(broker.url, cohort) as silo, queue_admin(broker.url) as look:
        for body in (b"junk", encode(Announce(cohort, "ewr", silo.incarnation, 1.0))):
            await look.publish("fedbroker.mail", f"{cohort}.ewr", body)
        async with coordinator_transport(broker.url, cohort) as coordinator:
            assert await coordinator.ask("ewr") == b"ok"


async def test_many_silos_and_coordinators_at_once(broker: PrivateBroker, cohort: str) -> None:
    names = {f"silo{number}" for number in range(8)}
    silos = [EchoSilo(broker.url, cohort, name, heartbeat=5.0) for name in names]
    await asyncio.gather(*(silo.transport.open(Deadline.after(20)) for silo in silos))
    async with coordinator_transport(broker.url, cohort) as one, coordinator_transport(broker.url, cohort) as other:
        await eventually(lambda: one.silos == other.silos == names)
    await asyncio.gather(*(silo.transport.close() for silo in silos))


async def test_a_silo_that_fills_the_lobby_is_counted_up_to_its_limit(broker: PrivateBroker, cohort: str) -> None:
    """As one that crashes and restarts all day long; nobody waits longer for the others."""
    limits = Limits(max_lobby_entries=2)
    async with coordinator_transport(broker.url, cohort):  # declares
        pass
    async with queue_admin(broker.url) as look, silo_transport(broker.url, cohort, "jfk", heartbeat=30.0):
        for incarnation in ("a", "b", "b", "c", "d"):
            word = encode(Announce(cohort, "ewr", incarnation, 30.0))
            await look.publish("fedbroker.lobby", f"{cohort}.ewr", word, expiration=30)
        await eventually(lambda: look.holds(f"fedbroker.lobby.{cohort}", 6))
        async with coordinator_transport(broker.url, cohort, limits=limits) as coordinator:
            assert coordinator.silos == {"jfk"}
            assert coordinator.transport._discovery._found == {
                "ewr": {"a", "b"},
                "jfk": coordinator_incarnations(coordinator),
            }


def coordinator_incarnations(coordinator: RecordingCoordinator) -> set[str]:
    return {announce.incarnation for announce in coordinator.announces}


async def test_a_lobby_that_is_full_drops_the_oldest_and_silences_nobody(
    broker: PrivateBroker, cohort: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topology, "MOST_WAITING", 3)
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
        assert silo.announced - before < 10  # a copy that made room is no reason for another
        before = silo.announced
        await eventually(lambda: silo.announced >= before + 2)
        assert len(coordinator.silos) == 51
