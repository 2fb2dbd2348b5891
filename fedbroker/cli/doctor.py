"""``fedbroker doctor``: diagnosis of this machine, a broker and a cohort."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import cyclopts

import fedbroker
from fedbroker.cli.common import Json, Url, print_json
from fedbroker.credentials import readable_by_others
from fedbroker.deadline import Deadline
from fedbroker.errors import ConfigError
from fedbroker.log import configure
from fedbroker.text import count_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fedbroker.diagnostics.finding import Finding
    from fedbroker.errors import FedbrokerError
    from fedbroker.wire.messages import Announce

__all__ = ["doctor"]

_SECRET_FILES: Final = ("FEDBROKER_URL_FILE", "FEDBROKER_ADMIN_URL_FILE")

OPEN: Final = 20.0
"""Seconds to connect and hear the silos that are present."""

KeysFile = Annotated[
    Path | None,
    cyclopts.Parameter(name="--keys", env_var="FEDBROKER_KEYS", help="The program's file of keys."),
]

Cohort = Annotated[str | None, cyclopts.Parameter(help="Also check the queues and silos of this cohort.")]


def doctor(*, url: Url, cohort: Cohort = None, keys: KeysFile = None, json: Json = False) -> int:
    """Print the findings on this machine, the broker and, if given, the cohort; return the exit code."""
    from fedbroker.diagnostics.finding import exit_code_of, print_findings

    configure("auto", "error")
    findings = asyncio.run(_examine(url, cohort, keys)) + _exposed_secrets()
    if json:
        print_json([finding.as_json() for finding in findings])
    else:
        print_findings(findings)
    return exit_code_of(findings)


async def _examine(url: str, cohort: str | None, keys: Path | None) -> list[Finding]:
    from fedbroker.diagnostics import coordinator_role, examine
    from fedbroker.wire.messages import check_name

    if cohort is not None:
        check_name("cohort", cohort)
    runtime, findings = await asyncio.gather(_runtime(), examine(url, coordinator_role(cohort)))
    if cohort is not None and not any(finding.level == "problem" for finding in findings):
        findings += await _silos(url, cohort, keys)
    return [*runtime, *findings]


async def _runtime() -> list[Finding]:
    """Return findings about the C++ runtime with the default settings; a program may choose others in its ``Options``.

    So a runtime that does not start is a warning.
    """
    from fedbroker.diagnostics.runtime import check_runtime

    found = await check_runtime()
    return [replace(one, level="warning", exit_code=0) if one.level == "problem" else one for one in found]


def _exposed_secrets() -> list[Finding]:
    """Return a warning for each file with a secret that any user of this machine may read."""
    from fedbroker.diagnostics.finding import Finding

    files = [Path(os.environ[variable]) for variable in _SECRET_FILES if os.environ.get(variable)]
    return [
        Finding.warning(
            "secrets",
            ConfigError(f"any user of this machine may read {file}, which holds a secret", hint=f"chmod 600 {file}"),
        )
        for file in files
        if readable_by_others(file)
    ]


async def _silos(url: str, cohort: str, keys_file: Path | None) -> list[Finding]:
    """Return findings about the silos: which are present, and whether each would be used with the program's keys."""
    from fedbroker.cli.silo_table import SiloTable
    from fedbroker.diagnostics.finding import Finding
    from fedbroker.errors import BrokerError, CohortError
    from fedbroker.transport.coordinator.announcements import AnnouncementReader, LobbyMessage
    from fedbroker.transport.observer import CohortObserver
    from fedbroker.transport.signed_messages import CoordinatorEnvelopes
    from fedbroker.trust.keyring import coordinator_keys
    from fedbroker.wire.limits import DEFAULT_LIMITS

    silos = SiloTable()

    def on_message(message: LobbyMessage) -> None:
        silos.update(message, time.monotonic())

    try:
        keys = None if keys_file is None else await asyncio.to_thread(coordinator_keys, keys_file)
    except ConfigError as error:
        return [Finding.problem("keys", error)]
    reader = AnnouncementReader(cohort, DEFAULT_LIMITS, CoordinatorEnvelopes(cohort, keys))
    observer = CohortObserver(url, cohort, on_message, reader=reader)
    try:
        await observer.open(Deadline.after(OPEN))
        await observer.close()
    except BrokerError as error:
        return [Finding.problem("silos", error)]
    present = [row.announce for row in silos.rows(time.monotonic()) if row.state == "present"]
    ignored = _ignored(reader.ignored)
    if not present and not ignored:
        empty = CohortError(
            f"cohort {cohort!r} has no silo", hint="start silos (`fedbroker-silo run`), or correct the cohort's name"
        )
        return [Finding.warning("silos", empty)]
    if present:
        names = ", ".join(announce.silo for announce in present)
        ignored.append(Finding.ok("silos", f"{len(present)} in cohort {cohort!r}: {names}"))
    return [*ignored, *map(_version, present), *_masked_sums(present)]


def _ignored(ignored: Mapping[str, FedbrokerError]) -> list[Finding]:
    """Return a finding for each reason why a program with these keys would ignore silos that are present."""
    from fedbroker.diagnostics.finding import Finding
    from fedbroker.errors import CohortError

    silos: dict[tuple[str, str], list[str]] = {}
    for silo, error in ignored.items():
        silos.setdefault((error.what, error.hint), []).append(silo)
    return [
        Finding.problem(
            "keys",
            CohortError(f"{count_text(len(names), 'silo')} ignored ({', '.join(sorted(names))}): {what}", hint=hint),
        )
        for (what, hint), names in silos.items()
    ]


def _masked_sums(present: Sequence[Announce]) -> list[Finding]:
    """Return a finding on masked sums; none for a cohort in which no silo masks."""
    from fedbroker.diagnostics.finding import Finding
    from fedbroker.errors import CohortError

    without = [announce.silo for announce in present if not announce.mask_key]
    if len(without) == len(present):
        return []
    if not without:
        return [Finding.ok("masked sums", f"{count_text(len(present), 'silo')} can take part")]
    error = CohortError(
        f"{count_text(len(without), 'silo')} cannot take part ({', '.join(without)})",
        hint="give them a roster_key and the cohort's roster; see `fedbroker-silo check` there",
    )
    return [Finding.warning("masked sums", error)]


def _version(announce: Announce) -> Finding:
    from fedbroker.diagnostics.finding import Finding
    from fedbroker.errors import CohortError
    from fedbroker.session.roster import admit
    from fedbroker.wire.messages import Rejected

    ours = fedbroker.__version__
    answer = admit(announce, "doctor", version=ours, members=0, max_silos=1)
    if isinstance(answer, Rejected):
        other = CohortError(
            f"a coordinator would reject silo {announce.silo!r}: {answer.reason}",
            hint="install the same version on both sides",
        )
        return Finding.problem("versions", other)
    theirs = announce.version or "an unknown version"
    return Finding.ok("versions", f"silo {announce.silo!r} has {theirs}, this coordinator {ours}")
