"""A round of weighted federated averaging on real data: four silos on this machine beside TFF's local context."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
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
"""Flights of each client that has as many; with --quick a tenth of it."""

ARRIVALS = """
    select [dep_delay / 60, distance / 1000, hour / 24, (month - 6) / 6]::float[4] as x,
           [(arr_delay > 15)::int]::float[1] as y
    from '{file}' where arr_delay is not null limit {rows}
"""


def run(quick: bool) -> Report:
    """Measure rounds on both by turns, from the same model."""
    rows, turns = (ROWS // 10, 5) if quick else (ROWS, 9)
    with tempfile.TemporaryDirectory(prefix="native-") as name:
        files = split(Path(name))
        with training(Path(name), files, rows) as calls:
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
            f"Logistic regression, batches of {BATCH}, one epoch. The silos read their data from a file whose columns "
            "they keep; TFF's local context is given a tf.data.Dataset for each client, in memory.",
        ),
    )


def split(directory: Path) -> dict[str, str]:
    """The flights of 2013, dealt to four clients: one file each."""
    import duckdb

    data.split(directory)
    airports = [str(directory / airport / "flights.csv") for airport in data.AIRPORTS]
    files = {}
    with duckdb.connect() as database:
        database.execute("create table flights as select *, row_number() over () as n from read_csv(?)", [airports])
        for number, name in enumerate(CLIENTS):
            (directory / name).mkdir()
            files[name] = str(directory / name / "flights.csv")
            own = f"select * exclude n from flights where n % {len(CLIENTS)} = {number}"
            database.execute(f"copy ({own}) to '{files[name]}' (header)")
    return files


@contextlib.contextmanager
def training(directory: Path, files: Mapping[str, str], rows: int) -> Iterator[dict[str, Any]]:
    """One round on each side, from the initial model; returns its metrics."""
    from benchmarks._computations import invoke, local_context
    from examples.airports.computations import learning

    sources = {
        name: {"arrivals": {"source": "duckdb", "query": ARRIVALS.format(file=file, rows=rows)}}
        for name, file in files.items()
    }
    process = learning()
    native = local_context()
    state = invoke(native, process.initialize)
    datasets = [dataset(file, rows) for file in files.values()]
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


def dataset(file: str, rows: int) -> Any:  # noqa: ANN401
    """The same rows in batches, as a program on one machine would have them."""
    import duckdb
    import numpy as np
    import tensorflow as tf

    columns = duckdb.sql(ARRIVALS.format(file=file, rows=rows)).fetchnumpy()
    x, y = (np.stack(list(columns[name])).astype(np.float32) for name in ("x", "y"))
    return tf.data.Dataset.from_tensor_slices({"x": x, "y": y}).batch(BATCH)


def agree(results: Mapping[str, Any]) -> None:
    """Both have trained on the same.

    Raises:
        RuntimeError: they have not.
    """
    ours, theirs = (result.metrics["client_work"]["train"] for result in results.values())
    if ours["num_examples"] != theirs["num_examples"] or abs(ours["loss"] - theirs["loss"]) > 1e-4 * theirs["loss"]:
        raise RuntimeError(f"the silos trained on something else: {ours} and {theirs}")
