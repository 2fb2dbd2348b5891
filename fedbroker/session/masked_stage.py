"""The masked sums of one running client stage: its request, the sum of the silos' values, and the masks' removal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from fedbroker.errors import MaskingError
from fedbroker.masking.request import MaskingRequest, encode_request
from fedbroker.session.dropout_rounds import DropoutRounds
from fedbroker.session.masking import MaskedTotal
from fedbroker.session.merge_scheduler import MergeScheduler
from fedbroker.session.report import MaskingReport
from fedbroker.session.silo_request import CHECK_IN_THREAD_BYTES
from fedbroker.wire.blobs import Buffer, digest_of
from fedbroker.wire.messages import Digest

if TYPE_CHECKING:
    from fedbroker.session.session import Session

__all__ = ["MaskedStage"]


class MaskedStage:
    """The masked sums of one running client stage.

    Args:
        session: its session.
        stage: its number.
        total: gets the sum.
        request: the request to its silos.
        needed: number of silos that must take part.
        on_invalid: called for each silo whose message of the sum is not accepted, with the reason.

    Attributes:
        digest: the digest of the request.
        blob: the request, for the silos.
        rounds: the messages of a sum from which silos may drop out; None if none may.
        report: for the stage's report.
    """

    def __init__(
        self,
        session: Session,
        stage: int,
        total: MaskedTotal,
        request: MaskingRequest,
        needed: int,
        on_invalid: Callable[[str, MaskingError], None],
    ) -> None:
        self._session, self._stage, self._total = session, stage, total
        self.blob = encode_request(request)
        self.digest = digest_of(self.blob)
        self._adding = asyncio.Lock()  # one silo's values at a time
        self.rounds: DropoutRounds | None = None
        members = tuple([member.silo for member in request.members])
        threshold = len(members)
        if request.dropouts:
            self.rounds = DropoutRounds(
                session.session_id,
                stage,
                session.transport,
                request,
                session.silo_keys,
                needed,
                on_invalid,
                session.journal,
            )
            threshold = self.rounds.threshold
        self.report = MaskingReport(members=members, threshold=threshold)

    def replies(self) -> AbstractContextManager[None]:
        """Receive the silos' messages of the sum within the block."""
        if self.rounds is None:
            return nullcontext()
        return self._session.transport.mask_replies(self._session.session_id, self._stage, self.rounds.receive)

    def expects(self, silo: str) -> bool:
        """Return whether masked values of a silo can be in the sum."""
        return self.rounds is None or self.rounds.shares(silo)

    async def add(self, silo: str, digest: Digest, masked: Buffer, merges: MergeScheduler) -> None:
        """Add a silo's masked values, in the order of arrival, and then release them.

        Args:
            silo: the silo.
            digest: the digest of its values, which no other silo has: they can be removed from the results.
            masked: its values.
            merges: counts what is in memory.
        """
        async with self._adding:
            if len(masked) > CHECK_IN_THREAD_BYTES:
                await asyncio.to_thread(self._total.add, silo, masked)
            else:
                self._total.add(silo, masked)
        self._session.transport.results.spent(digest)
        merges.let_go(len(masked))

    async def finish(self, participants: Sequence[str], left: float) -> None:
        """Check that the sum is over the participants, and remove the masks that do not cancel in it.

        Args:
            participants: the silos whose replies count.
            left: seconds left of the stage's time.

        Raises:
            StragglerTimeout: too few silos helped; names the others.
            MaskingError: the sum is over other silos, or the shares of a silo do not fit.
        """
        if set(self._total.silos) != set(participants):
            raise MaskingError("the masked values of a silo were not added", hint="see the log, and call again")
        if self.rounds is None:
            return
        journal, stage = self._session.journal, self._stage
        if journal is not None and (recorded := journal.total(stage)) is not None:
            self._total.restore(recorded)
            return
        if journal is not None:  # survivors sign one list: after we are killed, it must be the same
            await journal.record_closed(stage, participants)
        began = time.monotonic()
        await self.rounds.remove_masks(participants, self._total, left)
        if journal is not None:
            await journal.record_total(stage, await asyncio.to_thread(self._total.packed))
        seconds = time.monotonic() - began
        self.report = replace(self.report, seconds=seconds)
        self._session.recorder.emit(
            "masks_removed", participants=len(participants), threshold=self.report.threshold, seconds=seconds
        )
