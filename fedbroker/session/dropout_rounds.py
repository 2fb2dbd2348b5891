"""The messages of a masked sum from which silos may drop out: who shares it, who survives, and the masks' removal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Literal

from fedbroker.deadline import Deadline
from fedbroker.errors import MaskingError
from fedbroker.masking.coordinator import CoordinatorSum
from fedbroker.masking.offers import Offer
from fedbroker.masking.request import MaskingRequest
from fedbroker.masking.steps import Refusal, Sharing, decode_step, encode_step
from fedbroker.masking.survivors import Revealed
from fedbroker.session.journal import SessionJournal
from fedbroker.session.masking import MaskedTotal
from fedbroker.session.masking_failures import Unmasking, refused_step, too_few
from fedbroker.session.ports import SessionTransport
from fedbroker.trust.keys import Public
from fedbroker.wire.blobs import Buffer
from fedbroker.wire.messages import MaskNotice, MaskReply

__all__ = ["DropoutRounds"]

OFFER_SHARE: Final = 0.25
"""Share of a stage's time after which it goes on without the silos that have made no offer, if enough others have: an
offer needs no computation, so a silo that is up sends it at once, and the rest of the time is for computing."""

FIRST_REPEAT: Final = 2.0
"""Seconds after which a notice is sent again to a silo that has not answered it: notices are sent at best effort."""
LAST_REPEAT: Final = 15.0
"""The same for later repetitions; the time doubles each time, so that slow silos are not flooded."""

UNMASKING_SECONDS: Final = 60.0
"""Longest time for removing the masks: a silo answers at once, and a reconnection to the broker takes half of it."""
MIN_UNMASKING_SECONDS: Final = 10.0
"""The same where less of the stage's own time is left: two repetitions of a lost notice."""


