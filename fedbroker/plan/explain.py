"""Explain a plan to people: its stages, the values that cross between them with their sizes, and its round trips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow_federated as tff

from fedbroker.plan.blocks import static_bytes
from fedbroker.plan.compiler import SecureSum
from fedbroker.plan.model import ClientStage, Plan, ServerStage, Slot
from fedbroker.plan.planner import make_plan
from fedbroker.text import bytes_text, count_text, one_line_repr

__all__ = ["Crossing", "Explanation", "explain", "explain_plan"]


@dataclass(frozen=True, slots=True)
class Crossing:
    """The values that cross at one barrier.

    Attributes:
        stage: the client stage's number.
        down: values sent to each silo.
        computation_bytes: size of the stage's computation, sent to each silo once and cached there.
        up: partial aggregates and results that each silo sends.
        kept: values that stay at each silo for a later stage.
    """

    stage: int
    down: tuple[Slot, ...]
    computation_bytes: int
    up: tuple[Slot, ...]
    kept: tuple[Slot, ...]

    def __repr__(self) -> str:
        counts = [f"{len(slots)} {way}" for way, slots in (("down", self.down), ("up", self.up), ("kept", self.kept))]
        return one_line_repr("Crossing", f"client stage {self.stage}", *counts)

    @property
    def down_bytes(self) -> int | None:
        """Return the bytes of ``down``, to one silo; None if a shape is not static."""
        return _total(self.down)

    @property
    def up_bytes(self) -> int | None:
        """Return the bytes of ``up``, from one silo; None if a shape is not static."""
        return _total(self.up)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The cost of running a computation on a cohort. ``str()`` of it is a readable page.

    Attributes:
        plan: the stages.
        crossings: one for each barrier.
    """

    plan: Plan
    crossings: tuple[Crossing, ...]

    @property
    def round_trips(self) -> int:
        """Return how often the coordinator waits for the silos."""
        return self.plan.round_trips

    def messages(self, silos: int) -> int:
        """Return the number of control messages for that many silos: a work item and a reply per silo and barrier."""
        return 2 * silos * self.round_trips

    def __repr__(self) -> str:
        return one_line_repr("Explanation", repr(self.plan.name), count_text(self.round_trips, "round trip"))

    def __str__(self) -> str:
        parameter, result = self.plan.type.parameter, self.plan.type.result
        lines = [f"takes   {_shortened(str(parameter or 'nothing'))}", f"returns {_shortened(str(result))}", ""]
        at = {crossing.stage: crossing for crossing in self.crossings}
        for stage in self.plan.stages:
            lines += _server_lines(stage) if isinstance(stage, ServerStage) else _client_lines(at[stage.number])
        if self.plan.exposed:
            lines.append(f"in plaintext, seen by the coordinator: {', '.join(self.plan.exposed)}")
        trips = self.round_trips
        lines += ["", f"round trips: {trips}   control messages: {self.messages(1)} per silo"]
        if not trips:
            lines.append("no clients: runs at the coordinator, the broker is not touched")
        return "\n".join(lines)


def explain(comp: tff.Computation, *, secure_sum: SecureSum = "refuse") -> Explanation:
    """Explain the cost of running ``comp`` on a cohort; no message is sent.

    Args:
        comp: the computation to explain.
        secure_sum: how secure intrinsics are handled, as in :func:`fedbroker.create_sync_execution_context`.

    Raises:
        PlanError: it cannot run on a cohort; names the unsupported part and its replacement.
    """
    return explain_plan(make_plan(comp, secure_sum=secure_sum))


def explain_plan(plan: Plan) -> Explanation:
    """Explain the cost of running a plan."""
    return Explanation(plan, tuple(_crossing(plan, stage) for stage in plan.client_stages))


def _crossing(plan: Plan, stage: ClientStage) -> Crossing:
    earlier = [one for one in plan.client_stages if one.number < stage.number]
    there = {slot.name for one in earlier for slot in (*one.inputs, *one.kept)}
    down = tuple(slot for slot in stage.inputs if slot.name not in there and not _is_clients_own(slot))
    return Crossing(stage.number, down, len(stage.computation), (*stage.partials, *stage.returned), stage.kept)


def _is_clients_own(slot: Slot) -> bool:
    """Return whether it is a clients-placed parameter: the silos' own data, or client values distributed to them."""
    return isinstance(slot.type, tff.FederatedType) and slot.type.placement is tff.CLIENTS and not slot.type.all_equal


def _total(slots: Sequence[Slot]) -> int | None:
    sizes = [static_bytes(slot.type) for slot in slots]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _server_lines(stage: ServerStage) -> list[str]:
    merges = len(stage.merges)
    what = f"merges {merges} aggregate{'s' * (merges != 1)}" if merges else "runs"
    return [
        f"server stage {stage.number}: {what}, computes {len(stage.outputs)} value{'s' * (len(stage.outputs) != 1)}"
    ]


def _client_lines(crossing: Crossing) -> list[str]:
    lines = [f"client stage {crossing.stage}"]
    lines += [f"  ↓ {_slot_line(slot)}" for slot in crossing.down]
    lines.append(f"  ↓ computation  {bytes_text(crossing.computation_bytes)}, once per silo")
    lines += [f"  ↑ {_slot_line(slot)}" for slot in crossing.up]
    lines += [f"  · kept at the silo: {_shortened(str(slot.type))}" for slot in crossing.kept]
    lines.append(
        f"  = per silo: {bytes_text(crossing.down_bytes)} down, {bytes_text(crossing.up_bytes)} up, 1 round trip"
    )
    return lines


def _slot_line(slot: Slot) -> str:
    return f"{_shortened(str(slot.type))}  {bytes_text(static_bytes(slot.type))}"


def _shortened(text: str, width: int = 96) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
