"""Public objects in notebooks: complete, escaped, small, and without any resource or colour of a page."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

import fedbroker
from fedbroker.cohort import Cohort
from fedbroker.context.progress.page import page_of
from fedbroker.context.progress.state import Invocation, RunState
from fedbroker.html import Markup, bar, element, joined
from fedbroker.session.events import Event, Origin
from fedbroker.session.html import members_html
from fedbroker.session.report import MaskingReport, SessionReport, SiloReport, StageReport
from fedbroker.session.roster import Member
from fedbroker.wire.messages import Source
from tests.support import computations as c

EVIL = '<script>alert("1")</script>&\x1b[31m\u202e'
LONG = "x" * 10_000
VOID = {"br"}


class Page(HTMLParser):
    """A page's text, its tags and attributes; fails on tags that are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.attributes = "", set(), []
        self._open = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def silo(name, outcome="answered", **more):
    return SiloReport(silo=name, incarnation="1", outcome=outcome, at=2.0, queue=0.5, transfer=0.5, compute=1.0, **more)


def report(*silos, **more):
    stage = StageReport(stage=0, needed=2, seconds=2.5, silos=silos, masking=MaskingReport(members=("a",), threshold=1))
    names = tuple(one.silo for one in silos)
    return SessionReport(session="5e55", cohort="airports", members=names, stages=(stage,), seconds=3.0, **more)


def progress(name):
    one = Invocation(name, "airports", 1, 0.0, run="r1")
    one.attempt("s1", [name, "jfk", "lga"])
    for event in ("stage_started", "silo_answered"):
        one.on_event(Event(event, "s1", 0, name, {"seconds": 1.0, "compute": 0.5}), 0.0)
    one.on_event(Event("silo_dropped", "s1", 0, "lga", {"outcome": "timed out"}), 1.0)
    return page_of([one], [RunState("r1", name, 30, 0.0, 3, metrics={name: 0.5})], 2.0)[0]


def pages():
    origin = Origin(EVIL, "r1", LONG, 3)
    yield report(silo(EVIL), silo("lga", "timed out", why=EVIL + LONG), error=LONG, origin=origin)._repr_html_()
    yield report(*(silo(f"silo-{n}") for n in range(1000)))._repr_html_()
    yield report(silo("ewr")).stages[0]._repr_html_()
    members = [Member(EVIL, LONG, {EVIL: Source((), rows=3), **{str(n): Source(()) for n in range(50)}}, EVIL)] * 200
    yield members_html(EVIL, members)
    yield Cohort("amqp://me:secret@localhost/", "airports")._repr_html_()
    for comp in (c.two_barriers, c.total):
        yield fedbroker.explain(comp)._repr_html_()
    for kind in ("sync", "async"):
        make = getattr(fedbroker, f"create_{kind}_execution_context")
        yield make("amqp://me:secret@localhost/", cohort="airports", min_silos=3)._repr_html_()
    yield progress(EVIL)
    yield progress(LONG)


@pytest.mark.parametrize("page", pages(), ids=range(11))
def test_page_is_harmless_and_small_and_takes_the_colours_of_its_notebook(page):
    parsed = Page(page)
    assert parsed.tags <= {"div", "span", "b", "table", "thead", "tbody", "tr", "th", "td", "br"}
    assert {name for name, _ in parsed.attributes} <= {"style", "scope", "role", "aria-label", "title"}
    styles = " ".join(value for name, value in parsed.attributes if name == "style")
    assert not re.search(r"url\(|(?<!-)\bcolor:(?!inherit)|background:(?!none|rgba\(128|#[0-9a-f]{6}\b)", styles)
    assert not re.search(r"https?:|//", page.replace("amqp://", ""))
    assert "secret" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert len(page) < 120_000


def test_report_has_a_bar_for_each_silo_and_says_who_was_dropped_and_why():
    late = silo("lga", "timed out", why="no reply within 2 s")
    page = Page(report(silo("ewr"), late, late=1, origin=Origin("next_fn", "r1", "digits", 3))._repr_html_())
    for words in ("digits, round 3", "next_fn", "1 of 2 silos answered", "timed out", "no reply within 2 s"):
        assert words in page.text
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "ewr: queue 0.5 s, transfer 0.5 s, compute 1 s" in labels
    assert "lga: timed out after 2 s" in labels
    assert page.text.index("lga") < page.text.index("ewr")


def test_plan_shows_each_stage_and_what_crosses():
    page = Page(fedbroker.explain(c.two_barriers)._repr_html_())
    for words in ("two_barriers", "2 round trips", "silos", "server", "once per silo"):
        assert words in page.text


def test_context_shows_its_rules_and_no_password():
    context = fedbroker.create_sync_execution_context("amqp://me:secret@rabbit/", cohort="airports", min_silos=3)
    text = Page(context._repr_html_()).text
    assert "not connected" in text
    assert "amqp://***@rabbit/" in text
    assert "at least 3; all must answer" in text
    context.close()
    assert "closed" in Page(context._repr_html_()).text


def test_text_is_escaped_once_and_markup_is_not():
    assert element("b", "a < b", Markup("<br>"), title='"') == '<b title="&quot;">a &lt; b<br></b>'
    assert joined(["<", Markup("&lt;")], " ") == "&lt; &lt;"


def test_bar_is_never_wider_than_its_track():
    widths = [float(found) for found in re.findall(r"width:([\d.]+)%", bar([(0.7, "#fff"), (0.7, "#000")], "both"))]
    assert widths == [70.0, 30.0]
