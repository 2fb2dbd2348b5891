"""Grafana's provisioning files agree. tests/e2e/test_metrics.py shows that the queries return data."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import yaml

GRAFANA = Path(__file__).parents[2] / "config" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "fedbroker.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]


def test_every_query_uses_the_provisioned_data_source():
    file = GRAFANA / "provisioning" / "datasources" / "prometheus.yml"
    (source,) = yaml.safe_load(file.read_text())["datasources"]
    ours = {"type": source["type"], "uid": source["uid"]}
    asked = [*DASHBOARD["templating"]["list"], *(panel for panel in PANELS if panel["type"] != "row")]
    asked += [target for panel in PANELS for target in panel.get("targets", ())]
    assert len(asked) > 80
    assert all(one["datasource"] == ours for one in asked)


def test_provider_reads_the_directory_that_the_page_names():
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "fedbroker.yml").read_text())["providers"]
    page = (GRAFANA.parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert f"`{provider['options']['path']}`" in page


def test_panels_have_unique_ids_and_do_not_overlap():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in itertools.combinations((panel["gridPos"] for panel in PANELS), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_each_panel_has_a_title_a_unit_and_queries():
    for panel in PANELS:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["targets"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
