"""Extract from a node's output why it did not start: Erlang states the reason once, in fifty lines."""

from __future__ import annotations

import re

__all__ = ["why_it_failed"]

_ERROR = re.compile(r"^.*?\[error\] <[\d.]+>(.*)$", flags=re.MULTILINE)
_STAMP = re.compile(r"^\S+ \S+ \[\w+\] <[\d.]+>")
_CRASH_REPORT = re.compile(r"^\s*(supervisor|crasher):")
_NOTHING = re.compile(r"^\W*$|^BOOT FAILED$")
_LINES = 6


def why_it_failed(supervisor: str, output: str, log: str) -> str:
    """Return the relevant lines from the output of supervisor, VM and RabbitMQ, joined to one line."""
    for text in (supervisor, output, log):
        if errors := _errors(text):
            return " | ".join(errors[:_LINES])
    for text in (supervisor, output, log):
        if lines := _meaningful(text.splitlines()):
            return " | ".join(lines[-3:])
    return "it wrote nothing"


def _errors(text: str) -> list[str]:
    said: list[str] = []
    for line in _ERROR.findall(text):
        if _CRASH_REPORT.match(line):
            break
        said.append(line)
    return list(dict.fromkeys(_meaningful(said)))


def _meaningful(lines: list[str]) -> list[str]:
    bare = [_STAMP.sub("", line).strip(" -") for line in lines]
    return [line for line in bare if not _NOTHING.match(line)]
