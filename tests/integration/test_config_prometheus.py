"""Prometheus' own tool accepts the shipped configuration, and each alert is silent and fires as intended."""

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
from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((CONFIG / "fedbroker.rules.yml").read_text())["groups"] for rule in group["rules"]
]
TESTS = yaml.safe_load((CONFIG / "fedbroker.rules.test.yml").read_text())["tests"]


@pytest.mark.parametrize("line", blocks("docs/metrics.md", "sh")[0].splitlines())
def test_promtool_accepts_the_rules_by_the_page_command(line):
    assert line.startswith("promtool ")
    done = subprocess.run(line.split(), cwd=ROOT, capture_output=True, text=True, timeout=PROCESS_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


def test_silo_setting_on_the_page_is_valid():
    (toml,) = blocks("docs/metrics.md", "toml")
    ((table, keys),) = tomllib.loads(toml).items()
    assert (table, set(keys)) == ("silo", {"metrics"})
    assert parse_address(keys["metrics"])
    assert "metrics" in {field.name for field in dataclasses.fields(SiloSettings)}


def test_promtool_finds_a_broken_rule(tmp_path):
    """Show that the check can fail."""
    (tmp_path / "rules.yml").write_text((CONFIG / "fedbroker.rules.yml").read_text().replace("[15m]", "[15x]"))
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, timeout=PROCESS_SECONDS
    )
    assert done.returncode != 0


def test_each_alert_is_silent_normally_and_fires_on_its_condition():
    well, *ill = TESTS
    names = {rule["alert"] for rule in RULES}
    assert len(names) == len(RULES)
    assert well["name"] == "all is well"
    assert {one["alertname"] for one in well["alert_rule_test"] if not one.get("exp_alerts")} == names
    firing = {one["alertname"] for test in ill for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert firing == names


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alerts_have_a_severity_and_a_remedy(rule):
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "action"}
