"""A thousand silos in one session: a coordinator's cost for each message, next to a plain aio-pika program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks._children import Child
from benchmarks._processes import MIB, Cost, Group, broker_pid, cost_of, typical
from benchmarks._report import Judged, Report, Row
from fedbroker.broker import PrivateBroker

OUTPUT = 1024  # bytes, as in _logical.py
CONNECTIONS = 10
COLUMNS = (
    "s",
    "messages per s",
    "coordinator CPU ms per message",
    "coordinator MiB",
    "silos CPU ms per message",
    "broker CPU ms per message",
)


def run(quick: bool) -> Report:
    """Measure with 1,000 silos, or with 100 if ``quick``."""
    return measure(100 if quick else 1000, turns=3 if quick else 5)


def measure(silos: int, turns: int) -> Report:
    """Measure one session with all silos, and as many bare replies, in turns."""
    with PrivateBroker() as broker, contextlib.ExitStack() as stack:
        sides = {
            "fedbroker": stack.enter_context(side(broker.url, silos, cohort="wide")),
            "bare aio-pika": stack.enter_context(side(broker.url, silos, replicated=False)),
            "bare, replicated queues": stack.enter_context(side(broker.url, silos, replicated=True)),
        }
        for children in sides.values():
            for child in children:
                child.hear()
        for asking, _ in sides.values():
            asking.ask(go=True)
        costs: dict[str, list[Cost]] = {name: [] for name in sides}
        node = Group([broker_pid()])
        for _ in range(turns):
            for name, (asking, answering) in sides.items():
                groups = {"coordinator": Group([asking.pid]), "silos": Group([answering.pid]), "broker": node}
                with cost_of(groups) as cost:
                    answer = asking.ask(go=True)
                if answer["bytes"] != silos * OUTPUT:
                    raise RuntimeError(f"{name}: {answer['bytes']} bytes came back")
                cost.seconds = answer["seconds"]
                costs[name].append(cost)
    typically = {name: typical(some) for name, some in costs.items()}
    # Both sides send the same number of messages, so the ratio of their rates is that of their times.
    judged = Judged(typically["bare aio-pika"].seconds / typically["fedbroker"].seconds, "≥", 0.5)
    return Report(
        "wide",
        f"One session with {silos:,} silos over {CONNECTIONS} connections. Each silo answers with 1 KiB",
        COLUMNS,
        [
            Row(name, figures(cost, 2 * silos), judged if name == "fedbroker" else None)
            for name, cost in typically.items()
        ],
        (
            "A message is a work item or a reply. Judged: messages per second, compared with bare aio-pika with "
            "classic queues and transient messages. fedbroker's work queues are replicated, its messages persistent: "
            "no work is lost. The last row shows the cost of that alone.",
        ),
    )


@contextlib.contextmanager
def side(url: str, silos: int, **words: object) -> Iterator[tuple[Child, Child]]:
    """Yield the process that sends the requests, and the process of the silos or responders."""
    kind = "silo" if "cohort" in words else "replicated" if words["replicated"] else "bare"
    names = [f"{kind}-{number:04}" for number in range(silos)]
    told = {"url": url, "names": names, "connections": CONNECTIONS, "silos": silos, **words}
    with Child("benchmarks._asking", **told) as asking, Child("benchmarks._logical", **told) as answering:
        yield asking, answering


def figures(cost: Cost, messages: int) -> dict[str, float | None]:
    """Return the figures by column."""
    each = {name: seconds / messages * 1e3 for name, seconds in cost.processor.items()}
    row = (
        cost.seconds,
        messages / cost.seconds,
        each["coordinator"],
        cost.peak["coordinator"] / MIB,
        each["silos"],
        each["broker"],
    )
    return dict(zip(COLUMNS, row, strict=True))
