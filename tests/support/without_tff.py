"""``without_tff.py FILES``: prints the tests that need no TensorFlow Federated, which a silo's environment lacks.

Names the others on standard error.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOTS = {"fedbroker": ROOT, "fedbroker_worker": ROOT / "workers", "tests": ROOT, "benchmarks": ROOT, "examples": ROOT}
HEAVY = ("tensorflow", "tensorflow_federated", "tree")
FIXTURES = ("tff_local", "direct")
"""Fixtures of tests/integration that need TFF."""


def needs_tff(path: Path) -> bool:
    """Return whether a file needs TFF: by an import anywhere in it, by a fixture, or by a module of ours."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    todo, seen = list(_imported(ast.walk(tree))), set[str]()
    while todo:
        module = todo.pop()
        seen.add(module)
        todo += [further for further in _imported_by(module) if further not in seen]
    return not arguments.isdisjoint(FIXTURES) or any(module.partition(".")[0] in HEAVY for module in seen)


@functools.cache
def _imported_by(module: str) -> tuple[str, ...]:
    """Return what the import of one of our modules imports at once, its packages among it."""
    path = _file_of(module)
    if path is None:
        return ()
    parent = module.rpartition(".")[0]
    return (*_imported(ast.parse(path.read_text(encoding="utf-8")).body), *([parent] if parent else []))


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file_of(module: str) -> Path | None:
    root = ROOTS.get(module.partition(".")[0])
    if root is None:
        return None
    path = root.joinpath(*module.split("."))
    found = (one for one in (path.with_suffix(".py"), path / "__init__.py") if one.is_file())
    return next(found, None)


def main(paths: list[str]) -> None:
    """Print the files that need no TFF; name the others."""
    left_out = [path for path in paths if needs_tff(Path(path).absolute())]
    print(*(path for path in paths if path not in left_out), sep="\n")
    for path in left_out:
        print(f"left out, since it needs TensorFlow Federated: {path}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
