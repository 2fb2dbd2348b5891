"""Many small invocations while silos are killed, disconnected and restarted: no losses, no errors, constant memory."""

from __future__ import annotations

import random
import threading
import time

import psutil
import pytest

import fedbroker
from fedbroker.errors import FedbrokerError
from tests.faults.harness import COHORT, VALUES
from tests.support.computations import sum_numbers

pytestmark = [pytest.mark.e2e]

MOST_GROWTH = 1.25
"""Allowed ratio of a process's memory at the end to that after the first quarter."""


class Chaos(threading.Thread):
    """Injects faults into random silos, from a seed, until it is stopped."""

    def __init__(self, bench, seed: int) -> None:
        super().__init__(name="chaos")
        self.bench = bench
        self.random = random.Random(seed)
        self.over = threading.Event()
        self.done = dict.fromkeys(("killed", "runtime killed", "link reset", "told to stop"), 0)

    def run(self) -> None:
        while not self.over.wait(self.random.uniform(0.2, 2.0)):
            what = self.random.choice(sorted(self.done))
            silo = self.bench.silos[self.random.choice(sorted(VALUES))]
            match what:
                case "killed":
                    silo.kill()
                    silo.start()
                case "told to stop":
                    silo.process.stop()
                    silo.start()
                case "runtime killed":
                    for runtime in silo.runtimes():
                        runtime.kill()
                case "link reset":
                    self.bench.on_network(silo.proxy.cut)
            if what in ("killed", "told to stop"):
                silo.ready()
            self.done[what] += 1

    def stop(self) -> None:
        self.over.set()
        self.join(60)


@pytest.mark.timeout(3600)
def test_soak_loses_no_result_and_keeps_memory_constant(bench, request, capsys):
    count = request.config.getoption("--soak")
    chaos = Chaos(bench, request.config.getoption("--soak-seed"))
    sizes, sums, errors = [], [], []
    with fedbroker.create_sync_execution_context(
        bench.broker.url,
        cohort=COHORT,
        min_silos=2,
        stragglers="drop",
        quorum=1,
        timeouts=fedbroker.Timeouts(stage=10.0, join=60.0),
        options=fedbroker.Options(retries=5),
    ) as context:
        sum_numbers(context)
        chaos.start()
        started = time.monotonic()
        try:
            for number in range(count):
                try:
                    result = sum_numbers(context)
                except FedbrokerError as error:
                    errors.append(str(error))
                else:
                    report = context.last_session
                    assert result == sum(VALUES[silo] for silo in report.participants), report
                    sums.append(float(result))
                if number == count // 4:
                    sizes.append(psutil.Process().memory_info().rss)
        finally:
            chaos.stop()
        sizes.append(psutil.Process().memory_info().rss)
        seconds = time.monotonic() - started
        bench.mend()
        agents = {name: silo.agent().memory_info().rss >> 20 for name, silo in bench.silos.items()}
    with capsys.disabled():
        print(
            f"\nsoak: {count} invocations in {seconds:.0f} s, {len(errors)} errors, "
            f"all three silos in {sums.count(111.0)}; faults: {chaos.done}; "
            f"coordinator {sizes[0] >> 20} -> {sizes[1] >> 20} MiB, silos {agents} MiB"
        )
    assert errors == []
    assert sum(chaos.done.values()) > 0
    assert sizes[1] < MOST_GROWTH * sizes[0]
    assert max(agents.values()) < 200
