"""Plain English in docstrings, comments, error texts, hints, help texts and log events: see tests/support/wording.py.

``test_docs_words.py`` checks the pages with the same list.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from fedbroker.session.events import EventName
from tests.support.pages import ROOT
from tests.support.wording import (
    BANNED,
    EVENT,
    Prose,
    comments_of_lines,
    event_names,
    found_in,
    literals,
    page,
    prose,
)

DISTRIBUTIONS = ("fedbroker", "workers/fedbroker_worker")
CODE = sorted(
    path
    for part in (*DISTRIBUTIONS, "benchmarks", "core", "examples", "handover", "scripts", "tests")
    for path in (ROOT / part).rglob("*.py")
    if not path.name.endswith("_pb2.py")
)
PRODUCT = [path for path in CODE if path.relative_to(ROOT).as_posix().startswith(DISTRIBUTIONS)]
"""The modules whose texts users see."""

COMMENTED = sorted(
    path
    for part in ("config", "compose", "core", "handover", "scripts", ".ci")
    for path in (ROOT / part).rglob("*")
    if path.is_file() and path.suffix in {"", ".sh", ".toml", ".yaml", ".yml", ".conf"}
) + [ROOT / name for name in ("Makefile", "pyproject.toml", "workers/pyproject.toml", "mkdocs.yml")]
"""Settings, manifests and scripts."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CODE, ids=name)
def test_docstrings_and_comments_are_plain_english(path):
    assert found_in(prose(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_errors_hints_help_and_log_texts_are_plain_english(path):
    assert found_in(literals(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", COMMENTED, ids=name)
def test_comments_of_settings_and_scripts_are_plain_english(path):
    assert found_in(comments_of_lines(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_event_names_are_snake_case(path):
    names = [event.text for event in event_names(path.read_text(encoding="utf-8"))]
    assert [text for text in names if not EVENT.fullmatch(text)] == []


def test_event_names_of_a_session_are_snake_case():
    assert [text for text in get_args(EventName) if not EVENT.fullmatch(text)] == []


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("What a silo refused.", "a clause in place of a subject"),
        ("Fine. Whether it is there.", "a clause in place of a subject"),
        ("what should be a key is none", "a clause in place of a subject"),
        ("no key; whose it is", "a clause in place of a subject"),
        ("Nobody asked.", "an actor without a name"),
        ("refused, whatever it is", "an actor without a name"),
        ("Some. There is one.", "a sentence without an actor"),
        ("there is no file", "a sentence without an actor"),
        ("Those that were dropped.", "a sentence without an actor"),
        ("It starts anew.", "a literary word"),
        ("the coordinator beside it", "a literary word"),
        ("it is out, by name", "a literary word"),
        ("our certificate does not do, or is none", "a literary word"),
    ],
)
def test_banned_wording_is_found(text, kind):
    (found,) = found_in([Prose(3, text, literal=text[0].islower())])
    assert found.startswith(f"line 3, {kind}: ")
    assert kind in BANNED


@pytest.mark.parametrize(
    "text",
    [
        "What is it? The silo that refused it is named.",
        "Silos sorted by name.",
        "Return whether the file exists.",
        "tls: whether the connection is encrypted",
        "It does not do anything besides.",
        "there: the present silos",
    ],
)
def test_plain_wording_passes(text):
    assert found_in([Prose(1, text, literal=True)]) == []


def test_every_kind_of_text_is_read():
    module = '''"""One."""
X = 1
"""Two."""
# Three.
raise Error(f"four {X} and", hint="five and six")
log.info("queue made", name="seven and eight")
'''
    assert [part.text for part in prose(module)] == ["One.", "Two.", "Three."]
    assert sorted(part.text for part in literals(module)) == [
        "five and six",
        "four {} and",
        "queue made",
        "seven and eight",
    ]
    assert [(part.line, part.text) for part in event_names(module)] == [(6, "queue made")]
    assert not EVENT.fullmatch("queue made")
    assert EVENT.fullmatch("queue_made")
    assert [part.text for part in comments_of_lines("# one\nx = 1  # two\ny = '#3'\n")] == ["one", "two"]
    assert [part.text for part in page("See `nobody` here.\n```sh\nnobody\n```\n")] == ["See `` here.\n\n"]
