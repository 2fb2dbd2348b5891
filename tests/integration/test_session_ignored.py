"""Silos that a coordinator cannot verify: the error for too few silos says so, instead of asking for more silos."""

from __future__ import annotations

import asyncio

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.errors import CohortTimeout
from fedbroker.session.cohort import CoordinatorCohort
from fedbroker.session.events import Event
from fedbroker.trust import Identity
from fedbroker.trust.keyring import Keys
from tests.support.transports import silo_transport

COORDINATOR, EWR, STRANGER = Identity(b"c" * 32), Identity(b"e" * 32), Identity(b"s" * 32)


def silo_keys(own: Identity, *, seal: bool = False) -> Keys:
    return Keys(own, {"coordinator": COORDINATOR.public}, seal)


@pytest.mark.parametrize(
    ("silo", "coordinator", "text", "hint", "forged"),
    [
        (
            silo_keys(EWR),
            None,
            "has 0 of 1 silo after 2 s (present: none; 1 silo ignored: a message is signed, but this side has no keys)",
            "FEDBROKER_KEYS",
            False,
        ),
        (
            None,
            Keys(COORDINATOR, {"ewr": EWR.public}),
            "1 silo ignored: a message is not signed",
            "give both sides their keys",
            True,
        ),
        (
            silo_keys(STRANGER),
            Keys(COORDINATOR, {"ewr": EWR.public}),
            f"1 silo ignored: a message is signed with an unknown key: {STRANGER.public.id.hex()}",
            "give this side the other's public key",
            True,
        ),
        (
            silo_keys(EWR, seal=True),
            Keys(COORDINATOR, {"ewr": EWR.public}),
            "1 silo ignored: silo 'ewr' takes sealed work only, and this program does not seal",
            "set seal = true",
            False,
        ),
    ],
)
async def test_too_few_silos_names_the_reason(
    broker: PrivateBroker, cohort: str, silo: Keys | None, coordinator: Keys | None, text: str, hint: str, forged: bool
) -> None:
    events: list[Event] = []
    async with (
        silo_transport(broker.url, cohort, keys=silo),
        CoordinatorCohort(broker.url, cohort, keys=coordinator, listeners=(events.append,)) as ours,
        asyncio.timeout(60),
    ):
        with pytest.raises(CohortTimeout) as caught:
            await ours.gather(1, 2.0)
    assert text in str(caught.value)
    assert hint in caught.value.hint
    assert any(event.name == "message_forged" for event in events) is forged


async def test_missing_silo_beside_a_present_one_asks_for_more_silos(broker: PrivateBroker, cohort: str) -> None:
    async with (
        silo_transport(broker.url, cohort),
        CoordinatorCohort(broker.url, cohort) as ours,
        asyncio.timeout(60),
    ):
        with pytest.raises(CohortTimeout, match=r"\(present: ewr\); start more silos") as caught:
            await ours.gather(2, 2.0)
    assert "ignored" not in str(caught.value)


@pytest.mark.parametrize("seal", [False, True])
async def test_silo_takes_part_in_a_program_that_seals(broker: PrivateBroker, cohort: str, seal: bool) -> None:
    async with (
        silo_transport(broker.url, cohort, keys=silo_keys(EWR, seal=seal)),
        CoordinatorCohort(broker.url, cohort, keys=Keys(COORDINATOR, {"ewr": EWR.public}, seal=True)) as ours,
        asyncio.timeout(60),
    ):
        assert [member.name for member in await ours.gather(1, 30.0)] == ["ewr"]
