"""docs/keys.md, followed by a reader: keys made by its commands, its tables, one invocation."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from fedbroker_worker.config import load
from fedbroker_worker.roster import roster_file

import fedbroker
from fedbroker.deadline import Deadline
from fedbroker.testing import SiloProcess
from tests.support.computations import sum_numbers
from tests.support.pages import blocks
from tests.support.wait import PROCESS_SECONDS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PLACEHOLDER = "fedbroker-public-1:…"
SILOS = ("ewr", "jfk")


def printed(command: str, directory: Path) -> str:
    """Return the expected output of one of the page's commands."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / command.split()[0]), *command.split()[1:]],
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
        timeout=PROCESS_SECONDS,
    )
    return done.stdout.strip()


def made_key(command: str, directory: Path) -> str:
    directory.mkdir()
    public = printed(command, directory)
    assert re.fullmatch(r"fedbroker-public-1:[\w-]{86}", public)
    assert printed(command, directory) == public  # the second time it is there
    assert stat.S_IMODE((directory / "secret.key").stat().st_mode) == 0o600
    return public


def test_keys_page_leads_from_keys_to_a_result(broker, cohort, tmp_path):
    (console,) = blocks("docs/keys.md", "console")
    command = console.splitlines()[0].removeprefix("$ ")
    publics = {name: made_key(command, tmp_path / name) for name in SILOS}
    coordinator = made_key("fedbroker key secret.key", tmp_path / "coordinator")

    security, keys, _ = blocks("docs/keys.md", "toml")
    security = security.replace(PLACEHOLDER, coordinator)
    for name in SILOS:
        (tmp_path / name / "silo.toml").write_text(
            f'[silo]\nname = "{name}"\ncohort = "{cohort}"\nbroker = "{broker.url}"\n{security}\n'
            '[data.numbers]\nsource = "duckdb"\nquery = "select 1::float as x"\n'
        )
    for public in publics.values():
        keys = keys.replace(PLACEHOLDER, public, 1)
    (tmp_path / "coordinator" / "keys.toml").write_text(keys)

    (program,) = blocks("docs/keys.md", "python")
    silos = [SiloProcess(tmp_path / name) for name in SILOS]
    try:
        for silo in silos:
            silo.start()
        for silo in silos:
            silo.wait_ready(Deadline.after(30))
        code = program.replace('"airports"', repr(cohort)).replace('"keys.toml"', "keys").replace("set_", "create_")
        names = {"fedbroker": fedbroker, "url": broker.url, "keys": tmp_path / "coordinator" / "keys.toml"}
        exec(code, names)
        with names["context"] as context:
            assert sum_numbers(context) == 2.0
            assert context.last_session.forged == ()
    finally:
        for silo in silos:
            silo.stop()


def test_keys_page_leads_to_a_roster_that_the_silos_accept(tmp_path):
    publics = {name: made_key("fedbroker-silo key secret.key", tmp_path / name) for name in SILOS}
    coordinator = made_key("fedbroker key secret.key", tmp_path / "coordinator")
    security, keys, roster = blocks("docs/keys.md", "toml")
    for public in publics.values():
        keys = keys.replace(PLACEHOLDER, public, 1)
    (tmp_path / "coordinator" / "keys.toml").write_text(keys)
    (commands,) = blocks("docs/keys.md", "sh")
    sign, show = commands.splitlines()
    said = printed(sign, tmp_path / "coordinator")
    (administrator,) = re.findall(r"^roster key: (\S+)$", said, re.MULTILINE)
    assert all(name in printed(show, tmp_path / "coordinator") for name in SILOS)
    lines = security.replace(PLACEHOLDER, coordinator) + roster.replace(PLACEHOLDER, administrator)
    for name in SILOS:
        silo = f'[silo]\nname = "{name}"\ncohort = "airports"\nbroker = "amqp://localhost/"\n'
        (tmp_path / name / "silo.toml").write_text(f"{silo}{lines}")
        shutil.copy(tmp_path / "coordinator" / "airports.roster", tmp_path / name)
        file = roster_file(load(tmp_path / name / "silo.toml", {}))
        assert list(file.current().silos) == list(SILOS)
