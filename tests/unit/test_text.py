"""Laws of readable text: untrusted text as one printable line, and numbers with their units."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedbroker.errors import CohortTimeout
from fedbroker.text import LONGEST, bytes_text, count_text, is_printable, printable, seconds_text

anything = st.text(st.characters(exclude_categories=()))
"""Includes surrogates, which a file name can contain, though no message can."""


@given(anything, st.none() | st.integers(1, 30))
def test_any_text_becomes_one_printable_line_of_bounded_length(text, most):
    shown = printable(text, most)
    assert is_printable(shown)
    assert len(shown.splitlines()) <= 1
    assert all(unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for char in shown)
    assert most is None or len(shown) <= most
    shown.encode()


@given(anything, st.none() | st.integers(1, 30))
def test_escaping_is_idempotent(text, most):
    assert printable(printable(text, most), most) == printable(text, most)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "it's 5 m\u00b2",
        "Größe\u00a0(cm)",
        "東京\u3000大阪",
        "Ελλάδα",
        "שלום",
        "العربية",
        "naïve — “so”",
        "\\x1b",
        "❤\ufe0f 🙂",
    ],
)
def test_ordinary_text_is_unchanged(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("one\ntwo\r\tthree", r"one\ntwo\r\tthree"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("evil\u202egpj.exe\u2066", r"evil\u202egpj.exe\u2066"),
        ("a\u200bb\u00adc\ufeffd", r"a\u200bb\xadc\ufeffd"),
        ("\U000e0041\u3164", r"\U000e0041\u3164"),
        ("\ud800", r"\ud800"),
    ],
)
def test_control_and_invisible_characters_are_escaped(text, shown):
    assert printable(text) == shown


def test_long_text_is_cut_visibly():
    assert printable("a" * 5000) == "a" * (LONGEST - 1) + "…"
    assert printable("\n" * 5, 4) == "\\n\\…"
    assert printable("a" * 5000, None) == "a" * 5000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00001, "0 s"),
        (0.05, "0.05 s"),
        (2.5, "2.5 s"),
        (12.345, "12.3 s"),
        (300.0, "300 s"),
        (999.6, "1,000 s"),
        (1234.5, "1,234 s"),
        (1_800, "1,800 s"),
        (86_400.0, "86,400 s"),
        (2_000_000.0, "2,000,000 s"),
    ],
)
def test_seconds(seconds, text):
    assert seconds_text(seconds) == text


@given(st.floats(0, 1e9))
def test_no_time_has_an_exponent(seconds):
    assert "e" not in seconds_text(seconds)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "? B"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (10_200, "10 KiB"),
        ((1 << 20) - 1, "1 MiB"),
        (3_500_000, "3.3 MiB"),
        (1 << 30, "1 GiB"),
        (1 << 50, "1,024 TiB"),
    ],
)
def test_bytes(size, text):
    assert bytes_text(size) == text


def test_one_item_is_singular():
    assert [count_text(number, "silo") for number in (0, 1, 2, 1000)] == ["0 silos", "1 silo", "2 silos", "1,000 silos"]


def test_errors_use_singular_and_full_times():
    assert "has 0 of 1 silo after 1,200 s" in str(CohortTimeout("airports", 1, [], [], 1200.0))
