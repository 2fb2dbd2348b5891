"""The coordinator's metrics, built from events, and the HTTP server of a registry."""

from __future__ import annotations

import socket
import threading
import urllib.error
import urllib.request

import pytest

from fedbroker.errors import ConfigError, SiloError
from fedbroker.metrics.coordinator import MOST_SILOS, CoordinatorMetrics
from fedbroker.metrics.exposition import Exposition, Registry, parse_address
from fedbroker.session.events import Event, emit
from fedbroker.session.report import MaskingReport, Recorder, RequestTimings, SessionReport, Statistics
from fedbroker.session.stage_state import Lost
from fedbroker.transport.amqp.connection import TrafficCounters
from fedbroker.wire.messages import Done

QUIET = Statistics((), (), {}, 0, {})


def metrics(statistics: Statistics | None = None) -> CoordinatorMetrics:
    return CoordinatorMetrics("airports", statistics=lambda: statistics, restarts=lambda: 0)


def value(of: CoordinatorMetrics, name: str, **labels: str) -> float | None:
    return of.registry.get_sample_value(name, {"cohort": "airports", **labels})


def recorder(of: CoordinatorMetrics, session: str = "5e55101") -> Recorder:
    return Recorder(SessionReport(session=session, cohort="airports", members=("ewr", "jfk")), (of.on_event,))


def stage(of: Recorder, error: Exception | None = None) -> None:
    """Emit a stage in which one silo answers and the other never picks its work up."""
    of.emit("session_started", members=["ewr", "jfk"])
    of.stage_started(0, ["ewr", "jfk"], 10.0)
    timings = RequestTimings("ewr", "1")
    timings.started, timings.replied, timings.fetched, timings.bytes_out = 1.0, 4.0, 4.5, 1000
    of.silo_ended(timings, Done(of.report.session, 0, "ewr", "1", (("d", 50),), 2.0, 0.5))
    of.silo_ended(RequestTimings("jfk", "1"), Lost("jfk", "expired"))
    of.stage_finished(["ewr", "jfk"], 1, "membership", error)


def test_a_session_is_counted_with_its_stages_silos_and_times():
    own = metrics()
    one = recorder(own)
    stage(one)
    assert value(own, "fedbroker_sessions_running") == 1
    one.finished()
    assert value(own, "fedbroker_sessions_running") == 0
    assert value(own, "fedbroker_sessions_total", outcome="ok") == 1
    assert value(own, "fedbroker_stages_total", outcome="ok") == 1
    assert value(own, "fedbroker_stage_seconds_count") == 1
    assert value(own, "fedbroker_stragglers_total", reason="expired") == 1
    assert value(own, "fedbroker_silo_drops_total", silo="jfk") == 1
    assert value(own, "fedbroker_silo_replies_total", silo="ewr") == 1
    for phase, seconds in (("queue", 1.0), ("transfer", 1.0), ("compute", 1.5)):
        assert value(own, "fedbroker_phase_seconds_sum", phase=phase) == seconds
        assert value(own, "fedbroker_silo_phase_seconds_total", phase=phase, silo="ewr") == seconds
    assert value(own, "fedbroker_silo_blob_bytes_total", silo="ewr", direction="out") == 1000
    assert value(own, "fedbroker_silo_blob_bytes_total", silo="ewr", direction="in") == 50


def test_masked_sums_are_counted_with_their_silos_and_the_removal_of_masks():
    own = metrics()
    one = recorder(own)
    masking = MaskingReport(members=("ewr", "jfk", "lga"), threshold=3)
    one.stage_started(0, ["ewr", "jfk", "lga"], 10.0)
    one.emit("masking_failed", "lga", why="it refused to sign who takes part: no")
    for silo in ("ewr", "jfk"):
        one.silo_ended(RequestTimings(silo, "1"), Done("5e55101", 0, silo, "1", (), 2.0, 0.5))
    one.emit("masks_removed", participants=2, threshold=2, seconds=0.25)
    one.stage_finished(["ewr", "jfk", "lga"], 2, "membership", None, masking)
    one.stage_started(1, ["ewr"], 10.0)
    one.stage_finished(["ewr"], 2, "membership", SiloError("lga", "no"), masking)
    stage(one)
    assert value(own, "fedbroker_masked_stages_total", outcome="ok") == 1
    assert value(own, "fedbroker_masked_stages_total", outcome="failed") == 1
    assert value(own, "fedbroker_masked_silos_total", part="sum") == 2
    assert value(own, "fedbroker_masked_silos_total", part="dropped") == 1
    assert value(own, "fedbroker_unmasking_seconds_sum") == 0.25
    assert value(own, "fedbroker_masking_failures_total") == 1


def test_session_outcome_and_error_code_are_counted():
    own = metrics()
    failed = recorder(own, "a")
    stage(failed, SiloError("jfk", "no"))
    failed.finished(SiloError("jfk", "no"))
    broken = recorder(own, "b")
    broken.emit("session_started", members=["ewr", "jfk"])
    broken.finished(KeyError("a fault of ours"))
    assert value(own, "fedbroker_sessions_total", outcome="failed") == 2
    assert value(own, "fedbroker_stages_total", outcome="failed") == 1
    assert value(own, "fedbroker_session_errors_total", code="FB4001") == 1
    assert value(own, "fedbroker_session_errors_total", code="other") == 1


