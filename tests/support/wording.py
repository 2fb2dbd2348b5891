"""Prose of the repository, and wording that hides the actor of a sentence.

Prose is all text that people read: docstrings, comments, error texts, hints, help texts, log texts and pages. A
sentence names its actor (silo, coordinator, broker, caller) and uses standard terms.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tests.support.pages import FENCE

__all__ = ["BANNED", "EVENT", "Prose", "comments_of_lines", "event_names", "found_in", "literals", "page", "prose"]

START = r"(?:^|(?<=[.!?:;]\s))"
"""The beginning of a sentence."""

BANNED: Mapping[str, re.Pattern[str]] = {
    "a clause in place of a subject": re.compile(
        rf"{START}(?:What|Who|Whom|Whose|Whether)\b(?![^.!?]*\?)", re.MULTILINE
    ),
    "an actor without a name": re.compile(
        r"\b(?:nobody|somebody|everybody|anybody|whoever|whatever|wherever|whichever|whomever)\b", re.IGNORECASE
    ),
    "a sentence without an actor": re.compile(
        rf"{START}(?:One that|Ones that|Those that|Those who)\b|\b[Tt]here (?:is|are|was|were)\b", re.MULTILINE
    ),
    "a literary word": re.compile(
        r"\b(?:(?:anew|amid|beside|meanwhile|seldom|at the worst|by and by|own words?)\b"
        r"|(?:does not do|such)(?=[.,;:)])|(?:out|fails?|refused|dropped),? by name\b)",
        re.IGNORECASE,
    ),
}
"""Kinds of wording that are not plain English, each with its pattern."""

MESSAGE = {
    "a clause in place of a subject": re.compile(r"(?:\A|(?<=; ))(?:what|who|whom|whose|whether)\b(?![^.!?]*\?)")
}
"""The same for errors and hints, which begin in lower case."""

EVENT = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
"""The form of an event's name in the log."""

LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


@dataclass(frozen=True)
class Prose:
    """A text, the line where it starts, and whether it is a literal in the code, such as an error."""

    line: int
    text: str
    literal: bool = False


def prose(source: str) -> Iterator[Prose]:
    """Yield the docstrings of a module, the strings that document attributes, and the comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield Prose(node.lineno, node.value.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Prose(token.start[0], token.string.lstrip("# "))


def literals(source: str) -> Iterator[Prose]:
    """Yield the texts in a module's code: errors, hints, help, findings and log texts, which all contain a space.

    A placeholder of an f-string is read as ``{}``.
    """
    tree = ast.parse(source)
    others = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    others |= {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in others:
            text = node.value
        if " " in text.strip():
            yield Prose(node.lineno, text, literal=True)


def page(text: str) -> Iterator[Prose]:
    """Yield a page without its code."""
    yield Prose(1, re.sub(r"`[^`]*`", "``", FENCE.sub("", text)))


def comments_of_lines(text: str) -> Iterator[Prose]:
    """Yield the comments of a settings file, a manifest or a shell script."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.search(r"(?:^|\s)#+ (.*)", line):
            yield Prose(number, found[1])


def event_names(source: str) -> Iterator[Prose]:
    """Yield the names of the events that a module logs."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value, level), args=[ast.Constant(str(name)), *_]) if level in LEVELS:
                if "log" in ast.unparse(value).lower():
                    yield Prose(node.lineno, name)


def found_in(texts: Iterable[Prose]) -> list[str]:
    """Return each banned wording with its line, kind and context."""
    return [
        f"line {part.line}, {kind}: {part.text[max(0, found.start() - 20) : found.end() + 40]!r}"
        for part in texts
        for kind, wording in (*BANNED.items(), *(MESSAGE.items() if part.literal else ()))
        for found in wording.finditer(part.text)
    ]
