"""The tutorial from its first command to its last: files are written, commands run, outputs compared.

The second machine is a second shell with its own home directory; its silo gets only the files that the page transfers.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedbroker.broker import PrivateBroker
from fedbroker.broker.setup import free_ports
from tests.support.broker_tools import write_rabbitmqctl
from tests.support.pages import ROOT, Block, story
from tests.support.shell import Shell

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SIZE = re.compile(r"(computation  )\S+ \S+(?=,)")


@pytest.fixture
def shells(tmp_path):
    """Yield ``shells(home, directory)``, which starts shells; end all of them after the test."""
    started: list[Shell] = []

    def shell(home: Path, directory: Path) -> Shell:
        home.mkdir()
        (tmp_path / "bin").mkdir(exist_ok=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("FEDBROKER_")}
        bin = tmp_path / "bin"
        environ |= {
            "HOME": str(home),
            "PATH": os.pathsep.join([str(bin), str(ROOT / ".venv" / "bin"), environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "workers")]),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        started.append(Shell(directory, environ))
        return started[-1]

    yield shell
    for one in started:
        one.close()


def shown(expected: str, printed: str) -> bool:
    """Return whether the output equals a page's text, apart from computation sizes and the page's ellipses."""
    lines = SIZE.sub(r"\1…", expected).strip().splitlines()
    pattern = "\n".join(".*".join(map(re.escape, line.split("…"))) for line in lines)
    return re.fullmatch(pattern, printed.strip()) is not None


def settings(file: Path, port: int) -> dict[str, str]:
    """Read the page's broker settings, for a node that listens on the loopback alone."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    found = dict(line.split(" = ", 1) for line in lines)
    assert (found.pop("listeners.tcp"), found.pop("listeners.ssl.default")) == ("none", "5671")
    return {**found, "listeners.ssl.local": f"127.0.0.1:{port}"}


def parts() -> Iterator[tuple[str, list[Block]]]:
    """Yield the page's headings, each with its blocks."""
    headings = {
        number: line.lstrip("# ")
        for number, line in enumerate((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8").splitlines(), 1)
        if line.startswith(("## ", "### "))
    }
    for start, heading in headings.items():
        end = min((number for number in headings if number > start), default=sys.maxsize)
        yield heading, [block for block in story("docs/tutorial.md") if start < block.line < end]


def follow(shell: Shell, blocks: list[Block], change: Callable[[str], str] = str) -> None:
    """Follow the page in the shell's directory."""
    printed = ""
    for block in blocks:
        text = change(block.text)
        if block.title:
            (shell.directory / block.title).write_text(text, encoding="utf-8")
        elif block.language == "sh":
            printed = shell.run(text, 120)
        else:
            assert shown(text, printed), printed


def test_tutorial_runs_from_start_to_end(shells, tmp_path):
    page = dict(parts())
    hub = shells(tmp_path / "hub", ROOT)
    # `make setup` has run already: this test needs its environment.
    follow(hub, page.pop("Set up"), lambda text: text.replace("make setup", "make --dry-run setup"))
    for heading in ("A broker", "Two silos", "A federated mean", "A training run", "Masked sums"):
        follow(hub, page.pop(heading))

    etc, (port,) = tmp_path / "etc", free_ports(1)
    etc.mkdir()

    def here(text: str) -> str:
        for shown, ours in (
            ("/etc/rabbitmq", str(etc)),
            (" -g rabbitmq", ""),
            ("service rabbitmq-server restart", "true"),  # the test's own node runs with these settings
            ("broker.example/", f"localhost:{port}/"),
            ("broker.example", "localhost"),
        ):
            text = text.replace(shown, ours)
        return text

    hub.run(f"cd {ROOT}")
    certificate, tls, restart, users = page.pop("On the hub")
    follow(hub, [certificate, tls, restart], here)
    with PrivateBroker(extra_conf=settings(etc / "rabbitmq.conf", port)) as node:
        write_rabbitmqctl(node, tmp_path / "bin")
        follow(hub, [users], here)
        kennedy = shells(tmp_path / "kennedy", tmp_path / "kennedy")
        for file in ("hub/hub/server.pem", "hub/hub/jfk.password", "hub/airports/jfk/flights.csv"):
            shutil.copy(tmp_path / file, kennedy.directory)
        follow(kennedy, page.pop("On the other machine"), here)
        follow(hub, page.pop("Back on the hub"), here)
        assert "mean delay: 13.664 minutes" in hub.printed
        for bad in (here("broker.example/"), f"127.0.0.1:{port}/?cafile=$OLDPWD/server.pem"):
            hub.run(f"! FEDBROKER_URL=amqps://coordinator:x@{bad} fedbroker cohort show airports")
            assert hub.said.rstrip().rpartition("\n")[2].count("is not trusted: ") == 1
        for shell in (hub, kennedy):
            shell.run("kill $(jobs -p); wait")
    assert not [blocks for blocks in page.values() if blocks]
