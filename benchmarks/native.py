"""Compare a round of weighted federated averaging on real data: four local silos against TFF's local context."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fedbroker
from benchmarks._processes import TIMES, by_turns
from benchmarks._report import Judged, Report, Row
from examples.airports import data
from fedbroker.testing import local_cohort

CLIENTS = ("silo-0", "silo-1", "silo-2", "silo-3")
BATCH = 256
HEARTBEAT = 5.0
ROWS = 20_000
"""Flights of each client; with --quick a tenth of them."""

ARRIVALS = """
    select [dep_delay / 60, distance / 1000, hour / 24, (month - 6) / 6]::float[4] as x,
           [(arr_delay > 15)::int]::float[1] as y
    from (select *, row_number() over () as n from read_csv(?) where arr_delay is not null)
"""
READ = "select x, y from 'arrivals.parquet'"


def run(quick: bool) -> Report:
    """Measure rounds on both in turns, from the same model."""
    rows, turns = (ROWS // 10, 5) if quick else (ROWS, 9)
    with tempfile.TemporaryDirectory(prefix="native-") as name:
        split(Path(name), rows)
        with training(Path(name)) as calls:
            results = {case: call() for case, call in calls.items()}
            agree(results)
            by_turns(calls, 1, 1)
            timed = by_turns(calls, turns)
    ours, theirs = timed.values()
    judged = Judged(ours.median / theirs.median, "≤", 1.3)
    first = next(iter(timed))
    return Report(
        "native",
        f"A round of build_weighted_fed_avg over the flights of {len(CLIENTS)} clients, {rows:,} each",
        TIMES,
        [Row(name, one.figures(), judged if name == first else None) for name, one in timed.items()],
        (
            f"Logistic regression, batches of {BATCH}, one epoch. In every round each silo reads its data from a "
            "Parquet file; TFF's local context is given a tf.data.Dataset for each client, in memory.",
        ),
    )


def split(directory: Path, rows: int) -> None:
    """Distribute the flights of 2013 among the clients: ``<client>/arrivals.parquet``, with ``rows`` rows."""
    import duckdb

    data.split(directory)
    airports = [str(directory / airport / "flights.csv") for airport in data.AIRPORTS]
    with duckdb.connect() as database:
        for number, name in enumerate(CLIENTS):
            (directory / name).mkdir()
            own = f"{ARRIVALS} where n % {len(CLIENTS)} = {number} limit {rows}"
            database.execute(f"copy ({own}) to '{directory / name / 'arrivals.parquet'}'", [airports])


@contextlib.contextmanager
def training(directory: Path) -> Iterator[dict[str, Callable[[], Any]]]:
    """Yield one round on each side, from the initial model; a call returns its metrics."""
    from benchmarks._computations import invoke, local_context
    from examples.airports.computations import learning

    sources = {name: {"arrivals": {"source": "duckdb", "query": READ}} for name in CLIENTS}
    process = learning()
    native = local_context()
    state = invoke(native, process.initialize)
    datasets = [dataset(directory / name / "arrivals.parquet") for name in CLIENTS]
    with (
        local_cohort(sources, cohort="native", directory=directory, heartbeat=HEARTBEAT) as cohort,
        fedbroker.create_sync_execution_context(
            cohort.url, cohort="native", min_silos=len(CLIENTS), progress=False
        ) as context,
    ):
        handle = fedbroker.data("arrivals", batch_size=BATCH)
        yield {
            "4 silos": lambda: invoke(context, process.next, state, handle),
            "TFF's local context": lambda: invoke(native, process.next, state, datasets),
        }


def dataset(file: Path) -> Any:  # noqa: ANN401
    """Return the same rows in batches, as a program on one machine would have them."""
    import duckdb
    import numpy as np
    import tensorflow as tf

    columns = duckdb.sql(f"select x, y from '{file}'").fetchnumpy()
    x, y = (np.stack(list(columns[name])).astype(np.float32) for name in ("x", "y"))
    return tf.data.Dataset.from_tensor_slices({"x": x, "y": y}).batch(BATCH)


def agree(results: Mapping[str, Any]) -> None:
    """Check that both sides trained on the same data.

    Raises:
        RuntimeError: they did not.
    """
    ours, theirs = (result.metrics["client_work"]["train"] for result in results.values())
    if ours["num_examples"] != theirs["num_examples"] or abs(ours["loss"] - theirs["loss"]) > 1e-4 * theirs["loss"]:
        raise RuntimeError(f"the silos trained on something else: {ours} and {theirs}")
