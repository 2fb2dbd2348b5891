"""The functions and files of fedbroker that a warm round passes, in the coordinator's process and in a silo's.

    python -m benchmarks.functions [--rounds N]

lists them by file.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import fedbroker
from benchmarks._calls import Calls, Function
from benchmarks._children import Child
from benchmarks._report import Judged, Report, Row
from benchmarks.model import Case, round_of
from fedbroker.broker import PrivateBroker

COHORT = "functions"
SILOS = ("silo-0", "silo-1")
MODEL_BYTES = 4000
HEARTBEAT = 5.0  # as of a real silo
WARM_UP = 3
ROUNDS = 8
GOALS = {"coordinator": (240, 40), "silo": (140, 28)}
"""Functions and files."""
COLUMNS = ("functions", "without comprehensions", "files")


def run(quick: bool) -> Report:
    """Count in eight rounds, or in four if ``quick``."""
    rounds = ROUNDS // 2 if quick else ROUNDS
    return Report(
        "functions",
        f"The functions and files of fedbroker that a round passes ({rounds} warm rounds with {len(SILOS)} silos)",
        COLUMNS,
        list(rows(measure(rounds))),
        (
            "A round sends a new model to each silo, maps it there, and sums the results. The coordinator is recorded "
            "from the call to the result, in all of its threads. A silo, in its own process, is recorded for the same "
            "time.",
            "Only functions that every round has passed count: heartbeats, announcements and timers do not. A name "
            "counts once per file, as does a kind of comprehension.",
        ),
    )


def rows(passed: Mapping[str, Sequence[Function]]) -> Iterator[Row]:
    """Return a row for the functions and one for the files of each side."""
    for side, functions in passed.items():
        count, files = len(functions), len(by_file(functions))
        plain = sum(not function.comprehension for function in functions)
        most_functions, most_files = GOALS[side]
        figures = {COLUMNS[0]: count, COLUMNS[1]: plain}
        yield Row(f"{side}, functions", figures, Judged(count, "≤", most_functions, ""))
        yield Row(f"{side}, files", {COLUMNS[2]: files}, Judged(files, "≤", most_files, ""))


def measure(rounds: int) -> dict[str, Sequence[Function]]:
    """Return the functions that each side passes in every round."""
    calls = Calls()
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(PrivateBroker())
        silos = [stack.enter_context(traced_silo(broker.url, name)) for name in SILOS]
        for silo in silos:
            silo.hear()
        calls.install()  # before the context starts its threads
        stack.callback(calls.remove)
        context = stack.enter_context(
            fedbroker.create_sync_execution_context(broker.url, cohort=COHORT, min_silos=len(SILOS), progress=False)
        )
        once = round_of(context, Case(MODEL_BYTES, len(SILOS)))
        for _ in range(WARM_UP):  # makes the plan, sends the computation
            once()
        for _ in range(rounds):
            for silo in silos:
                silo.ask(do="start")
            calls.start()
            once()
            calls.stop()
            for silo in silos:
                silo.ask(do="stop")
        of_silo = [Function(*one) for one in silos[0].ask(do="report")["functions"]]
    return {"coordinator": calls.common(), "silo": of_silo}


@contextlib.contextmanager
def traced_silo(url: str, name: str) -> Iterator[Child]:
    """Yield a silo that records what it passes, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="functions-") as directory:
        file = Path(directory) / "silo.toml"
        file.write_text(
            f'[silo]\nname = "{name}"\ncohort = "{COHORT}"\nbroker = "{url}"\nheartbeat = {HEARTBEAT}\n'
            "[policy]\nmin_clients = 1\n"
        )
        file.chmod(0o600)
        with Child("benchmarks._traced_silo", settings=str(file)) as silo:
            yield silo


def by_file(functions: Sequence[Function]) -> dict[str, list[str]]:
    """Return the functions' names by file."""
    files: dict[str, list[str]] = {}
    for function in functions:
        files.setdefault(function.file, []).append(function.name)
    return files


def main() -> None:
    """Measure, and list the functions by file."""
    arguments = argparse.ArgumentParser(description="List the functions of fedbroker that a warm round passes.")
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds that are compared; {ROUNDS} by default")
    given = arguments.parse_args()
    for side, functions in measure(given.rounds).items():
        files = by_file(functions)
        print(f"{side}: {len(functions)} functions in {len(files)} files")
        for file, names in files.items():
            print(f"  {len(names):3}  {file}: {', '.join(names)}")


if __name__ == "__main__":
    main()
