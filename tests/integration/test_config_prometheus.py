"""Prometheus' own tool takes the configuration that we ship, and each alert is shown to be silent and to fire."""

from __future__ import annotations

import dataclasses
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from fedbroker_worker.config import SiloSettings

from fedbroker.metrics.exposition import parse_address
from tests.support.pages import blocks

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((CONFIG / "fedbroker.rules.yml").read_text())["groups"] for rule in group["rules"]
]
TESTS = yaml.safe_load((CONFIG / "fedbroker.rules.test.yml").read_text())["tests"]


@pytest.mark.parametrize("line", blocks("docs/metrics.md", "sh")[0].splitlines())
def test_promtool_is_content_when_called_as_the_page_says(line):
    assert line.startswith("promtool ")
    done = subprocess.run(line.split(), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_silos_key_on_the_page_is_one():
    (toml,) = blocks("docs/metrics.md", "toml")
    ((table, keys),) = tomllib.loads(toml).items()
    assert (table, set(keys)) == ("silo", {"metrics"})
    assert parse_address(keys["metrics"])
    assert "metrics" in {field.name for field in dataclasses.fields(SiloSettings)}


def test_promtool_finds_a_broken_rule(tmp_path):
    """A check that cannot fail would be none."""
    (tmp_path / "rules.yml").write_text((CONFIG / "fedbroker.rules.yml").read_text().replace("[15m]", "[15x]"))
    done = subprocess.run(["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, timeout=60)
    assert done.returncode != 0


def test_each_alert_is_silent_when_all_is_well_and_fires_when_not():
    well, *ill = TESTS
    names = {rule["alert"] for rule in RULES}
    assert len(names) == len(RULES)
    assert well["name"] == "all is well"
    assert {one["alertname"] for one in well["alert_rule_test"] if not one.get("exp_alerts")} == names
    firing = {one["alertname"] for test in ill for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert firing == names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "action"}
