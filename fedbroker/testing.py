"""A complete cohort on this machine, for tests of programs: a private broker, and silos as separate processes.

The silos are started by their command line, as their administrators would.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Literal, TypeAlias

from fedbroker.broker import PrivateBroker
from fedbroker.credentials import write_private
from fedbroker.deadline import Deadline
from fedbroker.errors import CohortError, UsageError
from fedbroker.html import box, element, muted, table
from fedbroker.masking.roster import new_roster, write_roster
from fedbroker.narrowing import is_dict
from fedbroker.text import count_text, one_line_repr
from fedbroker.trust.keyring import SECRET, keys_table
from fedbroker.trust.keys import Identity

__all__ = ["POLICY", "LocalCohort", "PrivateBroker", "SiloProcess", "local_cohort"]

Sources: TypeAlias = Mapping[str, Mapping[str, object]]
"""Data sources by name, each with its keys as in ``[data.NAME]`` of a silo's settings."""

POLICY: Mapping[str, object] = MappingProxyType({"client_results": "refuse", "min_clients": 1})
"""Each silo's ``[policy]`` unless a test gives another; these are also the silo's own defaults."""

READY_SECONDS = 30.0
MORE_SECONDS = 5.0  # for each silo: a silo's start takes a processor 1.5 s, and a laptop may have few of them
STOP_SECONDS = 10.0
_ROSTER = "cohort.roster"
_MAX_ROWS = 50


@dataclass(frozen=True, slots=True)
class LocalCohort:
    """A running cohort.

    Attributes:
        url: of its broker; holds a password.
        cohort: its name.
        silos: its processes, by silo name.
        broker: the private node, or None if a URL was given.
        keys: for a context's ``keys=``, if messages are signed; else None.
        roster: the file with the silos' roster of masked sums, if messages are signed; else None. The secret of the
            administrator who signed it is next to it, in ``administrator.key``.
    """

    url: str
    cohort: str
    silos: Mapping[str, SiloProcess]
    broker: PrivateBroker | None
    keys: Path | None = None
    roster: Path | None = None

    def __repr__(self) -> str:
        return one_line_repr("LocalCohort", f"cohort={self.cohort!r}", f"silos={sorted(self.silos)}")

    def _repr_html_(self) -> str:
        return local_cohort_html(self)


def local_cohort_html(running: LocalCohort) -> str:
    """Return the silos' processes and logs as HTML, for notebooks."""
    silos = list(running.silos.items())[:_MAX_ROWS]
    rows = [(name, "ended" if silo.ended else "running", silo.pid, silo.log) for name, silo in silos]
    words = f"{count_text(len(running.silos), 'silo')} on this machine"
    title = element("div", element("b", f"cohort {running.cohort}"), " ", muted(words))
    return str(box(title, table(("silo", "state", "process", "log"), rows)))


class SiloProcess:
    """One silo as a separate process.

    It ends when this process does, however this process ends: its standard input is a pipe from here.

    Args:
        directory: holds its ``silo.toml``; relative paths in it are relative to this directory.
        without: variables of the environment that the silo does not get.
    """

    def __init__(self, directory: Path, without: Collection[str] = ()) -> None:
        self.directory = directory
        self._without = frozenset(without)
        self.log = directory / "silo.log"
        self._ready = directory / "ready"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id of the silo.

        Raises:
            UsageError: it was never started.
        """
        if self._process is None:
            raise UsageError("the silo was not started", hint="call start() first")
        return self._process.pid

    @property
    def ended(self) -> bool:
        """True if it was started and has ended."""
        return self._process is not None and self._process.poll() is not None

    def start(self) -> None:
        """Start it; :meth:`wait_ready` returns when it is in the cohort. May be called again after it ended."""
        self._ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "fedbroker_worker", "run", "--config", str(self.directory / "silo.toml")]
        command += ["--ready-file", str(self._ready), "--until-eof"]
        environ = {name: value for name, value in os.environ.items() if name not in self._without}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, env=environ
            )

    def wait_ready(self, deadline: Deadline) -> None:
        """Wait until it is in its cohort.

        Raises:
            CohortError: it ended, or was not ready by the deadline; carries the last line of its log.
        """
        waiting = threading.Event()
        while not self._ready.exists():
            if self._process is None or self._process.poll() is not None:
                raise CohortError(f"silo {self.directory.name!r} ended: {self.last_words()}", hint=f"see {self.log}")
            if deadline.passed():
                raise CohortError(f"silo {self.directory.name!r} is not ready: {self.last_words()}")
            waiting.wait(0.02)

    def kill(self) -> None:
        """Kill it at once (SIGKILL), as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
            _close(self._process.stdin)

    def stop(self) -> int | None:
        """Let it finish its current work and leave the cohort. Return its exit code; None if never started."""
        process = self._process
        if process is None:
            return None
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        _close(process.stdin)
        return process.returncode

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it said nothing"


