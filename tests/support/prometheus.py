"""A Prometheus of the test on the loopback, with our shipped configuration except for times and targets."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from fedbroker.broker.setup import free_ports
from tests.support.wait import wait_until

CONFIG = Path(__file__).parents[2] / "config" / "prometheus"
INTERVAL = "250ms"


class Prometheus:
    """A running Prometheus.

    Attributes:
        url: of its API.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, what: str, **parameters: str) -> Any:
        """Return the data of a response of its API."""
        with urllib.request.urlopen(f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}", timeout=5) as got:
            answer = json.load(got)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the current result of an expression: metrics (``metric``) and values (``value``)."""
        try:
            return list(self.get("query", query=expression)["result"])
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None

    def value(self, expression: str) -> float:
        """Return the only value of an expression, or 0 if it has none."""
        found = self.query(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else 0.0

    def ready(self) -> bool:
        """Return whether it is ready."""
        try:
            urllib.request.urlopen(f"{self.url}/-/ready", timeout=1).close()
        except OSError:
            return False
        return True

    def up(self) -> dict[str, set[str]]:
        """Return the addresses that it scrapes with success, by job."""
        found: dict[str, set[str]] = {}
        for target in self.get("targets")["activeTargets"]:
            if target["health"] == "up":
                found.setdefault(target["labels"]["job"], set()).add(target["labels"]["instance"])
        return found


@contextlib.contextmanager
def prometheus(directory: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[Prometheus]:
    """Scrape ``targets``, addresses by the name of a file in ``targets/``; never outlives this process."""
    shutil.copytree(CONFIG, directory, dirs_exist_ok=True)
    for name, addresses in targets.items():
        file = directory / "targets" / f"{name}.yml"
        assert file.exists(), name
        file.write_text(json.dumps([{"targets": list(addresses)}]))
    file = directory / "prometheus.yml"
    text, found = re.subn(r"(_interval: )15s", rf"\g<1>{INTERVAL}", file.read_text())
    assert found == 2
    file.write_text(text)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = ["setpriv", "--pdeathsig", "KILL", "prometheus", f"--config.file={file}"]
    command += [f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}", "--log.level=warn"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        own = Prometheus(f"http://{address}")
        wait_until(lambda: own.ready() or process.poll() is not None, 20, "Prometheus is up")
        assert process.poll() is None, (directory / "log").read_text()
        yield own
    finally:
        process.terminate()
        process.wait(10)


def scrape(url: str) -> dict[str, Metric]:
    """Return the metrics served at an address, by name."""
    with urllib.request.urlopen(url, timeout=5) as got:
        return {family.name: family for family in text_string_to_metric_families(got.read().decode())}


def sample(url: str, name: str, **labels: str) -> float:
    """Return the sum of the samples of that name that have these labels."""
    return sum(
        one.value
        for family in scrape(url).values()
        for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    )