class DropoutRounds:
    """The coordinator's messages of one masked sum, in addition to the work items.

    Args:
        session_id: id of the session.
        stage: number of the client stage.
        transport: transport to the silos.
        request: the request of the stage.
        keys: the public keys of the cohort's silos.
        needed: number of silos that must take part; at least the sum's threshold.
        on_invalid: called for each silo that refuses a step or whose message was not accepted, with the reason.
        journal: record of the silos that share the sum, by which it goes on after we were killed; None for none.
    """

    def __init__(
        self,
        session_id: str,
        stage: int,
        transport: SessionTransport,
        request: MaskingRequest,
        keys: Mapping[str, Public],
        needed: int,
        on_invalid: Callable[[str, MaskingError], None],
        journal: SessionJournal | None = None,
    ) -> None:
        self._session_id, self._stage, self._transport = session_id, stage, transport
        self._incarnations = {member.silo: member.incarnation for member in request.members}
        self._sum = CoordinatorSum(request.checked_members(), request.occasion(session_id, stage), keys)
        self._needed = needed
        self._on_invalid = on_invalid
        self._changed = asyncio.Event()
        self._enough_at: float | None = None
        self._sharing: Mapping[str, bytes] = {}
        self._signatures: dict[str, bytes] = {}
        self._invalid: dict[str, MaskingError] = {}
        self._survivors: Sequence[str] = ()
        self._journal = journal
        recorded = None if journal is None else journal.offers(stage)
        if recorded is not None:
            for silo, offer in decode_step(recorded, Sharing).items():
                self._sum.add_offer(silo, offer)
            self._sharing = {silo: encode_step(offers) for silo, offers in self._sum.fix_sharing().items()}

    @property
    def threshold(self) -> int:
        """The fewest silos that each step needs."""
        return self._sum.threshold

    def shares(self, silo: str) -> bool:
        """Return whether a silo is among those that share the stage; False for all until these are fixed."""
        return silo in self._sharing

    def receive(self, reply: MaskReply, content: Buffer) -> None:
        """Add a silo's message to the sum; ignore a message of another incarnation, a repeated or a late one."""
        silo = reply.silo
        if self._incarnations.get(silo) != reply.incarnation:
            return
        try:
            match reply.step:
                case "offer":
                    self._add_offer(silo, content)
                case "signature":
                    self._add_signature(silo, content)
                case "shares":
                    self._add_shares(silo, content)
                case "refused":
                    raise refused_step(decode_step(content, Refusal))
        except MaskingError as error:
            known = self._invalid.get(silo)
            if known is None or known.what != error.what:  # a repeated notice is refused again
                self._invalid[silo] = error
                self._on_invalid(silo, error)
        self.notify()

    def notify(self) -> None:
        """Look at the state again: a silo's part in the stage has ended, or a message has come."""
        self._changed.set()

    def _add_offer(self, silo: str, content: Buffer) -> None:
        if self._sum.is_sharing or silo in self._sum.offered:
            return
        self._sum.add_offer(silo, decode_step(content, Offer))
        if self._enough_at is None and len(self._sum.offered) >= self._needed:
            self._enough_at = time.monotonic()

    def _add_signature(self, silo: str, content: Buffer) -> None:
        # An answer from before we were killed can come before its question, which is sent again.
        if self._survivors and silo not in self._signatures:
            signature = decode_step(content, bytes)
            self._sum.add_signature(silo, signature)
            self._signatures[silo] = signature

    def _add_shares(self, silo: str, content: Buffer) -> None:
        if self._survivors and silo not in self._sum.revealed:
            self._sum.add_revealed(silo, decode_step(content, Revealed))

    async def fix_sharing(
        self, pending: Callable[[], Collection[str]], until: float, grace: float | None
    ) -> Collection[str]:
        """Wait until the silos that share the stage are known, fix them, and return them.

        These are all that have made an offer: once each silo has, or its part has ended; or once enough have and time
        has passed. Waits for ever if too few make an offer: the stage then ends without them.

        Args:
            pending: returns the silos whose part in the stage has not ended.
            until: time, on the monotonic clock, at which the stage goes on if enough silos have made an offer.
            grace: seconds after which it goes on once enough have; None for ``until``.
        """
        while not self._sum.is_sharing:
            self._changed.clear()
            enough, now = self._enough_at is not None, time.monotonic()
            if self._enough_at is not None and grace is not None:
                until = self._enough_at + grace
            if enough and (now >= until or set(pending()) <= self._sum.offered):
                sharing = self._sum.fix_sharing()
                if self._journal is not None:
                    await self._journal.record_offers(self._stage, encode_step(self._sum.offers))
                self._sharing = {silo: encode_step(offers) for silo, offers in sharing.items()}
                break
            try:
                async with asyncio.timeout(until - now if enough else None):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self._sharing.keys()

    async def send_sharing(self, pending: Callable[[], Collection[str]]) -> None:
        """Send each silo the offers that it needs, again and again as long as its part in the stage has not ended."""
        pause = FIRST_REPEAT
        while silos := set(pending()) & self._sharing.keys():
            await self._send("sharing", {silo: self._sharing[silo] for silo in silos})
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_REPEAT)

    async def remove_masks(self, participants: Sequence[str], total: MaskedTotal, left: float) -> None:
        """Remove the masks from the sum over the participants, in place.

        Args:
            participants: the silos whose masked values were added.
            total: their sum.
            left: seconds left of the stage's time.

        Raises:
            StragglerTimeout: too few silos answered; names the others. Nothing is learnt.
            SiloError: too few can answer, because others refused or sent what is invalid; names one of these.
            MaskingError: the shares of a silo do not fit; names it.
        """
        deadline = Deadline.after(min(UNMASKING_SECONDS, max(MIN_UNMASKING_SECONDS, left)))
        self._sum.set_total(participants, total.elements)
        survivors = self._survivors = self._sum.close()
        names = encode_step(list(survivors))
        await self._ask("survivors", survivors, lambda: names, self._signatures.keys, self.threshold, deadline)
        wanted = self.threshold
        while True:
            await self._ask(
                "unmask",
                survivors,
                lambda: encode_step(self._signatures),
                lambda: self._sum.revealed,
                wanted,
                deadline,
            )
            try:
                await asyncio.to_thread(self._sum.result)
            except MaskingError as error:
                wanted = len(self._sum.revealed) + 1  # another silo's share may be right
                if wanted > len(survivors):
                    raise error from None
            else:
                return

    async def _ask(
        self,
        step: Unmasking,
        survivors: Sequence[str],
        content: Callable[[], bytes],
        answered: Callable[[], Collection[str]],
        wanted: int,
        deadline: Deadline,
    ) -> None:
        """Send survivors a notice until so many of them have answered.

        Raises:
            StragglerTimeout: too few have answered in time; names the others.
            SiloError: too few can answer.
        """
        pause, again = FIRST_REPEAT, Deadline.after(0)
        while len(answered()) < wanted:
            silent = [silo for silo in survivors if silo not in answered()]
            invalid = self._invalid.keys() & set(silent)
            if len(survivors) - len(invalid) < wanted or deadline.passed():
                lost = {silo: self._invalid.get(silo) for silo in silent}
                raise too_few(self._session_id, self._stage, step, lost, len(answered()), len(survivors) - wanted)
            self._changed.clear()  # before notices are sent: answers come while the last of them are
            if again.passed():
                again, pause = Deadline.after(pause).earlier(deadline), min(2 * pause, LAST_REPEAT)
                await self._send(step, dict.fromkeys(silent, content()))
            try:
                async with asyncio.timeout(again.left()):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _send(self, step: Unmasking | Literal["sharing"], contents: Mapping[str, bytes]) -> None:
        async with asyncio.TaskGroup() as sending:
            for silo, content in contents.items():
                notice = MaskNotice(self._session_id, self._stage, self._incarnations[silo], step)
                sending.create_task(self._transport.send_notice(silo, notice, [content]))
