"""examples/sheets: its settings are valid for a silo and equal those of Kubernetes; its page's commands exist."""

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


def test_page_applies_existing_files():
    page = (EXAMPLE / "README.md").read_text()
    assert sorted(ROOT / path for path in re.findall(r"kubectl apply -k (\S+)", page)) == EXAMPLES
    (namespace, job) = re.search(r"kubectl -n (\S+) logs -f job/(\S+)", page).groups()
    (found,) = (one["metadata"] for one in render(PROGRAM) if one["kind"] == "Job")
    assert (found["namespace"], found["name"]) == (namespace, job)
    for directory in (SILO, PROGRAM):  # the secret is in the pod's namespace
        asked = yaml.safe_load((directory / "kustomization.yaml").read_text())["namespace"]
        assert f"kubectl -n {asked} create secret" in (directory / "kustomization.yaml").read_text()


def test_generated_hospitals_are_reproducible():
    assert hospitals.books() == hospitals.books()
    rows = {name: len(book.sheets[hospitals.WORKSHEET]) - 1 for name, book in hospitals.books().items()}
    assert rows == dict(hospitals.HOSPITALS)
    assert 3 < hospitals.mean(hospitals.books()) < 6
