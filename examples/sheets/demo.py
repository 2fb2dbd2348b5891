"""A federated mean over three hospitals: each keeps its own Google spreadsheet and answers through a broker.

Run by `python -m examples.sheets.demo`. Starts a stand-in for Google's server, a private broker and three silo
processes, each with its own service account. Computes the mean length of stay before and after a row is added to a
spreadsheet, compares it with the central mean, and stops all processes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # suppresses TensorFlow's notes about this machine's processor

from rich.console import Console

import fedbroker
from examples.sheets import hospitals
from examples.sheets.server import SheetsServer
from fedbroker import console as command_line
from fedbroker.testing import local_cohort


def main() -> int:
    """Run the demo. Return 0 only if the means agree."""
    console = Console()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hospitals-")))
        google = stack.enter_context(SheetsServer())
        google.books = hospitals.books()
        sources = {name: {"stays": share(google, name, directory / name)} for name in hospitals.HOSPITALS}
        console.print(f"a server that stands for Google's, with spreadsheets of {', '.join(sources)}")
        policy = settings()["policy"]
        cohort = stack.enter_context(local_cohort(sources, cohort="hospitals", directory=directory, policy=policy))
        console.print(f"a broker and {len(sources)} silos are up: cohort {cohort.cohort!r}")
        stack.enter_context(fedbroker.set_sync_execution_context(cohort.url, cohort="hospitals", min_silos=3))
        agree = compare(console, google)
    verdict = "ok" if agree else "failed"
    said = f"demo: {verdict}: means {'agree' if agree else 'differ'}, {reads(google)} reads of spreadsheets"
    console.print(said, style="bold green" if agree else "bold red")
    return 0 if agree else 1


def share(google: SheetsServer, name: str, directory: Path) -> dict[str, object]:
    """Share a hospital's spreadsheet with a new service account. Return the source, as in the silo's silo.toml."""
    directory.mkdir()
    email = google.save_account(name, directory / "account.json")
    google.books[name].readers.add(email)
    # Without a cache, so that a new row is seen at once rather than within a minute.
    return settings()["data"]["stays"] | {"spreadsheet": name, "endpoint": google.url, "ttl": 0}


def settings() -> dict[str, Any]:
    """Return a hospital's settings."""
    return tomllib.loads(Path(__file__).with_name("silo.toml").read_text())


def compare(console: Console, google: SheetsServer) -> bool:
    """Print the federated mean next to the central one, before and after a row is added. Return whether they agree."""
    from examples.sheets.program import mean_stay

    console.print(str(fedbroker.explain(mean_stay)), highlight=False, markup=False, soft_wrap=True)
    console.print(f"\n{'':24}{'federated':>14}{'central':>14}", highlight=False)
    agree = True
    for label in ("mean stay (days)", "with a row more"):
        federated, central = float(mean_stay(fedbroker.data("stays"))), hospitals.mean(google.books)
        console.print(f"{label:24}{federated:14.6f}{central:14.6f}", highlight=False)
        agree = agree and abs(federated - central) <= 1e-9 * central
        google.books["south"].sheets[hospitals.WORKSHEET].append(["surgery", 60, 44])
    return agree


def reads(google: SheetsServer) -> int:
    """Return the number of times that silos read cells."""
    return sum("/values/" in request for request in google.requests)


if __name__ == "__main__":
    command_line.run(main)
