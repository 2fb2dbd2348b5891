"""The public function ``fedbroker.simulate`` and the object that it returns."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from fedbroker.broker import PrivateBroker
from fedbroker.context.api import as_default
from fedbroker.context.contexts import SyncBrokerContext
from fedbroker.context.settings import Options, Settings, Timeouts
from fedbroker.errors import UsageError
from fedbroker.session.events import Listener
from fedbroker.simulation.sources import sources_of_silos
from fedbroker.testing import LocalCohort, SiloProcess, local_cohort, local_cohort_html
from fedbroker.text import one_line_repr
from fedbroker.wire.messages import check_name

__all__ = ["Simulation", "simulate"]


class Simulation:
    """A cohort on this machine and an execution context on it. Made by :func:`fedbroker.simulate`.

    It ends with :meth:`close`, with its ``with`` block, with the next simulation if no ``with`` block holds it, or with
    the process, however that ends. TFF's default context is then again what it was before.
    """

    def __init__(self, running: LocalCohort, context: SyncBrokerContext, resources: contextlib.ExitStack) -> None:
        self._running = running
        self._context = context
        self._resources = resources
        self._process = os.getpid()
        self._closing = threading.Lock()
        self._closed = False
        self.held = False
        """True within a ``with`` block."""
        atexit.register(self.close)

    @property
    def context(self) -> SyncBrokerContext:
        """The execution context, which is TFF's default."""
        return self._context

    @property
    def url(self) -> str:
        """The URL of the broker, for other contexts and for commands; holds a password."""
        return self._running.url

    @property
    def cohort(self) -> str:
        """The cohort's name."""
        return self._running.cohort

    @property
    def silos(self) -> Mapping[str, SiloProcess]:
        """The silos' processes by name: ``kill()``, ``stop()`` and ``start()`` try out what happens without a silo."""
        return self._running.silos

    @property
    def keys(self) -> Path | None:
        """The file for the ``keys=`` of other contexts if messages are signed; else None."""
        return self._running.keys

    @property
    def closed(self) -> bool:
        """True once it was closed."""
        return self._closed

    def close(self) -> None:
        """Close the context, stop silos and broker, and remove their files. Bounded in time; may be called again."""
        with self._closing:
            if self._closed or os.getpid() != self._process:  # in a forked child, all of it is the parent's
                return
            self._closed = True
            _forget(self)
            atexit.unregister(self.close)
            self._resources.close()

    def __enter__(self) -> Self:
        self.held = True
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ["closed"] if self._closed else []
        return one_line_repr("Simulation", f"cohort={self.cohort!r}", f"silos={sorted(self.silos)}", *state)

    def _repr_html_(self) -> str:
        return local_cohort_html(self._running)


def simulate(
    data: Mapping[str, object] | Sequence[object],
    *,
    name: str = "rows",
    clients: str | None = None,
    cohort: str = "simulation",
    min_silos: int | None = None,
    stragglers: Literal["fail", "drop", "replace"] = "fail",
    quorum: int | None = None,
    timeouts: Timeouts | None = None,
    on_event: Listener | None = None,
    progress: bool | None = None,
    options: Options | None = None,
    policy: Mapping[str, object] | None = None,
    security: Literal["none", "sign", "seal"] = "none",
    isolation: Literal["namespace", "none"] = "namespace",
    broker: str | None = None,
) -> Simulation:
    """Start a federation on this machine over data that you have, and make it TFF's default execution context.

    It has a private broker and a real silo, a process of its own, for each entry of ``data``. A computation runs as it
    would with silos elsewhere: ``mean_delay(fedbroker.data("rows"))``. Use it in a ``with`` statement, or in a notebook
    without one: the next call ends an earlier simulation, and no process is left when this one ends.

    A silo's data is one table, or a dict of several by the name of the data source. A table is a data frame (pandas,
    polars, a table of pyarrow), a dict of columns, a pair of arrays ``(x, y)``, an array, the path of a file (CSV,
    Parquet, JSON, ``.npz``, ``.npy``), or the keys of a ``[data.NAME]`` of ``silo.toml``, such as ``{"source":
    "duckdb", "query": "…"}``. A column is an array or a list, with one element for each row.

    Args:
        data: each silo's data by the silo's name; or a list of the data of ``silo-0``, ``silo-1``, ….
        name: the name of the data source of a silo that has one table, for :func:`fedbroker.data`.
        clients: a column; rows with the same value in it belong to one client. None: each silo is one client.
        cohort: the cohort's name.
        min_silos: the number of silos that an invocation waits for; None for all of them.
        stragglers: as in :func:`fedbroker.set_sync_execution_context`, and so are the next five.
        quorum: the number of silos that must answer a stage; None for ``min_silos``.
        timeouts: time limits.
        on_event: called with each event.
        progress: the display of running invocations.
        options: settings that most programs leave as they are.
        policy: keys of each silo's ``[policy]``, such as ``{"client_results": "allow"}``, which lets single clients'
            values leave their silo.
        security: ``"sign"`` and ``"seal"`` make keys for all, and silos then take part in masked sums.
        isolation: of the silos' C++ runtimes; ``"none"`` on a machine without user namespaces.
        broker: the URL of an existing broker; None for a private one of the installed ``rabbitmq-server``.

    Returns:
        The running simulation; all of its silos are ready.

    Raises:
        ConfigError: the data, a name or another argument is none that can be used; says which.
        BrokerStartError: ``rabbitmq-server`` is not installed, or did not start.
        CohortError: a silo did not start; carries the last line of its log.
    """
    check_name("data source", name)
    check_name("cohort", cohort)
    sources = sources_of_silos(data, name, clients)
    if importlib.util.find_spec("fedbroker_worker") is None:
        raise UsageError("no silo is installed here", hint="pip install fedbroker-worker")
    _replace_current()
    with contextlib.ExitStack() as stack:
        if broker is None:
            node = stack.enter_context(PrivateBroker())
            broker, root = node.url, node.directory / "silos"  # removed with the node, also if this process is killed
        else:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fedbroker-simulation-")))
        running = stack.enter_context(
            local_cohort(
                {silo: own.write(root / silo) for silo, own in sources.items()},
                cohort=cohort,
                broker=broker,
                directory=root,
                isolation=isolation,
                policy=policy,
                security=security,
            )
        )
        settings = Settings(
            url=broker,
            cohort=cohort,
            min_silos=len(sources) if min_silos is None else min_silos,
            stragglers=stragglers,
            quorum=quorum,
            timeouts=timeouts or Timeouts(),
            keys=running.keys,
            on_event=on_event,
            progress=progress,
            options=options or Options(),
        )
        context = as_default(SyncBrokerContext, settings)
        stack.push(context.__exit__)
        simulation = Simulation(running, context, stack.pop_all())
    _current.append(simulation)
    return simulation


_current: list[Simulation] = []
"""The running simulations, the newest last. They live on here where a notebook keeps no name for them."""


def _replace_current() -> None:
    for simulation in reversed(_current.copy()):
        if not simulation.held:
            simulation.close()


def _forget(simulation: Simulation) -> None:
    if simulation in _current:
        _current.remove(simulation)
