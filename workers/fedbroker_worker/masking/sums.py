"""Masked stages: the masks of one work item, from the check of its request to the outputs that leave."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from fedbroker.errors import ConfigError, MaskingError
from fedbroker.masking.members import CHANGED
from fedbroker.masking.request import decode_request
from fedbroker.masking.results import write_masked
from fedbroker.masking.work import contents_of, work_digest
from fedbroker.wire.messages import blobs_of
from fedbroker_worker.masking.requests import check_item, check_request
from fedbroker_worker.masking.tensors import elements_of, tensors_of
from fedbroker_worker.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedbroker.masking.offers import Offer
    from fedbroker.masking.pairwise import Masked
    from fedbroker.masking.request import MaskingRequest
    from fedbroker.masking.results import Shape
    from fedbroker.masking.roster import Roster
    from fedbroker.transport import Signed
    from fedbroker.trust.keys import Public
    from fedbroker.wire.blobs import Buffer
    from fedbroker.wire.messages import Digest, WorkItem
    from fedbroker_worker.masking.exchange import Exchange
    from fedbroker_worker.masking.exchanges import Exchanges
    from fedbroker_worker.masking.keys import MaskKeys
    from fedbroker_worker.masking.requests import CheckedRequest, Rosters

__all__ = ["MaskedStage", "SiloSums", "digest_after", "without_roster"]


def without_roster() -> MaskingError:
    """Return the refusal of a silo that has no roster, and so cannot tell other silos from invented ones."""
    return MaskingError(
        "this silo takes part in no masked sum: it has no roster of its cohort",
        hint="have its administrator set roster_key in [security]",
    )


def digest_after(earlier: bytes, item: WorkItem, blobs: Mapping[Digest, Buffer]) -> bytes:
    """Return the digest of a session's work after a work item; see :func:`fedbroker.masking.work.work_digest`.

    Args:
        earlier: the digest before it.
        item: the work item.
        blobs: the content of every digest that its operations name.
    """
    contents = contents_of({digest: blobs[digest] for digest in blobs_of(item.ops)})
    return work_digest(earlier, item.ops, contents)


class MaskedStage:
    """The masks of one work item.

    Args:
        checked: its request.
        exchange: the exchange of a sum from which silos may drop out; None if all must reply.

    Attributes:
        exchange: see above.
        masked: for each output, whether it is masked.
        members: the number of silos of the sum.
    """

    def __init__(self, checked: CheckedRequest, exchange: Exchange | None = None) -> None:
        self._checked = checked
        self.exchange: Final = exchange
        self.masked: Final = tuple([rings is not None for rings in checked.request.outputs])
        self.members: Final = len(checked.members.all)

    def check_work(self, digest: bytes) -> None:
        """Check that all silos of the sum are asked for the work that this silo is asked for.

        Args:
            digest: of the session's work, with that of this stage, as this silo computes it.

        Raises:
            MaskingError: the request is for other work.
        """
        if digest != self._checked.request.work:
            raise MaskingError("the silos of a masked sum are asked for different work", hint=CHANGED)

    async def mask(self, outputs: Sequence[Buffer]) -> list[Buffer]:
        """Return the outputs that leave: those without masks, then one blob with all masked tensors.

        Raises:
            MaskingError: an output cannot be masked as the request says, or this was done before.
            WorkRefused: a value is out of range.
        """
        clear = [output for output, masked in zip(outputs, self.masked, strict=True) if not masked]
        offers = None if self.exchange is None else await self.exchange.offers()
        return [*clear, await in_thread(partial(self._masked, outputs, offers), "mask")]

    def _masked(self, outputs: Sequence[Buffer], offers: Mapping[str, Offer] | None) -> bytes:
        checked = self._checked
        shapes, values = _values(checked, outputs)
        if self.exchange is not None and offers is not None:
            self.exchange.add_masks(values, offers)
        else:
            contributors = checked.request.contributors()
            checked.masking.add_masks(values, checked.members, checked.occasion, checked.roster, contributors)
        return write_masked(shapes, values)


class SiloSums:
    """The masked sums of a silo.

    Args:
        keys: the mask keys.
        rosters: the source of the cohort's roster.
        min_sum_silos: the fewest silos with clients over which this silo takes part in a sum.
        exchanges: the exchanges of sums from which silos may drop out.
    """

    def __init__(self, keys: MaskKeys, rosters: Rosters, min_sum_silos: int, exchanges: Exchanges) -> None:
        self._keys, self._rosters, self._min_sum_silos = keys, rosters, min_sum_silos
        self.exchanges: Final = exchanges
        self._known: tuple[Roster, Mapping[str, Public]] | None = None  # the newest roster, and its parsed keys

    async def begin(self, item: WorkItem, blob: Buffer, signed: Signed) -> MaskedStage:
        """Begin a masked stage, before any data are read for it.

        Args:
            item: the work item.
            blob: the request that its ``masking`` names.
            signed: the item's signer.

        Raises:
            MaskingError: the request is refused, or the roster cannot be used.
            PolicyRefused: the sum is over too few silos.
            SessionLost: another session may succeed.
        """
        request = decode_request(blob)
        begun = self.exchanges.find(item, signed.by)
        if begun is not None and begun.checked.request == request and not begun.is_masked:
            check_item(request, item)  # the item comes again with the blobs that it lacked
            begun.send_offer()
            return MaskedStage(begun.checked, begun)
        checked = await in_thread(partial(self._check, item, request), "masking request")
        exchange = await self.exchanges.begin(item, signed, checked) if request.dropouts else None
        self.exchanges.counters.begun += 1
        return MaskedStage(checked, exchange)

    def keep(self, stage: MaskedStage, item: WorkItem) -> None:
        """Keep the secrets of a stage that has masked, for the rest of its exchange."""
        self.exchanges.counters.masked += 1
        if stage.exchange is not None:
            self.exchanges.keep(stage.exchange, item.lease)

    def end(self, stage: MaskedStage) -> None:
        """Forget the secrets of a stage that has failed."""
        self.exchanges.counters.failed += 1
        if stage.exchange is not None:
            self.exchanges.forget(stage.exchange)

    def _check(self, item: WorkItem, request: MaskingRequest) -> CheckedRequest:
        return check_request(request, item, self._keys, self._roster(), self._min_sum_silos)

    def _roster(self) -> Mapping[str, Public]:
        path = self._rosters.path
        try:
            roster = self._rosters.current()
            if self._known is None or self._known[0] is not roster:
                self._known = roster, roster.keys
            return self._known[1]
        except ConfigError as error:
            # The name of the file may leave; where it lies is the silo's own affair.
            raise MaskingError(error.what.replace(str(path), path.name), hint=error.hint) from None


def _values(checked: CheckedRequest, outputs: Sequence[Buffer]) -> tuple[list[Shape], Masked]:
    """Return the shapes and elements of all masked tensors: copies, to which masks are added in place."""
    shapes: list[Shape] = []
    values: Masked = []
    for output, rings in zip(outputs, checked.request.outputs, strict=True):
        if rings is None:
            continue
        tensors = tensors_of(output)
        if len(tensors) != len(rings):
            raise MaskingError(
                f"an output of {len(tensors)} tensors, of which a masked sum describes {len(rings)}", hint=CHANGED
            )
        shapes += [tensor.shape for tensor in tensors]
        values += [(ring, elements_of(ring, tensor)) for ring, tensor in zip(rings, tensors, strict=True)]
    return shapes, values
