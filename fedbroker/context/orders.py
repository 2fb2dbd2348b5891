"""The orders of rows in each invocation: of a data handle's seed, and of the number of its round."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Final

import tensorflow_federated as tff

from fedbroker.context.values.data import SiloData
from fedbroker.lru import LruMap
from fedbroker.plan.model import Plan
from fedbroker.trust.keys import joined
from fedbroker.wire.messages import Digest

__all__ = ["InvocationOrders", "RoundCounter"]

MAX_HANDLES: Final = 4096
"""Number of data handles whose rounds are counted, the last used ones."""


class RoundCounter:
    """Counts the invocations of a context for each data handle."""

    def __init__(self) -> None:
        self._rounds: LruMap[SiloData, int] = LruMap(MAX_HANDLES)

    def next(self, handle: SiloData) -> int:
        """Return the number of earlier calls with an equal handle."""
        earlier = self._rounds.use(handle)
        count = 0 if earlier is None else earlier + 1
        self._rounds[handle] = count
        return count


class InvocationOrders:
    """The orders of one invocation, the same in each of its attempts.

    Args:
        counter: the context's counter. The rounds of the call's handles are counted now, so that invocations under way
            at a time have their orders by when they were made.
        plan: plan of the computation that is called.
        argument: the call's argument.
    """

    def __init__(self, counter: RoundCounter, plan: Plan, argument: object) -> None:
        self._counter = counter
        self._orders: dict[SiloData, Digest] = {}
        for handle in _handles(plan, argument):
            self.of(handle)

    def of(self, handle: SiloData) -> Digest | str:
        """Return the digest of a handle's order; empty if it does not shuffle. Equal handles have the same."""
        if not handle.shuffle:
            return ""
        if handle not in self._orders:
            self._orders[handle] = _order(handle, self._counter)
        return self._orders[handle]

    def restore(self, recorded: Mapping[str, Digest]) -> None:
        """Go on with the orders of an interrupted session, by their handles' text."""
        for handle in self._orders:
            self._orders[handle] = recorded.get(repr(handle), self._orders[handle])

    @property
    def recorded(self) -> dict[str, Digest]:
        """The orders by their handles' text."""
        return {repr(handle): order for handle, order in self._orders.items()}


def _order(handle: SiloData, counter: RoundCounter) -> Digest:
    if handle.seed is None:
        return secrets.token_hex(16)
    number = counter.next(handle) if handle.round is None else handle.round
    fields = joined(b"fedbroker round 1", str(handle.seed).encode(), str(number).encode())
    return hashlib.sha256(fields).hexdigest()[:32]


def _handles(plan: Plan, argument: object) -> Iterator[SiloData]:
    """Yield the data handles of a call. An argument of another structure has none: it is refused when it is read."""
    for slot in plan.parameters:
        value = argument
        try:
            for index in slot.path or ():
                value = tff.structure.from_container(value)[index]
        except (TypeError, LookupError):
            continue
        if isinstance(value, SiloData):
            yield value
