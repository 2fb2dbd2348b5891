"""docs/board.md: its commands are known, and its facts are those of the code."""

from __future__ import annotations

import re
import shlex

from fedbroker.board import curves, silos, state
from fedbroker.cli import app
from fedbroker.transport import topology
from fedbroker.web import sse
from fedbroker.web.app import HEADERS
from tests.support.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "board.md").read_text()


def test_commands_are_known() -> None:
    (block,) = blocks("docs/board.md", "sh")
    export, command = block.splitlines()
    assert export.startswith("export FEDBROKER_URL_FILE=fedbroker-admin/boards/board/")
    _, *arguments = shlex.split(command)
    _, bound, _ = app.parse_args([*arguments, "--url", "amqp://x"], exit_on_error=False, print_error=False)
    assert bound.arguments["url"] == "amqp://x"


def test_numbers_and_names_are_those_of_the_code() -> None:
    assert f"last {state.MAX_SESSIONS} sessions, {curves.MAX_RUNS} runs and {state.MAX_NOTICES} notices" in PAGE
    assert silos.LATE_AFTER == 1.5
    assert f"{sse.MAX_CLIENTS} at most" in PAGE
    assert f"`{topology.EVENTS.name}`" in PAGE
    assert HEADERS["content-security-policy"].startswith("default-src 'self';")
    served = set(re.findall(r'Route\("(/api/[a-z]+)', (ROOT / "fedbroker" / "board" / "app.py").read_text()))
    assert served == set(re.findall(r"/api/[a-z]+", PAGE))
