"""Checks of a masking request, before anything is computed for it: a coordinator might add up other silos, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from fedbroker.errors import MaskingError
from fedbroker.masking.members import CHANGED, Members
from fedbroker.masking.request import MaskingRequest
from fedbroker.text import count_text
from fedbroker.trust.keys import Public
from fedbroker.wire.messages import Compute
from fedbroker_worker.errors import SessionLost
from fedbroker_worker.policy.rules import too_few_silos

if TYPE_CHECKING:
    from pathlib import Path

    from fedbroker.masking.pairwise import Occasion
    from fedbroker.masking.roster import Roster
    from fedbroker.masking.silo import SiloMasking
    from fedbroker.wire.messages import WorkItem
    from fedbroker_worker.masking.keys import MaskKeys

__all__ = ["CheckedRequest", "Rosters", "check_contributors", "check_item", "check_request"]


class Rosters(Protocol):
    """The source of the cohort's newest roster.

    Attributes:
        path: its file.
    """

    path: Path

    def current(self) -> Roster:
        """Return the newest roster. Blocks: call it in a thread.

        Raises:
            ConfigError: it cannot be read, is not signed by the pinned key, is older than an earlier one or has
                expired.
        """
        ...


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A request of which all is checked that is known before the work is.

    Attributes:
        request: the request.
        members: its members.
        occasion: the occasion of its masks.
        masking: the masks of this silo's key among the members.
        roster: the public keys of the cohort's silos.
    """

    request: MaskingRequest
    members: Members
    occasion: Occasion
    masking: SiloMasking
    roster: Mapping[str, Public]


def check_request(
    request: MaskingRequest, item: WorkItem, keys: MaskKeys, roster: Mapping[str, Public], min_sum_silos: int
) -> CheckedRequest:
    """Return the request of a work item, checked with all that is known before the work is.

    Args:
        request: the request.
        item: the work item.
        keys: this silo's mask keys.
        roster: the public keys of the cohort's silos.
        min_sum_silos: the fewest silos with clients over which this silo takes part in a sum.

    Raises:
        MaskingError: it contradicts itself or the work item, or a member is invented.
        PolicyRefused: the sum is over too few silos.
        SessionLost: this silo is not among the members with a key of this process, or has masked for this stage before.
    """
    members = request.checked_members()
    masking = keys.of(members)
    check_item(request, item)
    check_contributors(request, item, members.names, min_sum_silos)
    occasion = request.occasion(item.session_id, item.stage)
    if masking.has_masked(occasion):
        raise SessionLost("this silo has masked for this stage before", hint=_AGAIN)
    masking.check(members, occasion, roster, request.contributors())
    return CheckedRequest(request, members, occasion, masking, roster)


def check_item(request: MaskingRequest, item: WorkItem) -> None:
    """Check that a request fits its work item.

    Raises:
        MaskingError: it counts other clients of this silo, or has other outputs.
    """
    request.check_clients(item.silo, item.clients)
    outputs = sum(isinstance(op, Compute) for op in item.ops)
    if len(request.outputs) != outputs or all(rings is None for rings in request.outputs):
        raise MaskingError(
            f"a masked sum describes {count_text(len(request.outputs), 'output')}, and the work has {outputs}",
            hint=CHANGED,
        )


def check_contributors(request: MaskingRequest, item: WorkItem, names: tuple[str, ...], min_sum_silos: int) -> None:
    """Check that enough silos with clients take part: the zeros of the others hide nothing.

    Args:
        request: the request.
        item: the work item; a silo without clients has nothing to hide.
        names: the silos over which the sum is formed.
        min_sum_silos: the fewest of them with clients.

    Raises:
        PolicyRefused: they are too few.
    """
    contributors = len(request.contributors() & set(names))
    if item.clients and contributors < min_sum_silos:
        raise too_few_silos(min_sum_silos, contributors)


_AGAIN: Final = "run the computation again"
