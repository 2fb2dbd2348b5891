"""examples/sheets: its settings are a silo's, its manifests are Kubernetes', and they hold the same."""

from __future__ import annotations

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from fedbroker_worker.config import load
from fedbroker_worker.sources import open_source

from examples.sheets import hospitals

EXAMPLE = Path(__file__).parents[2] / "examples" / "sheets"
MANIFESTS = ("silo.yaml", "program.yaml")


def documents(name):
    return list(yaml.safe_load_all((EXAMPLE / "kubernetes" / name).read_text()))


def the(kind, name):
    (found,) = [one for one in documents(name) if one["kind"] == kind]
    return found


def pod(name):
    (found,) = [one for one in documents(name) if one["kind"] in ("Deployment", "Job")]
    return found["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", ["1.25", "1.31", "1.37"])
@pytest.mark.parametrize("name", MANIFESTS)
def test_kubernetes_takes_each_document(name, version):
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_key_would_be_seen():
    document = the("Deployment", "silo.yaml")
    document["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, "1.31", strict=True)


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_restricted_and_hold_what_they_name(name):
    spec = pod(name)
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    maps = [volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume]
    assert maps == [the("ConfigMap", name)["metadata"]["name"]]
    made = set(re.findall(r"create secret generic (\S+)", (EXAMPLE / "kubernetes" / name).read_text()))
    asked = {one["valueFrom"]["secretKeyRef"]["name"] for one in container["env"] if "valueFrom" in one}
    assert asked == made
    policy = the("NetworkPolicy", name)["spec"]
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress", "Egress"], [])


def test_settings_are_valid_here_and_on_kubernetes(tmp_path):
    mapped = tmp_path / "silo.toml"
    mapped.write_text(the("ConfigMap", "silo.yaml")["data"]["silo.toml"])
    environ = {"FEDBROKER_SILO_BROKER": "amqps://north:secret@broker.example/"}
    here, there = load(EXAMPLE / "silo.toml", environ), load(mapped, environ)
    assert here.silo == there.silo
    options = dict(here.data["stays"].options)
    mounted = [mount["mountPath"] for mount in pod("silo.yaml")["containers"][0]["volumeMounts"]]
    secret = Path(there.data["stays"].options["service_account"])
    assert str(secret.parent) in mounted
    assert there.data["stays"].options == options | {"service_account": str(secret)}
    open_source("stays", here.data["stays"].kind, options, tmp_path)


def test_the_program_is_the_same_on_kubernetes():
    assert the("ConfigMap", "program.yaml")["data"]["program.py"] == (EXAMPLE / "program.py").read_text()
    mounts = {mount["name"]: mount["mountPath"] for mount in pod("program.yaml")["containers"][0]["volumeMounts"]}
    assert pod("program.yaml")["containers"][0]["args"] == [f"{mounts['program']}/program.py"]


def test_the_hospitals_are_the_same_each_time():
    assert hospitals.books() == hospitals.books()
    rows = {name: len(book.sheets[hospitals.WORKSHEET]) - 1 for name, book in hospitals.books().items()}
    assert rows == dict(hospitals.HOSPITALS)
    assert 3 < hospitals.mean(hospitals.books()) < 6
