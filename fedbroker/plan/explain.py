"""Explain a plan to people: its stages, the values that cross between them with their sizes, and its round trips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import tensorflow_federated as tff

from fedbroker.plan.blocks import static_bytes
from fedbroker.plan.compiler import SecureSum
from fedbroker.plan.explain_html import explanation_html
from fedbroker.plan.model import ClientStage, MaskedSum, Plan, ServerStage, Slot
from fedbroker.plan.planner import make_plan
from fedbroker.plan.secure_partials import tensors_of
from fedbroker.text import bytes_text, count_text, one_line_repr

__all__ = ["Crossing", "Explanation", "explain", "explain_plan"]

_CLIENTS: Final = 100
"""Number of clients for which the page shows the bytes of masked sums."""

_DROPOUT_MESSAGES: Final = 6
"""Messages between a silo and the coordinator for a masked sum from which silos may drop out, without work and reply:
its offer, the others' offers, the survivors, its signature, the signatures and its shares."""

_MASKED_ROUND_TRIPS: Final[Mapping[bool | None, str]] = MappingProxyType(
    {
        False: "1 round trip",
        True: "1 + 2 round trips",
        None: "1 round trip, 1 + 2 if silos may drop out",
    }
)


@dataclass(frozen=True, slots=True)
class Crossing:
    """The values that cross at one barrier.

    Attributes:
        stage: the client stage's number.
        down: values sent to each silo.
        computation_bytes: size of the stage's computation, sent to each silo once and cached there.
        up: partial aggregates and results that each silo sends as they are.
        kept: values that stay at each silo for a later stage.
        masked: secure sums, of which each silo sends a masked part and the coordinator learns the total only.
    """

    stage: int
    down: tuple[Slot, ...]
    computation_bytes: int
    up: tuple[Slot, ...]
    kept: tuple[Slot, ...]
    masked: tuple[MaskedSum, ...] = ()

    def __repr__(self) -> str:
        counts = [f"{len(slots)} {way}" for way, slots in (("down", self.down), ("up", self.up), ("kept", self.kept))]
        counts += [f"{len(self.masked)} masked"] if self.masked else []
        return one_line_repr("Crossing", f"client stage {self.stage}", *counts)

    @property
    def down_bytes(self) -> int | None:
        """Return the bytes of ``down``, to one silo; None if a shape is not static."""
        return _total(self.down)

    @property
    def up_bytes(self) -> int | None:
        """Return the bytes of ``up``, from one silo; None if a shape is not static."""
        return _total(self.up)

    def masked_bytes(self, clients: int) -> int | None:
        """Return the bytes of ``masked``, from one silo; None if a shape is not static.

        Args:
            clients: the number of clients of all silos together: the more, the wider is the sum.
        """
        sizes = [masked_bytes(one, clients) for one in self.masked]
        return None if None in sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The cost of running a computation on a cohort. ``str()`` of it is a readable page.

    Attributes:
        plan: the stages.
        crossings: one for each barrier.
        dropouts: True if silos may drop out of masked sums, False if all must reply, None if that is not known.
    """

    plan: Plan
    crossings: tuple[Crossing, ...]
    dropouts: bool | None = None

    @property
    def round_trips(self) -> int:
        """Return how often the coordinator waits for the silos."""
        return self.plan.round_trips

    def messages(self, silos: int) -> int:
        """Return the number of control messages for that many silos: a work item and a reply per silo and barrier.

        If silos may drop out of masked sums, each silo and the coordinator send three more for each barrier with one.
        """
        masked = sum(bool(crossing.masked) for crossing in self.crossings) if self.dropouts else 0
        return silos * (2 * self.round_trips + _DROPOUT_MESSAGES * masked)

    def __repr__(self) -> str:
        return one_line_repr("Explanation", repr(self.plan.name), count_text(self.round_trips, "round trip"))

    def _repr_html_(self) -> str:
        return explanation_html(self)

    def __str__(self) -> str:
        parameter, result = self.plan.type.parameter, self.plan.type.result
        lines = [f"takes   {_shortened(str(parameter or 'nothing'))}", f"returns {_shortened(str(result))}", ""]
        at = {crossing.stage: crossing for crossing in self.crossings}
        for stage in self.plan.stages:
            if isinstance(stage, ServerStage):
                lines += _server_lines(stage)
            else:
                lines += _client_lines(at[stage.number], self.dropouts)
        if self.plan.masked:
            lines.append(f"masked, the coordinator learns totals only: {', '.join(self.plan.masked)}")
            if self.dropouts is None:  # explained without a context
                lines.append("masked sums need keys at both ends: a context without keys refuses them")
        if self.plan.exposed:
            lines.append(f"in plaintext, seen by the coordinator: {', '.join(self.plan.exposed)}")
        trips = self.round_trips
        lines += ["", f"round trips: {trips}   control messages: {self.messages(1)} per silo"]
        if not trips:
            lines.append("no clients: runs at the coordinator, the broker is not touched")
        return "\n".join(lines)


def explain(comp: tff.Computation, *, secure_sum: SecureSum = "masked") -> Explanation:
    """Explain the cost of running ``comp`` on a cohort; no message is sent.

    Args:
        comp: the computation to explain.
        secure_sum: how secure intrinsics are handled, as in :func:`fedbroker.create_sync_execution_context`. The
            default is that of a context with keys; without keys, a context refuses them.

    Raises:
        PlanError: it cannot run on a cohort; names the unsupported part and its replacement.
    """
    return explain_plan(make_plan(comp, secure_sum=secure_sum))


def explain_plan(plan: Plan, *, dropouts: bool | None = None) -> Explanation:
    """Explain the cost of running a plan; see :class:`Explanation`."""
    return Explanation(plan, tuple(_crossing(plan, stage) for stage in plan.client_stages), dropouts)


def _crossing(plan: Plan, stage: ClientStage) -> Crossing:
    earlier = [one for one in plan.client_stages if one.number < stage.number]
    there = {slot.name for one in earlier for slot in (*one.inputs, *one.kept)}
    down = tuple(slot for slot in stage.inputs if slot.name not in there and not _is_clients_own(slot))
    up = (*stage.partials, *stage.returned)
    servers = [one for one in plan.stages if isinstance(one, ServerStage) and one.number == stage.number + 1]
    masked = tuple(one for server in servers for one in server.sums)
    return Crossing(stage.number, down, len(stage.computation), up, stage.kept, masked)


def masked_bytes(sum_: MaskedSum, clients: int) -> int | None:
    """Return the bytes of a silo's part of a masked sum over so many clients; None if a shape is not static."""
    total = 0
    for type_, tensor in zip(tensors_of(sum_.total.type), sum_.tensors, strict=True):
        size = static_bytes(type_)
        if size is None:
            return None
        total += size // type_.dtype.itemsize * tensor.width(clients)
    return total


