"""An explanation as HTML, for notebooks: what crosses the network at each stage, and how large it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from fedbroker.html import Markup, box, element, joined, muted, table
from fedbroker.plan.blocks import static_bytes
from fedbroker.plan.model import ServerStage, Slot
from fedbroker.text import bytes_text, count_text

if TYPE_CHECKING:
    from fedbroker.plan.explain import Crossing, Explanation

__all__ = ["explanation_html"]

MAX_SLOTS: Final = 12
"""Values of one stage and direction that are listed: a model may have hundreds."""

MAX_TYPE: Final = 100
"""Characters of a type."""


def explanation_html(explanation: Explanation) -> str:
    """Return a table of the stages with the values that go to each silo, come back, are masked and stay there."""
    plan = explanation.plan
    trips = count_text(explanation.round_trips, "round trip")
    words = f"{trips} · {count_text(explanation.messages(1), 'control message')} per silo"
    title = element("div", element("b", plan.name), " ", muted(words))
    at = {crossing.stage: crossing for crossing in explanation.crossings}
    rows = [_server(stage) if isinstance(stage, ServerStage) else _clients(at[stage.number]) for stage in plan.stages]
    notes = [f"takes {_type(plan.type.parameter or 'nothing')}", f"returns {_type(plan.type.result)}"]
    if plan.masked:
        notes.append(f"masked, the coordinator learns totals only: {', '.join(plan.masked)}")
    if plan.exposed:
        notes.append(f"in plaintext, seen by the coordinator: {', '.join(plan.exposed)}")
    if not explanation.round_trips:
        notes.append("no clients: runs at the coordinator, the broker is not touched")
    stages = table(("stage", "where", "to each silo", "from each silo", "stays at the silo"), rows)
    return str(box(title, stages, *(element("div", muted(note)) for note in notes)))


def _server(stage: ServerStage) -> tuple[object, ...]:
    words = [f"merges {count_text(len(stage.merges), 'aggregate')}"] if stage.merges else []
    words += [f"adds {count_text(len(stage.sums), 'masked sum')}"] if stage.sums else []
    words += [f"computes {count_text(len(stage.outputs), 'value')}"]
    return stage.number, "server", muted(", ".join(words)), "", ""


def _clients(crossing: Crossing) -> tuple[object, ...]:
    down = [*_slots(crossing.down), f"computation  {bytes_text(crossing.computation_bytes)}, once per silo"]
    up = [f"{_type(one.total.type)}  masked" for one in crossing.masked[:MAX_SLOTS]] + _slots(crossing.up)
    return crossing.stage, "silos", _lines(down), _lines(up), _lines(_slots(crossing.kept))


def _slots(slots: Sequence[Slot]) -> list[str]:
    shown = [f"{_type(slot.type)}  {bytes_text(static_bytes(slot.type))}" for slot in slots[:MAX_SLOTS]]
    more = len(slots) - MAX_SLOTS
    return [*shown, *([f"and {count_text(more, 'more value')}"] if more > 0 else [])]


def _lines(lines: Iterable[str]) -> Markup:
    return joined(lines, "<br>")


def _type(type_: object) -> str:
    text = str(type_)
    return text if len(text) <= MAX_TYPE else f"{text[: MAX_TYPE - 1]}…"
