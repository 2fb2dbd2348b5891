"""Findings about a broker's clock, version and speed, made from numbers, since such brokers are not available."""

from __future__ import annotations

import pytest

from fedbroker.diagnostics.broker import _clock, _clusters, _pace, _time_out
from fedbroker.diagnostics.finding import Finding, exit_code_of, print_findings
from fedbroker.diagnostics.latency import Pace
from fedbroker.diagnostics.server import Server

RABBIT = Server("RabbitMQ", "3.10.8", "rabbit@one", 2_097_152)


@pytest.mark.parametrize(
    ("ahead", "level", "words"),
    [
        (None, "ok", "not measured"),
        ((0.2, 0.6), "ok", "agrees with ours"),
        ((2.0, 0.6), "ok", "2.0 s ahead of ours"),
        ((-75.0, 0.6), "warning", "75.0 s behind ours"),
    ],
)
def test_clock_difference_findings(ahead, level, words):
    said = _clock(ahead)
    assert said.level == level
    assert words in said.what


@pytest.mark.parametrize(
    ("version", "renew", "level", "words"),
    [
        ("3.10.8", 600.0, "ok", "silos return long work every 600 s"),
        ("3.10.8", 3600.0, "warning", "30 min by default"),
        ("4.0.5", 3600.0, "ok", "this broker applies the timeout"),
    ],
)
def test_consumer_timeout_findings(version, renew, level, words):
    said = _time_out(Server("RabbitMQ", version, "one", 0), renew)
    assert said.level == level
    assert words in said.what


@pytest.mark.parametrize(
    ("server", "level", "words"),
    [
        (RABBIT, "ok", "RabbitMQ 3.10.8"),
        (Server("RabbitMQ", "3.8.2", "one", 0), "warning", "3.10 and later"),
        (Server("Other", "1.0", "one", 0), "warning", "supports RabbitMQ only"),
        (Server("RabbitMQ", "4.1.0-rc.1", "one", 131_072), "ok", "frames of 128 KiB"),
    ],
)
def test_version_findings(server, level, words):
    (said,) = server.findings()
    assert said.level == level
    assert words in said.what


def test_speed_findings():
    assert [one.level for one in _pace(Pace(0.05, 20e6, True))] == ["ok", "ok"]
    slow = _pace(Pace(0.05, 100e3, True))[1]
    assert (slow.level, slow.code) == ("warning", "FB6001")
    assert "100 MiB take 1049 s" in slow.what
    assert "not measured" in _pace(None)[0].what


def test_hosts_of_two_clusters_are_reported():
    other = Server("RabbitMQ", "3.10.8", "rabbit@two", 0)
    assert _clusters([RABBIT, RABBIT]) == []
    assert _clusters([RABBIT, other])[0].level == "problem"


def test_findings_are_lines(capsys):
    found = [
        Finding.ok("dns", "a\nb amqp://me:secret@host/"),
        Finding(level="problem", subject="login", what="no\x1b[31m", code="FB2002", hint="do this", exit_code=3),
    ]
    print_findings([found[0].at("h:1"), found[1]])
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "ok       dns    h:1: a b amqp://***@host/",
        "problem  login  [FB2002] no\\x1b[31m; do this",
    ]
    assert exit_code_of(found) == 3
    assert exit_code_of(found[:1]) == 0
    assert found[1].as_json()["hint"] == "do this"
