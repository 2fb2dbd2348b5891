"""Federated analytics and learning over three airports: each keeps its flights and answers through a RabbitMQ broker.

Run by `make demo`. Starts a private broker and three silo processes, computes figures and trains a model over them,
compares the figures with central results, and stops all processes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # suppresses TensorFlow's notes about this machine's processor

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

import fedbroker
from examples.airports import data
from fedbroker import console as command_line
from fedbroker.testing import local_cohort

ROUNDS = 6
BATCH = 256


def main() -> int:
    """Run the demo. Return 0 only if the figures agree and the loss fell."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="airports-") as name:
        directory = Path(name)
        rows = data.split(directory)
        console.print(f"{rows:,} flights, split over {', '.join(data.AIRPORTS)}")
        silos = dict.fromkeys(data.AIRPORTS, data.SOURCES)
        with local_cohort(silos, cohort="airports", directory=directory, policy=data.POLICY, security="seal") as cohort:
            console.print(f"a broker and {len(data.AIRPORTS)} silos are up: cohort {cohort.cohort!r}")
            with fedbroker.set_sync_execution_context(cohort.url, cohort="airports", min_silos=3, keys=cohort.keys):
                agree = analyse(console, directory)
                fell = learn(console)
    ok = agree and fell
    console.print(f"demo: {'ok' if ok else 'failed'}: figures {'agree' if agree else 'differ'}, "
                  f"loss {'fell' if fell else 'did not fall'}", style="bold green" if ok else "bold red")  # fmt: skip
    return 0 if ok else 1


def analyse(console: Console, directory: Path) -> bool:
    """Run the federated analytics and print the figures next to central results. Return whether they agree.

    The last column has the same figures by a masked sum: the coordinator learns the totals over all airports only.
    """
    from examples.airports.computations import delays, masked_delays

    console.rule("federated analytics")
    show(console, fedbroker.explain(delays))
    federated = [float(figure) for figure in delays(fedbroker.data("delays"))]
    masked = [float(figure) for figure in masked_delays(fedbroker.data("delays"))]
    central = data.centrally(directory)
    console.print(f"\n{'':24}{'federated':>14}{'central':>14}{'masked':>14}", highlight=False)
    labels = ("flights", "mean delay (min)", "share delayed")
    for label, ours, theirs, hidden in zip(labels, federated, central, masked, strict=True):
        console.print(f"{label:24}{ours:14.6g}{theirs:14.6g}{hidden:14.6g}", highlight=False)
    console.print("masked: the coordinator saw the totals over all airports, and no airport's own", highlight=False)
    return all(
        abs(ours - theirs) <= 1e-9 * abs(theirs)
        for ours, theirs in zip((*federated, *masked), (*central, *central), strict=True)
    )


def learn(console: Console) -> bool:
    """Train by federated averaging; print loss and accuracy after each round. Return whether the loss fell."""
    from examples.airports.computations import learning

    console.rule("federated learning")
    process = learning()
    show(console, fedbroker.explain(process.next))
    state = process.initialize()
    losses: list[float] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=ROUNDS)
        for number in range(1, ROUNDS + 1):
            output = process.next(state, fedbroker.data("arrivals", batch_size=BATCH))
            state, train = output.state, output.metrics["client_work"]["train"]
            losses.append(float(train["loss"]))
            line = f"round {number}: loss {losses[-1]:.4f}  accuracy {float(train['accuracy']):.4f}"
            progress.print(line) if console.is_terminal else console.print(line, highlight=False)
            progress.advance(task)
    return losses[-1] < losses[0]


def show(console: Console, explanation: fedbroker.Explanation) -> None:
    """Print a plan, before any message is sent."""
    console.print(str(explanation), highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    command_line.run(main)
