"""A cohort of real silo processes on its own broker, each behind a network that can fail, and faults to inject."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.context.loop import LoopThread
from fedbroker.deadline import Deadline
from fedbroker.testing import SiloProcess
from tests.faults.cells import Fault
from tests.support.gated_source import block_reads, gated_source, read_count, unblock_reads
from tests.support.proxy import Proxy
from tests.support.wait import wait_until
from tests.support.worker import child_runtimes, write_settings

VALUES = {"bos": 1.0, "ewr": 10.0, "jfk": 100.0}
VICTIM = "ewr"
SPARE, SPARE_VALUE = "lga", 1000.0
HEARTBEAT = 0.5
SILENT_SECONDS = 2.5
COHORT = "faults"


class Silo:
    """One silo process behind its own proxy."""

    def __init__(self, root: Path, name: str, value: float, broker: str, loop: LoopThread) -> None:
        self.name = name
        self.directory = root / name
        self.directory.mkdir()
        self._loop = loop
        self.proxy = loop.run(_proxy(broker))
        numbers = {"numbers": {"source": "gated", "value": value}}
        own = {"name": name, "heartbeat": HEARTBEAT, "drain_seconds": 30.0}
        write_settings(self.directory, self.proxy.url, COHORT, numbers, **own)
        self.process = SiloProcess(self.directory)
        self.running = False

    def start(self) -> None:
        self.process.start()
        self.running = True

    def ready(self) -> None:
        self.process.wait_ready(Deadline.after(40))

    def kill(self) -> None:
        if self.running:
            self.process.kill()
        self.running = False

    @property
    def reads(self) -> int:
        return read_count(self.directory)

    def hold(self) -> None:
        block_reads(self.directory)

    def release(self) -> None:
        unblock_reads(self.directory)

    def agent(self) -> psutil.Process:
        return psutil.Process(self.process.pid)

    def runtimes(self) -> list[psutil.Process]:
        return child_runtimes(self.process.pid)

    def close(self) -> None:
        self.kill()
        self._loop.run(self.proxy.__aexit__(None, None, None))


async def _proxy(url: str) -> Proxy:
    return await Proxy(url).__aenter__()


class Bench:
    """The cohort, and methods that inject faults."""

    def __init__(self, root: Path, broker: PrivateBroker) -> None:
        self.broker = broker
        self.loop = LoopThread("proxies")
        self.silos = {name: Silo(root, name, value, broker.url, self.loop) for name, value in VALUES.items()}
        self.spare = Silo(root, SPARE, SPARE_VALUE, broker.url, self.loop)
        self._stopped: list[psutil.Process] = []
        self._meddling: list[threading.Thread] = []
        self.leaving = False

    @property
    def victim(self) -> Silo:
        return self.silos[VICTIM]

    def start(self) -> None:
        for silo in self.silos.values():
            silo.start()
        for silo in self.silos.values():
            silo.ready()

    def close(self) -> None:
        for silo in (*self.silos.values(), self.spare):
            silo.close()
        self.loop.stop()

    def meddle(self, fault: Fault, *, spare: bool = False) -> None:
        """Inject a fault; slow faults continue in a thread."""
        FAULTS[fault](self)
        if spare:
            self.spare.start()

    def flow(self) -> None:
        """Let the victim's network flow, unless a fault keeps it silent."""
        if not any(thread.is_alive() and thread.name == "silent" for thread in self._meddling):
            self.on_network(self.victim.proxy.flow)

    def mend(self) -> None:
        """Undo all faults and wait for the victim."""
        for thread in self._meddling:
            thread.join(60)
        self._meddling.clear()
        for process in self._stopped:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
        self._stopped.clear()
        self.victim.release()
        self.flow()
        self.spare.kill()
        if self.leaving:
            wait_until(lambda: self.victim.process.ended, 40, "the silo has left")
            self.leaving = False
        for silo in self.silos.values():
            if silo.running and silo.process.ended:
                silo.kill()
            if not silo.running:
                silo.start()
        for silo in self.silos.values():
            silo.ready()

    def on_network(self, action: Callable[[], object]) -> None:
        """Run an action on the event loop of the proxies."""
        self.loop.run(_do(action))

    def beside(self, name: str, action: Callable[[], object]) -> None:
        thread = threading.Thread(target=action, name=name)
        self._meddling.append(thread)
        thread.start()

    def stop(self, *processes: psutil.Process) -> None:
        for process in processes:
            process.send_signal(signal.SIGSTOP)
            self._stopped.append(process)


async def _do(action: Callable[[], object]) -> None:
    action()


def _killed(bench: Bench) -> None:
    bench.victim.kill()


def _restarted(bench: Bench) -> None:
    bench.victim.kill()
    bench.victim.start()


def _runtime_killed(bench: Bench) -> None:
    for runtime in bench.victim.runtimes():
        with contextlib.suppress(psutil.NoSuchProcess):
            runtime.kill()


def _both_restarted(bench: Bench) -> None:
    _runtime_killed(bench)
    _restarted(bench)


def _stopped(bench: Bench) -> None:
    bench.stop(bench.victim.agent())


def _runtime_stopped(bench: Bench) -> None:
    bench.stop(*bench.victim.runtimes())


def _link_reset(bench: Bench) -> None:
    bench.on_network(bench.victim.proxy.cut)


def _link_silent(bench: Bench) -> None:
    bench.on_network(bench.victim.proxy.stall)

    def mend() -> None:
        threading.Event().wait(SILENT_SECONDS)  # the pause is the fault itself
        bench.on_network(bench.victim.proxy.flow)

    bench.beside("silent", mend)


def _leaving(bench: Bench) -> None:
    os.kill(bench.victim.process.pid, signal.SIGTERM)
    bench.leaving = True


def _broker_restarted(bench: Bench) -> None:
    def restart() -> None:
        bench.broker.kill()
        bench.broker.start()

    bench.beside("broker", restart)


FAULTS: dict[Fault, Callable[[Bench], None]] = {
    "killed": _killed,
    "restarted": _restarted,
    "runtime killed": _runtime_killed,
    "both restarted": _both_restarted,
    "stopped": _stopped,
    "runtime stopped": _runtime_stopped,
    "link reset": _link_reset,
    "link silent": _link_silent,
    "leaving": _leaving,
    "broker restarted": _broker_restarted,
}


@contextlib.contextmanager
def bench_in(directory: Path) -> Iterator[Bench]:
    """Run a cohort whose silos are ready."""
    plugins = directory / "plugins"
    gated_source(plugins)
    with pytest.MonkeyPatch.context() as patch, PrivateBroker(directory=directory / "node") as broker:
        patch.setenv("PYTHONPATH", str(plugins), prepend=os.pathsep)
        bench = Bench(directory, broker)
        try:
            bench.start()
            yield bench
        finally:
            bench.close()


def wait_for_new(present: Callable[[], dict[str, str]], old: str | None) -> None:
    """Wait until the coordinator knows these three silos, and another incarnation of the victim than ``old``."""
    wait_until(lambda: present().keys() == VALUES.keys() and present()[VICTIM] != old, 30, "the victim is back")