def _is_clients_own(slot: Slot) -> bool:
    """Return whether it is a clients-placed parameter: the silos' own data, or client values distributed to them."""
    return isinstance(slot.type, tff.FederatedType) and slot.type.placement is tff.CLIENTS and not slot.type.all_equal


def _total(slots: Sequence[Slot]) -> int | None:
    sizes = [static_bytes(slot.type) for slot in slots]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _server_lines(stage: ServerStage) -> list[str]:
    how = " by adding" if stage.fold is not None and stage.fold.adds else ""
    parts = [f"merges {count_text(len(stage.merges), 'aggregate')}{how}"] if stage.merges else []
    parts += [f"adds {count_text(len(stage.sums), 'masked sum')}"] if stage.sums else []
    what = ", ".join(parts) or "runs"
    return [f"server stage {stage.number}: {what}, computes {count_text(len(stage.outputs), 'value')}"]


def _client_lines(crossing: Crossing, dropouts: bool | None) -> list[str]:
    lines = [f"client stage {crossing.stage}"]
    lines += [f"  ↓ {_slot_line(slot)}" for slot in crossing.down]
    lines.append(f"  ↓ computation  {bytes_text(crossing.computation_bytes)}, once per silo")
    lines += [
        f"  ↑ {_shortened(str(one.total.type))}  masked, {bytes_text(masked_bytes(one, _CLIENTS))}"
        for one in crossing.masked
    ]
    lines += [f"  ↑ {_slot_line(slot)}" for slot in crossing.up]
    lines += [f"  · kept at the silo: {_shortened(str(slot.type))}" for slot in crossing.kept]
    masked, clear = crossing.masked_bytes(_CLIENTS), crossing.up_bytes
    up = None if masked is None or clear is None else masked + clear
    lines.append(f"  = per silo: {bytes_text(crossing.down_bytes)} down, {bytes_text(up)} up, 1 round trip")
    if crossing.masked:
        lines.append(f"  = masked: {bytes_text(masked)} for {_CLIENTS} clients, {_MASKED_ROUND_TRIPS[dropouts]}")
    return lines


def _slot_line(slot: Slot) -> str:
    return f"{_shortened(str(slot.type))}  {bytes_text(static_bytes(slot.type))}"


def _shortened(text: str, width: int = 96) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
