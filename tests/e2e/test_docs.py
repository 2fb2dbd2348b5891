"""Programs and commands of the documentation run unchanged, except for addresses."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import fedbroker
from fedbroker.testing import local_cohort
from tests.support.computations import total
from tests.support.handover import build
from tests.support.local_tff import pack_arguments
from tests.support.pages import blocks
from tests.support.program_process import start_program
from tests.support.wait import PROCESS_SECONDS, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
FLIGHTS = "dep_delay,distance\n10,100\n20,200\n,300\n"


def test_readme_program_runs_on_the_readme_silo(broker, cohort, tmp_path):
    program, _ = blocks("README.md", "python")
    (toml,) = blocks("README.md", "toml")
    sources = tomllib.loads(toml)["data"]
    for name in ("ewr", "jfk", "lga"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flights.csv").write_text(FLIGHTS)
    program, found = re.subn(r'"amqps://coordinator:[^"]*"', repr(broker.url), program)
    assert found == 1
    program = program.replace('cohort="airports"', f"cohort={cohort!r}")
    # TensorFlow traces a graph from source, which must be in a file.
    (tmp_path / "program.py").write_text(program)
    everyone = dict.fromkeys(("ewr", "jfk", "lga"), sources)
    with (
        start_program(tmp_path / "program.py") as running,
        local_cohort(everyone, cohort=cohort, broker=broker.url, directory=tmp_path),
    ):
        assert running.output(PROCESS_SECONDS) == "15.0\n"


def test_index_page_shows_the_readme_program_and_its_plan(tmp_path):
    assert blocks("docs/index.md", "sh") == blocks("README.md", "sh")
    program, _ = blocks("docs/index.md", "python")
    code = program.partition("fedbroker.set_sync_execution_context")[0] + "print(fedbroker.explain(mean_delay))\n"
    (tmp_path / "program.py").write_text(code)
    with start_program(tmp_path / "program.py") as running:
        printed = running.output(PROCESS_SECONDS)
    (expected,) = blocks("docs/index.md", "text")
    assert same_plan(expected) == same_plan(printed)


def same_plan(text: str) -> str:
    """Remove the sizes of a plan's computations, which differ between machines."""
    return re.sub(r"(computation  )\S+ \S+(?=,)", r"\1…", text)


def test_silo_page_installs_and_runs_a_silo(broker, cohort, tmp_path):
    install, use = (block.strip().splitlines() for block in blocks("docs/silo.md", "sh"))
    work = build(tmp_path / "handover")
    for line in install:
        run(line, work)
    assert not list((work / "silo-env").glob("lib/python*/site-packages/tensorflow/"))
    # With Python's slim image (some 130 MB) and compiled modules (some 40), the silo's image stays below 700.
    installed = [path for path in (work / "silo-env").rglob("*") if not path.is_symlink()]
    # The image has no pip.
    assert sum(path.lstat().st_size for path in installed if not {"__pycache__", "pip"} & set(path.parts)) < 550e6
    toml, _ = blocks("docs/silo.md", "toml")
    toml = toml.replace("amqp://localhost:5672/", broker.url).replace('"airports"', f'"{cohort}"')
    (work / "silo.toml").write_text(toml)
    (work / "flights.csv").write_text(FLIGHTS)
    preview, check, start = use
    assert "first" in run(preview, work)
    assert "dep_delay" in run(check, work)
    process = subprocess.Popen([*start.split(), "--ready-file", "ready"], cwd=work, stderr=subprocess.DEVNULL)
    try:
        wait_until((work / "ready").exists, 20)
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def test_install_page_has_the_commands_of_both_roles(tmp_path):
    make, install = (block.strip().splitlines() for block in blocks("docs/install.md", "sh"))
    assert make == ["make build"]
    handover = build(tmp_path / "handover")
    roles = [line.partition("#")[0].split() for line in install]
    usage = subprocess.run([handover / "install.sh"], capture_output=True, text=True, timeout=30).stdout
    for command, role, _ in roles:
        assert (handover / command).is_file()
        assert f"{command} {role} [DIRECTORY]" in usage


def test_programs_of_the_cohorts_page_run(silos, capsys):
    forming, alone, stragglers = (here(block, silos) for block in blocks("docs/cohorts.md", "python"))
    there = {"fedbroker": fedbroker}
    for block in (forming, stragglers):
        exec(block, there)
        with there["context"] as context:
            assert context.invoke(total, pack_arguments(total, ([1.0, 2.0],))) == 3.0
    exec(f"async def program():\n{textwrap.indent(alone, '    ')}", there)
    asyncio.run(there["program"]())
    assert capsys.readouterr().out.strip() == "['ewr', 'jfk']"


def here(program: str, silos) -> str:
    """Adapt a page's program to the running cohort."""
    for shown, ours in (("amqps://…", silos.url), ("airports", silos.cohort), ("min_silos=3", "min_silos=2")):
        assert shown in program
        program = program.replace(shown, ours)
    return program


def test_continuous_integration_runs_the_readme_commands():
    (commands,) = blocks("README.md", "sh")
    wanted = [line.partition("#")[0].strip() for line in commands.splitlines()]
    script = (ROOT / ".ci" / "run").read_text().replace('"$make"', "make")
    done = [line.partition("||")[0].strip() for line in script.splitlines()]
    assert wanted
    assert set(wanted) <= set(done)


def run(line: str, directory: Path) -> str:
    """Run one line of a page as a fresh machine does: from the registry unless pip's cache has the package."""
    environ = {**os.environ, "PYTHON": str(Path(sys.base_prefix, "bin", "python3.11"))}
    environ.pop("PYTHONPATH", None)
    done = subprocess.run(
        line.split(), cwd=directory, env=environ, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_links_of_the_docs_have_targets():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("command", ["fedbroker", "fedbroker-silo"])
def test_help_has_examples_and_a_wrong_option_exits_with_two(command):
    binary = Path(sys.executable).with_name(command)
    shown = subprocess.run([binary, "--help"], capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False)
    assert shown.returncode == 0
    assert "run" in shown.stdout or "broker" in shown.stdout
    wrong = subprocess.run(
        [binary, "--no-such-option"], capture_output=True, text=True, timeout=PROCESS_SECONDS, check=False
    )
    assert wrong.returncode == 2
    assert len(wrong.stderr.strip().splitlines()) == 1
