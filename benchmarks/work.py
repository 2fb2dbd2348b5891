"""The time that a silo adds to each work item, in addition to its C++ runtime's."""

from __future__ import annotations

import asyncio
import secrets
import statistics
import tempfile
from pathlib import Path

from benchmarks._children import Child
from benchmarks._processes import TIMES, Timed
from benchmarks._report import Judged, Report, Row
from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport import CoordinatorTransport
from fedbroker.wire.messages import Announce, Compute, Done, Struct, WorkItem

COHORT, SILO = "work", "silo"
PROGRAM = (Struct(0, ()), Compute(0))
SECONDS = 60.0
COLUMNS = TIMES[:2]


def run(quick: bool) -> Report:
    """Send one small work item after another to one silo."""
    before, after = measure(40 if quick else 300)
    both = [sum(one) for one in zip(before, after, strict=True)]
    return Report(
        "work",
        f"The overhead of a silo per work item ({len(both)} items)",
        COLUMNS,
        [
            Row("from the broker to the first call of the runtime", figures(before)),
            Row("from the runtime's last reply to the broker", figures(after)),
            Row("both", figures(both), Judged(statistics.median(both) * 1e3, "≤", 2, "ms")),
        ],
        ("The runtime makes an empty struct. Reading the message's bytes and writing the reply's is not included.",),
    )


def measure(items: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each item, before the runtime and after it."""
    with PrivateBroker() as broker, tempfile.TemporaryDirectory(prefix="work-") as name:
        file = Path(name) / "silo.toml"
        file.write_text(f'[silo]\nname = "{SILO}"\ncohort = "{COHORT}"\nbroker = "{broker.url}"\n')
        file.chmod(0o600)
        with Child("benchmarks._silo", settings=str(file)) as silo:
            silo.hear()
            asyncio.run(ask(broker.url, items // 4))  # warms up the process
            silo.ask(go=True)
            asyncio.run(ask(broker.url, items))
            seconds = silo.ask(go=True)["seconds"]
    if len(seconds) != items:
        raise RuntimeError(f"{len(seconds)} of {items} work items were answered")
    return [one for one, _ in seconds], [one for _, one in seconds]


async def ask(url: str, items: int) -> None:
    """Send work items, one after another.

    Raises:
        RuntimeError: a work item failed.
    """
    there = asyncio.Event()

    def hear(_: Announce) -> None:
        there.set()

    end = CoordinatorTransport(url, COHORT, on_announce=hear, on_leave=lambda _: None)
    await end.open(Deadline.after(SECONDS))
    try:
        async with asyncio.timeout(SECONDS):
            await there.wait()
        for _ in range(items):
            item = WorkItem(secrets.token_hex(4), 0, SILO, end.coordinator_id, 1, PROGRAM, {}, SECONDS, SECONDS, True)
            answer = await end.request(item, {}, Deadline.after(SECONDS))
            if not isinstance(answer, Done):
                raise RuntimeError(f"no answer: {answer}")
    finally:
        await end.close()


def figures(seconds: list[float]) -> dict[str, float | None]:
    """Return the figures by column."""
    timed = Timed(seconds)
    return dict(zip(COLUMNS, (timed.median * 1e3, timed.ninth * 1e3), strict=True))