@contextlib.contextmanager
def local_cohort(
    silos: int | Mapping[str, Sources] = 2,
    *,
    sources: Sources | None = None,
    cohort: str = "local",
    broker: str | None = None,
    directory: str | os.PathLike[str] | None = None,
    isolation: Literal["namespace", "none"] = "namespace",
    heartbeat: float = 1.0,
    policy: Mapping[str, object] | None = None,
    security: Literal["none", "sign", "seal"] = "none",
) -> Generator[LocalCohort]:
    """Run a private broker and silos within the block.

    Args:
        silos: their number, for ``silo-0``, ``silo-1``, …; or each silo's data sources by its name.
        sources: with a number of silos, the data sources of each of them.
        cohort: the cohort's name.
        broker: the URL of an existing broker; None for a private node of the installed ``rabbitmq-server``.
        directory: parent of each silo's directory, with its ``silo.toml``, its log, and the files that its sources
            name; kept. None for a temporary one.
        isolation: of the silos' C++ runtimes.
        heartbeat: seconds between two announcements of a silo.
        policy: keys of each silo's ``[policy]`` that add to or replace :data:`POLICY`, such as ``{"client_results":
            "allow"}`` for a test of single clients' values.
        security: if messages are signed, or signed and sealed, each silo has a key of its own, and ``keys`` of the
            yielded cohort is for the context. All silos are then in a roster, so that they take part in masked sums.

    Yields:
        The cohort; all of its silos are ready.

    Raises:
        BrokerStartError: ``rabbitmq-server`` is not installed, or did not start.
        CohortError: a silo did not start; carries the last line of its log.
    """
    by_name = dict.fromkeys((f"silo-{n}" for n in range(silos)), sources or {}) if isinstance(silos, int) else silos
    with contextlib.ExitStack() as stack:
        node = None
        if broker is None:
            node = stack.enter_context(PrivateBroker())
            broker = node.url
        root = Path(directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="fedbroker-cohort-")))
        processes: dict[str, SiloProcess] = {}
        stack.callback(_stop_all, processes)
        keys, roster, secured = None, None, dict[str, Mapping[str, object]]()
        if security != "none":
            keys, roster, secured = _make_keys(root, cohort, list(by_name), seal=security == "seal")
        for name, own in by_name.items():
            settings = {
                "name": name,
                "cohort": cohort,
                "broker": broker,
                "isolation": isolation,
                "heartbeat": heartbeat,
            }
            processes[name] = _prepare(root / name, settings, {**POLICY, **(policy or {})}, own, secured.get(name, {}))
            processes[name].start()
        deadline = Deadline.after(READY_SECONDS + MORE_SECONDS * len(processes))
        for process in processes.values():
            process.wait_ready(deadline)
        yield LocalCohort(broker, cohort, processes, node, keys, roster)


def _prepare(
    directory: Path,
    settings: Mapping[str, object],
    policy: Mapping[str, object],
    sources: Sources,
    security: Mapping[str, object],
) -> SiloProcess:
    directory.mkdir(parents=True, exist_ok=True)
    tables = {"silo": settings, "policy": policy} | {f"data.{name}": options for name, options in sources.items()}
    if security:
        tables["security"] = security
    text = "\n".join(f"[{name}]\n{_lines(table)}" for name, table in tables.items())
    write_private(directory / "silo.toml", text)
    # In the environment, they are meant for the silo of an administrator.
    variables = [f"FEDBROKER_SILO_{key.upper()}" for key in settings]
    return SiloProcess(directory, [*variables, *(f"{variable}_FILE" for variable in variables)])


def _make_keys(
    root: Path, cohort: str, silos: Sequence[str], *, seal: bool
) -> tuple[Path, Path, dict[str, Mapping[str, object]]]:
    """Write the secrets of an administrator, a coordinator and silos, and what each of them knows of the others.

    Returns:
        The coordinator's table of keys, the roster, and the silos' tables ``[security]``.
    """
    coordinator, administrator = Identity.generate(), Identity.generate()
    identities = {name: Identity.generate() for name in silos}
    publics = {name: identity.public for name, identity in identities.items()}
    for name, identity in identities.items():
        write_private(root / name / SECRET, identity.reveal())
    write_private(root / SECRET, coordinator.reveal())
    write_private(root / "administrator.key", administrator.reveal())
    write_private(root / "keys.toml", keys_table(publics, seal=seal))
    roster = write_roster(new_roster(cohort, publics, time.time()), administrator)
    write_private(root / _ROSTER, roster.decode())
    table = {
        "secret_file": SECRET,
        "coordinators": [str(coordinator.public)],
        "roster_key": str(administrator.public),
        "roster": f"../{_ROSTER}",
    }
    return root / "keys.toml", root / _ROSTER, dict.fromkeys(silos, table)


def _lines(table: Mapping[str, object]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in table.items())


def _toml(value: object) -> str:
    if is_dict(value):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_toml(one)}' for key, one in value.items())} }}"
    # JSON's strings, numbers, booleans and lists are valid TOML.
    return json.dumps(value)


def _stop_all(processes: Mapping[str, SiloProcess]) -> None:
    """Stop all silos concurrently."""
    threads = [threading.Thread(target=process.stop) for process in processes.values()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _close(pipe: IO[bytes] | None) -> None:
    if pipe is not None:
        pipe.close()
