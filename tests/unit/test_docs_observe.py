"""docs/observe.md names existing spans, attributes, arguments and variables."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from pathlib import Path

import fedbroker
from fedbroker import tracing
from tests.support.pages import ROOT, blocks

PAGE = (ROOT / "docs" / "observe.md").read_text(encoding="utf-8")


def spans() -> dict[str, set[str]]:
    """Return the attributes of each span in the code: passed to it, or set in the same function."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in [*(ROOT / "fedbroker").rglob("*.py"), *(ROOT / "workers").rglob("*.py")]:
        if path.name == "tracing.py":
            continue
        names: list[str] = []
        for node in sorted(calls(path), key=lambda call: call.lineno):
            match node.func:
                case ast.Attribute(ast.Name("tracing"), "span"):
                    names.append(str(ast.literal_eval(node.args[0])))
                    found[names[-1]] |= {str(keyword.arg) for keyword in node.keywords}
                case ast.Attribute(ast.Name("span"), "set"):
                    found[names[-1]] |= {str(keyword.arg) for keyword in node.keywords}
    return found


def calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_each_span_is_on_the_page_with_its_attributes():
    lines = re.findall(r"^\| `([a-z ]+)` \| (?:coordinator|silo|both) \|[^|]*\|([^|]*)\|", PAGE, re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", attributes)) for name, attributes in lines} == spans()


def test_program_of_the_page_uses_existing_arguments():
    known = inspect.signature(fedbroker.create_sync_execution_context).parameters
    (block,) = blocks("docs/observe.md", "python")
    (call,) = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    assert {keyword.arg for keyword in call.keywords} <= known.keys()
    assert known["progress"].default is None


def test_environment_variables_equal_those_of_the_code():
    table = PAGE.partition("| variable |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(OTEL_\w+)`", table))
    assert named == {*tracing._SWITCHES, "OTEL_SERVICE_NAME", "OTEL_SDK_DISABLED"}
