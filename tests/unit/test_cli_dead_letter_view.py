"""Dead letters in readable form, and their selection by a prefix."""

from __future__ import annotations

import pytest

from fedbroker.cli.common import age_text
from fedbroker.cli.dead_letter_view import listing
from fedbroker.deadletters.bundle import WorkBundle
from fedbroker.deadletters.record import DeadLetter, choose
from fedbroker.errors import CohortError, WireError
from fedbroker.text import bytes_text, printable
from fedbroker.wire import digest_of, encode
from fedbroker.wire.messages import Call, Compute, Data, Drop, EndSession, Seeds, Select, Struct, Value, WorkItem

PROGRAM = (
    Data(1, "flights", (("dep_delay", "float32"), ("#1", "int32"))),
    Value(2, "d" * 32),
    Struct(3, (("x", 1), ("", 7))),
    Call(4, 2, 3),
    Call(5, 2, None),
    Select(6, 4, 0),
    Compute(6),
    Compute(8),
    Drop((1, 9)),
    Seeds(10, "e" * 32),
)


def item(program=PROGRAM):
    return WorkItem("s1", 1, "ewr", "k", 1, tuple(program), {}, 1.0, 1.0, True)


def test_ops_of_a_letter_are_listed():
    assert listing(PROGRAM) == [
        "%1 = data flights(dep_delay: float32, #1: int32)",
        "%2 = value " + "d" * 32,
        "%3 = struct <x=%1, %7>",
        "%4 = call %2(%3)",
        "%5 = call %2()",
        "%6 = select %4[0]",
        "compute %6  -> output 0",
        "compute %8  -> output 1",
        "drop %1, %9",
        "%10 = seeds " + "e" * 32,
    ]


def test_unknown_values_are_from_an_earlier_stage():
    assert WorkBundle(item(), {}).earlier_refs == (7, 8, 9)
    assert WorkBundle(item([Value(1, "d" * 32), Compute(1)]), {}).earlier_refs == ()


def test_bundle_lists_its_missing_blobs():
    small, large = b"small", b"large"
    program = [Value(1, digest_of(small)), Value(2, digest_of(large)), Value(3, digest_of(small))]
    bundle = WorkBundle.opened(encode(item(program), [small]))
    assert bundle.digests == (digest_of(small), digest_of(large))
    assert bundle.missing == (digest_of(large),)


def test_only_work_items_can_be_bundled():
    with pytest.raises(WireError, match="EndSession"):
        WorkBundle.opened(encode(EndSession("s1")))


@pytest.mark.parametrize(
    ("prefix", "meant"), [("abc", "abc"), ("abcd", "abcd"), ("b", "bcd"), ("abcde", None), ("a", None), ("", None)]
)
def test_unique_prefix_selects_a_letter(prefix, meant):
    ids = ["abc", "abcd", "bcd", "bcd"]
    if meant is not None:
        assert choose("airports", prefix, ids) == meant
        return
    with pytest.raises(CohortError, match="airports"):
        choose("airports", prefix, ids)


def test_ages_and_sizes_are_readable():
    assert [age_text(one) for one in (None, 0, 59, 60, 7200, 200_000)] == ["-", "0 s", "59 s", "1 min", "2 h", "2 d"]
    assert [bytes_text(one) for one in (0, 9999, 20_480, 20 * 1024 * 1024)] == ["0 B", "9.8 KiB", "20 KiB", "20 MiB"]


def test_terminal_control_codes_are_escaped():
    assert printable("a\x1b[31m\r\nb é") == r"a\x1b[31m\r\nb é"


class Came:
    """A delivery as the archive returns it for the third time."""

    def __init__(self, reason):
        self.body = encode(item())
        self.key = "airports.ewr.k"
        self.message_id = "abc"
        self.death = reason
        self.headers = {"x-death": [{"reason": reason}], "x-delivery-count": 3}


@pytest.mark.parametrize(("reason", "least"), [("expired", 0), ("rejected", 1), ("delivery_limit", 4), ("maxlen", 0)])
def test_reads_of_the_archive_are_not_deliveries_of_the_letter(reason, least):
    letter = DeadLetter.of(Came(reason))
    assert letter.deliveries == least
    assert "x-delivery-count" not in letter.headers
    assert (letter.silo, letter.coordinator, letter.died) == ("ewr", "k", None)
