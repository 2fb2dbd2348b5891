"""Prometheus' own tool takes the configuration that we ship, and each alert is shown to be silent and to fire."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

CONFIG = Path(__file__).parents[2] / "config" / "prometheus"
RULES = [
    rule for group in yaml.safe_load((CONFIG / "fedbroker.rules.yml").read_text())["groups"] for rule in group["rules"]
]
TESTS = yaml.safe_load((CONFIG / "fedbroker.rules.test.yml").read_text())["tests"]


@pytest.mark.parametrize(
    "command",
    [
        "check config prometheus.yml",
        "check rules fedbroker.rules.yml",
        "test rules fedbroker.rules.test.yml",
    ],
)
def test_promtool_is_content(command):
    done = subprocess.run(["promtool", *command.split()], cwd=CONFIG, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


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
