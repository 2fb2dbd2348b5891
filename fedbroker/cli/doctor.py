"""``fedbroker doctor``: diagnosis of the path from here to a broker and a cohort."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import cyclopts

import fedbroker
from fedbroker.cli.common import Json, Url, print_json
from fedbroker.deadline import Deadline
from fedbroker.log import configure

if TYPE_CHECKING:
    from fedbroker.diagnostics.finding import Finding
    from fedbroker.wire.messages import Announce

__all__ = ["doctor"]

OPEN = 20.0

Cohort = Annotated[
    str | None, cyclopts.Parameter(help="A cohort's name: its queues and silos are looked at, too, if it is given.")
]


def doctor(*, url: Url, cohort: Cohort = None, json: Json = False) -> int:
    """Print the findings on the broker and, if given, the cohort; return the exit code."""
    from fedbroker.diagnostics.finding import exit_code_of, print_findings

    configure("auto", "error")
    findings = asyncio.run(_examine(url, cohort))
    if json:
        print_json([one.as_json() for one in findings])
    else:
        print_findings(findings)
    return exit_code_of(findings)


async def _examine(url: str, cohort: str | None) -> list[Finding]:
    from fedbroker.diagnostics import coordinator_role, examine
    from fedbroker.wire.messages import check_name

    if cohort is not None:
        check_name("cohort", cohort)
    findings = await examine(url, coordinator_role(cohort))
    if cohort is not None and not any(one.level == "problem" for one in findings):
        findings += await _silos(url, cohort)
    return findings


async def _silos(url: str, cohort: str) -> list[Finding]:
    """Return findings about the silos: which are present, and whether each would be admitted."""
    from fedbroker.cli.silo_table import SiloTable
    from fedbroker.diagnostics.finding import Finding
    from fedbroker.errors import BrokerError, CohortError
    from fedbroker.transport.observer import CohortObserver, Heard

    board = SiloTable()

    def hear(word: Heard) -> None:
        board.hear(word, time.monotonic())

    lookout = CohortObserver(url, cohort, hear)
    try:
        await lookout.open(Deadline.after(OPEN))
        await lookout.close()
    except BrokerError as error:
        return [Finding.problem("silos", error)]
    there = [row.announce for row in board.rows(time.monotonic()) if row.state == "present"]
    if not there:
        nobody = CohortError(
            f"no silo is in cohort {cohort!r}", hint="start them (`fedbroker-silo run`), or correct the cohort's name"
        )
        return [Finding.warning("silos", nobody)]
    names = ", ".join(said.silo for said in there)
    return [Finding.ok("silos", f"{len(there)} in cohort {cohort!r}: {names}"), *map(_version, there)]


def _version(said: Announce) -> Finding:
    from fedbroker.diagnostics.finding import Finding
    from fedbroker.errors import CohortError
    from fedbroker.session.roster import admit
    from fedbroker.wire.messages import Rejected

    ours = fedbroker.__version__
    answer = admit(said, "doctor", version=ours, members=0, most=1)
    if isinstance(answer, Rejected):
        other = CohortError(
            f"silo {said.silo!r} is sent away: {answer.reason}", hint="install the same version at either side"
        )
        return Finding.problem("versions", other)
    return Finding.ok("versions", f"silo {said.silo!r} has {said.version or 'an unknown version'}, we have {ours}")