def test_gauge_of_awaited_silos_ends_with_its_session():
    own = metrics()
    one = recorder(own)
    one.emit("session_started", members=["ewr", "jfk"])
    one.stage_started(0, ["ewr", "jfk"], 10.0)
    assert value(own, "fedbroker_work_unanswered") == 2
    one.emit("late_joiner_added", "lga", in_place_of="jfk")
    assert value(own, "fedbroker_work_unanswered") == 3
    one.finished(TimeoutError())  # like a cancelled invocation: no stage finished
    assert value(own, "fedbroker_work_unanswered") == 0
    assert value(own, "fedbroker_late_joiners_total") == 1


def test_counters_exist_before_their_first_event():
    """Provide the value before the first event that a rate needs; otherwise that event would be invisible."""
    own = metrics(QUIET)
    own.on_event(Event("silo_joined", silo="ewr"))
    for name, labels in (
        ("fedbroker_sessions_total", {"outcome": "failed"}),
        ("fedbroker_stragglers_total", {"reason": "timed out"}),
        ("fedbroker_dead_letters_total", {"reason": "delivery_limit"}),
        ("fedbroker_silo_drops_total", {"silo": "ewr"}),
        ("fedbroker_invocation_retries_total", {}),
    ):
        assert value(own, name, **labels) == 0, name
    assert value(own, "fedbroker_silo_joins_total") == 1


def test_silos_of_any_number_have_a_bounded_number_of_series():
    own = metrics(Statistics(tuple(f"silo-{n}" for n in range(2 * MOST_SILOS)), (), {}, 0, {}))
    for number in range(2 * MOST_SILOS):
        own.on_event(Event("silo_joined", silo=f"silo-{number}"))
        own.on_event(Event("silo_dropped", "s", 0, f"silo-{number}", {"outcome": "late", "why": "", "seconds": 1.0}))
    samples = [one for family in own.registry.collect() for one in family.samples]
    assert len({one.labels["silo"] for one in samples if "silo" in one.labels}) == MOST_SILOS + 1
    assert value(own, "fedbroker_silo_drops_total", silo="(others)") == MOST_SILOS


def test_no_label_holds_a_session_id():
    own = metrics()
    one = recorder(own, "5e55101")
    stage(one)
    one.finished()
    for family in own.registry.collect():
        for sample in family.samples:
            assert "5e55101" not in sample.labels.values()
            assert not sample.name.endswith("_created")


def test_external_counters_are_read_at_each_scrape():
    traffic = TrafficCounters(up=True)
    own = metrics(Statistics(("ewr",), ("jfk",), {"bulk": traffic}, 3, {"expired": 2}))
    own.on_event(Event("silo_joined", silo="ewr"))
    own.on_event(Event("silo_joined", silo="jfk"))
    assert value(own, "fedbroker_broker_bytes_total", connection="bulk", direction="out") == 0
    traffic.messages_out, traffic.bytes_out = 1, 4
    traffic.up = False
    assert value(own, "fedbroker_broker_bytes_total", connection="bulk", direction="out") == 4
    assert value(own, "fedbroker_broker_up", connection="bulk") == 0
    assert value(own, "fedbroker_silo_up", silo="ewr") == 1
    assert value(own, "fedbroker_silo_up", silo="jfk") == 0
    assert value(own, "fedbroker_silos", state="gone") == 1
    assert value(own, "fedbroker_late_replies_total") == 3
    assert value(own, "fedbroker_dead_letters_total", reason="expired") == 2


def test_listeners_receive_events_even_if_another_one_raises(caplog):
    heard = []

    def broken(event: Event) -> None:
        raise RuntimeError("no")

    emit((broken, heard.append), Event("silo_left", silo="ewr"))
    assert [event.name for event in heard] == ["silo_left"]
    assert "on_event_failed" in caplog.text


def test_registry_is_served_until_closed():
    with Exposition("127.0.0.1:0", metrics().registry) as one, Exposition("127.0.0.1:0", Registry()) as other:
        text = urllib.request.urlopen(one.url, timeout=5).read().decode()
        assert 'fedbroker_sessions_total{cohort="airports",outcome="ok"} 0.0' in text
        assert "process_resident_memory_bytes" in text
        assert "fedbroker" not in urllib.request.urlopen(other.url, timeout=5).read().decode()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(one.url, timeout=5)
    one.close()


def test_address_in_use_is_a_one_line_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        before = threading.active_count()
        with pytest.raises(ConfigError, match=f"metrics cannot be served at {address}: .* in use; choose another port"):
            Exposition(address, Registry())
        assert threading.active_count() == before


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("monitoring.example:0", ("monitoring.example", 0)),
        ("[::1]:9464", ("::1", 9464)),
    ],
)
def test_address_is_parsed(text, found):
    assert parse_address(text) == found


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "127.0.0.1", "::1:9464", "localhost:70000", "http://a:1", "a:-1"]
)
def test_invalid_address_is_refused(text):
    with pytest.raises(ConfigError, match=r"HOST:PORT"):
        parse_address(text)
