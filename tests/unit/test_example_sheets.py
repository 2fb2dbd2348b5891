"""examples/sheets: its settings are a silo's, and what goes to Kubernetes holds the same; its page's commands."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from fedbroker_worker.config import load
from fedbroker_worker.sources import open_source

from examples.sheets import hospitals
from tests.support.kustomize import EXAMPLES, ROOT, render

EXAMPLE = ROOT / "examples" / "sheets"
SILO, PROGRAM = EXAMPLE / "kubernetes" / "silo", EXAMPLE / "kubernetes" / "program"


def test_settings_are_valid_here_and_on_kubernetes(tmp_path):
    (tmp_path / "broker").write_text("amqps://north:secret@broker.example/")
    environ = {"FEDBROKER_SILO_BROKER_FILE": str(tmp_path / "broker")}
    here, there = load(EXAMPLE / "silo.toml", environ), load(SILO / "silo.toml", environ)
    assert here.silo == there.silo
    options = dict(here.data["stays"].options)
    (pod,) = (one["spec"]["template"]["spec"] for one in render(SILO) if one["kind"] == "Deployment")
    volumes = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    secret = Path(there.data["stays"].options["service_account"])
    (volume,) = (one for one in pod["volumes"] if one["name"] == volumes[str(secret.parent)])
    said = (SILO / "kustomization.yaml").read_text()
    assert re.search(rf"generic {volume['secret']['secretName']} .*\n.*--from-file={secret.name}\n", said)
    assert there.data["stays"].options == options | {"service_account": str(secret)}
    open_source("stays", here.data["stays"].kind, options, tmp_path)


def test_the_program_is_the_same_on_kubernetes():
    assert (PROGRAM / "program.py").read_text() == (EXAMPLE / "program.py").read_text()


def test_the_page_applies_what_there_is():
    page = (EXAMPLE / "README.md").read_text()
    assert sorted(ROOT / path for path in re.findall(r"kubectl apply -k (\S+)", page)) == EXAMPLES
    (namespace, job) = re.search(r"kubectl -n (\S+) logs -f job/(\S+)", page).groups()
    (found,) = (one["metadata"] for one in render(PROGRAM) if one["kind"] == "Job")
    assert (found["namespace"], found["name"]) == (namespace, job)
    for directory in (SILO, PROGRAM):  # the secret goes where the pod is
        asked = yaml.safe_load((directory / "kustomization.yaml").read_text())["namespace"]
        assert f"kubectl -n {asked} create secret" in (directory / "kustomization.yaml").read_text()


def test_the_hospitals_are_the_same_each_time():
    assert hospitals.books() == hospitals.books()
    rows = {name: len(book.sheets[hospitals.WORKSHEET]) - 1 for name, book in hospitals.books().items()}
    assert rows == dict(hospitals.HOSPITALS)
    assert 3 < hospitals.mean(hospitals.books()) < 6
