"""A Prometheus with our own configuration scrapes a real cohort: each panel of the dashboard has data, each rule runs.

One cohort produces all events: silos that answer, one that is killed, sessions that succeed and fail.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tensorflow_federated as tff

import fedbroker
from fedbroker.broker import PrivateBroker
from fedbroker.broker.setup import free_ports
from fedbroker.testing import SiloProcess, local_cohort
from tests.support.computations import positive, sum_numbers
from tests.support.local_tff import pack_arguments
from tests.support.pages import blocks
from tests.support.prometheus import Prometheus, prometheus, scrape
from tests.support.wait import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
EVENTS = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
GRAFANA = ROOT / "config" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "fedbroker.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
WINDOW = "60s"
NUMBERS = {"numbers": {"source": "duckdb", "query": "select i::float as x from range(100) t(i)"}}
SILOS = ("ewr", "jfk", "lga")
SOMETIMES = {"run", "program", "round", "rounds", "masked_silos"}
"""Keys of events that belong to a run, or to masked sums."""
SECTIONS = ("Metrics of a coordinator", "Metrics of a silo", "Metrics of both")


@dataclass
class Watched:
    """A cohort, its metrics, and the Prometheus that scrapes them.

    Attributes:
        prometheus: the server, after it has scraped all events.
        coordinator: URL of the coordinator's metrics.
        silos: URLs of the silos' metrics, by name; one of them was killed.
        events: all events that ``on_event`` received.
    """

    prometheus: Prometheus
    coordinator: str
    silos: dict[str, str]
    events: list[fedbroker.Event]


@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def positives(values):
    return tff.federated_sum(tff.federated_map(positive, values))


def address(url: str) -> str:
    return url.removeprefix("http://").removesuffix("/metrics")


def metrics_url(log: Path) -> str:
    """Return the URL of a silo's metrics, from its log."""
    return next(event["url"] for event in map(json.loads, log.read_text().splitlines()) if "url" in event)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    directory = tmp_path_factory.mktemp("watched")
    (port,) = free_ports(1)
    conf = {"prometheus.tcp.ip": "127.0.0.1", "prometheus.tcp.port": str(port), "collect_statistics_interval": "1000"}
    events: list[fedbroker.Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDBROKER_SILO_METRICS", "127.0.0.1:0")
        with PrivateBroker(plugins=["rabbitmq_prometheus"], extra_conf=conf) as broker:
            sources = dict.fromkeys(SILOS, NUMBERS)
            with (
                local_cohort(sources, cohort="seen", broker=broker.url, directory=directory) as cohort,
                fedbroker.create_sync_execution_context(
                    broker.url,
                    cohort="seen",
                    min_silos=2,
                    stragglers="drop",
                    quorum=2,
                    on_event=events.append,
                    timeouts=fedbroker.Timeouts(grace=1.0, stage=20.0),
                    options=fedbroker.Options(metrics="127.0.0.1:0"),
                ) as context,
            ):
                assert context.metrics_url is not None
                silos = {name: metrics_url(silo.log) for name, silo in cohort.silos.items()}
                targets = {
                    "coordinators": [address(context.metrics_url)],
                    "silos": list(map(address, silos.values())),
                    "rabbitmq": [f"127.0.0.1:{port}"],
                }
                with prometheus(directory / "prometheus", targets) as watching:
                    run(context, cohort.silos["lga"], watching)
                    yield Watched(watching, context.metrics_url, silos, events)
            broker.kill()  # its HTTP server would take five seconds to stop


def run(context: fedbroker.SyncBrokerContext, one: SiloProcess, watching: Prometheus) -> None:
    """Run four sessions, one of which fails; kill a silo after the first."""
    assert sum_numbers(context) == 3 * 4950
    wait_until(lambda: watching.value('fedbroker_sessions_total{outcome="ok"}') == 1, 20, "a first scrape")
    wait_until(lambda: watching.value('count(up{job="silo"} == 1)') == 3, 20, "all silos are scraped")
    one.kill()
    assert sum_numbers(context) == 2 * 4950
    wait_until(lambda: watching.value('fedbroker_silo_up{silo="lga"} == bool 0') == 1, 20, "a silo is missed")
    with pytest.raises(fedbroker.FedbrokerError, match="INTERNAL: Assert failed"):
        context.invoke(positives, pack_arguments(positives, ([1.0, -1.0],)))
    assert sum_numbers(context) == 2 * 4950
    wait_until(lambda: watching.value('fedbroker_sessions_total{outcome="ok"}') == 3, 20, "the last scrape")


def expressions(panel: dict[str, object]) -> list[str]:
    """Return a panel's queries with Grafana's variables filled in."""
    found = []
    for target in panel["targets"]:  # type: ignore[attr-defined]
        expression = target["expr"]
        for name, value in (("$__rate_interval", WINDOW), ("$__range", WINDOW), ("$cohort", "seen"), ("$silo", ".*")):
            expression = expression.replace(name, value)
        assert "$" not in expression, expression
        found.append(expression)
    return found


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_queries_of_each_panel_return_data(watched, panel):
    for expression in expressions(panel):

        def data(expression: str = expression) -> bool:
            values = [float(one["value"][1]) for one in watched.prometheus.query(expression)]
            return bool(values) and not all(map(math.isnan, values))

        wait_until(data, 15, expression)


def test_dashboard_variables_list_the_cohort_and_its_silos(watched):
    values = {}
    for variable in DASHBOARD["templating"]["list"]:
        series, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
        matching = {"match[]": series.replace("$cohort", "seen")}
        values[variable["name"]] = watched.prometheus.get(f"label/{label}/values", **matching)
    assert values == {"cohort": ["seen"], "silo": sorted(SILOS)}


def test_scraped_metrics_count_the_sessions_and_failures(watched):
    value = watched.prometheus.value
    assert value("sum(fedbroker_sessions_total)") == 4
    assert value('fedbroker_sessions_total{outcome="failed"}') == 1
    assert value('fedbroker_session_errors_total{code="FB4001"}') == 1
    assert value('fedbroker_silo_drops_total{silo="lga"}') >= 1
    assert value('sum(fedbroker_stragglers_total{reason=~"expired|late|unreachable|timed out"})') >= 1
    assert value('fedbroker_silo_replies_total{silo="jfk"}') == 3
    wait_until(lambda: value('fedbroker_work_items_total{silo="jfk", outcome="done"}') == 3)
    assert value('fedbroker_work_items_total{silo="jfk", outcome="computation"}') == 1
    assert value('sum(fedbroker_broker_up{job="coordinator"})') == 2
    assert watched.prometheus.up()["rabbitmq-queues"] == watched.prometheus.up()["rabbitmq"]


def test_each_alert_rule_runs_on_existing_metrics(watched):
    groups = watched.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    wait_until(
        lambda: all(
            rule["health"] != "unknown"
            for group in watched.prometheus.get("rules")["groups"]
            for rule in group["rules"]
        ),
        15,
    )
    assert len(rules) == 16
    for rule in rules:
        assert rule["health"] in ("ok", "unknown"), rule
        for name in set(re.findall(r"\b(?:fedbroker|rabbitmq)_\w+", rule["query"])):
            wait_until(lambda name=name: watched.prometheus.query(name), 15, name)


def test_page_lists_each_metric_with_its_type_and_labels(watched):
    """Compare the page with the served metrics."""
    alive = next(url for name, url in watched.silos.items() if name != "lga")
    coordinator, silo = served(watched.coordinator, {"cohort"}), served(alive, {"cohort", "silo"})
    page = {section: rows(section) for section in SECTIONS}
    assert coordinator.items() & silo.items() == page[SECTIONS[2]].items()
    assert coordinator.items() - silo.items() == page[SECTIONS[0]].items()
    assert silo.items() - coordinator.items() == page[SECTIONS[1]].items()


def served(url: str, anyway: set[str]) -> dict[str, tuple[str, frozenset[str]]]:
    """Return type and labels of each of our metrics, without the labels that all of them have."""
    found = {}
    for family in scrape(url).values():
        if family.name.startswith("fedbroker_"):
            labels = {label for one in family.samples for label in one.labels} - anyway - {"le"}
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert all(anyway <= one.labels.keys() for one in family.samples), name
            found[name] = (family.type, frozenset(labels | ({"silo"} & ({"silo"} - anyway) & own(family))))
    return found


def own(family) -> set[str]:
    return {label for one in family.samples for label in one.labels}


def rows(section: str) -> dict[str, tuple[str, frozenset[str]]]:
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in lines}


def test_events_have_the_details_that_the_page_names(watched):
    told = EVENTS.partition("## In a cohort and its sessions")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| `([^`]+)` \| [a-z]+ \|([^|]*)\|", told, re.MULTILINE)
    page = {name: set(re.findall(r"`(\w+)`", keys)) for name, keys in lines}
    heard = {event.name for event in watched.events}
    assert {"silo_joined", "silo_answered", "silo_dropped", "stage_failed", "session_finished"} <= heard
    for event in watched.events:
        assert page[event.name] - SOMETIMES <= event.details.keys() <= page[event.name], event


def test_program_of_the_page_uses_existing_arguments():
    (program,) = blocks("docs/metrics.md", "python")
    call = next(node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call))
    names = {keyword.arg for keyword in call.keywords}
    assert names <= inspect.signature(fedbroker.create_sync_execution_context).parameters.keys()
    (options,) = (keyword.value for keyword in call.keywords if keyword.arg == "options")
    assert isinstance(options, ast.Call)
    assert [keyword.arg for keyword in options.keywords] == ["metrics"]
    assert isinstance(fedbroker.Options(metrics="127.0.0.1:0"), fedbroker.Options)
    assert isinstance(fedbroker.SyncBrokerContext.metrics_url, property)
