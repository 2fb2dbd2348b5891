"""docs/events.md and the code agree on each event's name, level and keys."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from fedbroker.session.events import WARNINGS, EventDetails, EventName

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
TOLD = "## In a cohort and its sessions"
"""The section on the events that ``on_event`` receives."""
SAYS = ("emit", "_emit", "Event")
"""The methods by which session and context emit an event."""
ON_EACH_EVENT = {"silo", "session", "stage"}


def calls() -> Iterator[tuple[Path, ast.Call]]:
    for package in (ROOT / "fedbroker", ROOT / "workers" / "fedbroker_worker"):
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield path, node


def name_of(path: Path, call: ast.Call) -> str:
    """Return an event's name, which must be written in full so that a reader can search for it."""
    first = call.args[0]
    assert isinstance(first, ast.Constant), f"{path}:{call.lineno}: {ast.unparse(call)}"
    return str(first.value)


def logged() -> dict[str, tuple[set[str], set[str]]]:
    """Return levels and keys of each event that is logged directly."""
    found: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    for path, call in calls():
        match call.func:
            case ast.Attribute(ast.Name("_log"), level):
                levels, keys = found[name_of(path, call)]
                levels.add("error" if level == "exception" else level)
                keys |= {keyword.arg for keyword in call.keywords if keyword.arg}
    return found


def told() -> set[str]:
    """Return the events that ``on_event`` receives; a name that is passed on is written elsewhere."""
    found = set()
    for _, call in calls():
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in SAYS and call.args and isinstance(call.args[0], ast.Constant):
            found.add(str(call.args[0].value))
    return found


def rows(text: str) -> dict[str, tuple[set[str], set[str]]]:
    lines = re.findall(r"^\| `([^`]+)` \| ([a-z, ]+) \|([^|]*)\|", text, re.MULTILINE)
    assert len(lines) == len({name for name, _, _ in lines}), "an event has two rows"
    return {name: (set(levels.split(", ")), set(re.findall(r"`(\w+)`", keys))) for name, levels, keys in lines}


def sections() -> tuple[str, str]:
    before, _, rest = PAGE.partition(TOLD)
    assert not rows(before)
    told, _, others = rest.partition("\n## ")
    return told, others


def test_each_event_of_the_log_is_on_the_page_with_its_levels_and_keys():
    page = rows(sections()[1])
    code = logged()
    assert page.keys() == code.keys()
    for name, (levels, keys) in code.items():
        # A key that is added under a condition is not found here.
        assert (page[name][0], page[name][1] - {"retry_in"}) == (levels, keys), name


def test_each_event_of_on_event_is_on_the_page_with_its_level():
    page = rows(sections()[0])
    assert page.keys() == told() == set(get_args(EventName))
    assert set().union(*(keys for _, keys in page.values())) == EventDetails.__annotations__.keys()
    for name, (levels, keys) in page.items():
        assert levels == {"warning" if name in WARNINGS else "info"}, name
        assert not keys & ON_EACH_EVENT, name


def test_all_logging_uses_structlog():
    """Except the log itself, and the code that silences other libraries."""
    users = {
        str(path.relative_to(ROOT))
        for path, call in calls()
        if ast.unparse(call.func) in ("logging.getLogger", "warnings.warn", "structlog.get_logger")
    }
    assert users == {"fedbroker/log.py", "fedbroker/transport/amqp/dial.py"}
