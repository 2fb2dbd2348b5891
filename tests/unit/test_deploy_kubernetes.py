"""config/kubernetes: the rendered objects satisfy Kubernetes' own schemas and give a silo what it needs."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.support.kustomize import BROKER, EXAMPLES, KUBERNETES, OVERLAYS, render, title
from tests.support.wait import PROCESS_SECONDS

ROOT = Path(__file__).parents[2]
EWR, STANDBY, NAMESPACES = (KUBERNETES / "silo" / "overlays" / name for name in ("ewr", "standby", "namespaces"))
DELAYS = KUBERNETES / "coordinator" / "overlays" / "delays"
NORTH = ROOT / "examples" / "sheets" / "kubernetes" / "silo"
VERSIONS = ("1.25", "1.31", "1.37")
SECRETS = "/run/secrets/fedbroker"

each_overlay = pytest.mark.parametrize("overlay", [*OVERLAYS, *EXAMPLES], ids=title)


def the(kind: str, overlay: Path) -> dict:
    (found,) = [one for one in render(overlay) if one["kind"] == kind]
    return found


def workload(overlay: Path) -> dict:
    (found,) = [one for one in render(overlay) if one["kind"] in ("Deployment", "Job")]
    return found


def pod(overlay: Path) -> dict:
    return workload(overlay)["spec"]["template"]["spec"]


@each_overlay
@pytest.mark.parametrize("version", VERSIONS)
def test_each_document_satisfies_the_schema(overlay, version):
    documents = render(overlay)
    assert len(documents) >= 4
    for document in documents:
        kubernetes_validate.validate(document, version, strict=True)


def test_misspelt_key_is_found():
    document = the("Deployment", EWR)
    document["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


@each_overlay
def test_rendering_equals_kustomize_if_installed(overlay):
    """Compare our rendering with kustomize's; without kustomize only ours is checked."""
    kubectl = shutil.which("kubectl")
    rendered = render(overlay)
    if kubectl is not None:
        done = subprocess.run(
            [kubectl, "kustomize", str(overlay)], capture_output=True, text=True, timeout=PROCESS_SECONDS
        )
        assert done.returncode == 0, done.stderr
        theirs = list(yaml.safe_load_all(done.stdout))
        assert sorted(map(canonical, theirs)) == sorted(map(canonical, rendered))
    assert len({(one["kind"], one["metadata"]["name"]) for one in rendered}) == len(rendered)


def canonical(document: dict) -> str:
    return json.dumps(document, sort_keys=True)


@each_overlay
def test_pods_are_restricted(overlay):
    """Check the admission level `restricted` of the namespace."""
    spec = pod(overlay)
    assert the("Namespace", overlay)["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    own = {"type": "Localhost", "localhostProfile": "fedbroker.json"}
    assert spec["securityContext"]["seccompProfile"] == (own if overlay == NAMESPACES else {"type": "RuntimeDefault"})
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not container["image"].endswith(":latest")
    assert {"emptyDir", "configMap", "secret", "persistentVolumeClaim"} >= {
        kind for volume in spec["volumes"] for kind in volume.keys() - {"name"}
    }


@each_overlay
def test_objects_that_pods_name_exist(overlay):
    documents, spec = render(overlay), pod(overlay)
    names = {(one["kind"], one["metadata"]["name"]) for one in documents}
    (container,) = spec["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in spec["volumes"]}
    assert ("ServiceAccount", spec["serviceAccountName"]) in names
    for volume in spec["volumes"]:
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in names
        if "persistentVolumeClaim" in volume:
            assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names
        if "secret" in volume:  # made by hand, as the kustomization says
            said = "".join((KUBERNETES / one / "kustomization.yaml").read_text() for one in (overlay, EWR))
            assert f"create secret generic {volume['secret']['secretName']} --from-file=broker=" in said
            assert "--from-file=ca.pem" in said  # the broker's certificate is usually of an authority of one's own


@each_overlay
def test_password_is_a_file_outside_the_repository(overlay):
    (container,) = pod(overlay)["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    audit = environment.pop("FEDBROKER_POLICY_AUDIT_FILE", "")
    assert not audit or not mounts[str(Path(audit).parent)].get("readOnly")
    files = {name: value for name, value in environment.items() if name.endswith("_FILE")}
    assert list(files.values()) == [f"{SECRETS}/broker"]
    assert SECRETS in mounts
    documents = render(overlay)
    assert "Secret" not in {one["kind"] for one in documents}
    assert not re.search(r"://[^/\s]*:[^/\s]*@", yaml.safe_dump_all(documents))


@pytest.mark.parametrize("overlay", [one for one in (*OVERLAYS, *EXAMPLES) if one != NORTH], ids=title)
def test_network_policy_allows_broker_and_dns_only(overlay):
    policy = the("NetworkPolicy", overlay)["spec"]
    own = workload(overlay)["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= own.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == []
    ports = [sorted((port["protocol"], port["port"]) for port in rule["ports"]) for rule in policy["egress"]]
    assert ports == [[("TCP", 53), ("UDP", 53)], [("TCP", 5671)]]
    for rule in policy["egress"]:
        assert len(rule["to"]) == 1
        assert rule["to"][0].keys() in ({"namespaceSelector", "podSelector"}, {"ipBlock"})
        assert rule["to"][0].get("ipBlock", {}).get("cidr", "/32").endswith("/32")


@pytest.mark.parametrize("overlay", [EWR, STANDBY], ids=["ewr", "standby"])
def test_probes_read_the_files_that_the_image_writes(overlay):
    from fedbroker_worker.daemon import PERIOD

    command = re.search(r"^CMD (\[.*\])$", image("silo"), re.MULTILINE)
    arguments = yaml.safe_load(command[1])
    alive, ready = (arguments[arguments.index(f"--{name}-file") + 1] for name in ("alive", "ready"))
    (container,) = pod(overlay)["containers"]
    probes = {name: container[f"{name}Probe"]["exec"]["command"] for name in ("startup", "readiness", "liveness")}
    assert probes["startup"] == ["test", "-e", alive]
    assert probes["readiness"] == ["test", "-e", alive if overlay == STANDBY else ready]
    seconds = re.search(rf"find {alive} -newermt '-(\d+) seconds'", probes["liveness"][-1])
    assert int(seconds[1]) > 3 * PERIOD
    # A hung silo must not have the time that a stopping one has.
    assert container["livenessProbe"]["terminationGracePeriodSeconds"] <= 10
    assert "args" not in container


def test_silo_with_google_sheets_may_reach_the_internet():
    policy = the("NetworkPolicy", NORTH)["spec"]
    assert policy["ingress"] == []
    *ours, google = policy["egress"]
    assert ours == the("NetworkPolicy", EWR)["spec"]["egress"]
    (block,) = (to["ipBlock"] for to in google["to"])
    assert google["ports"] == [{"protocol": "TCP", "port": 443}]
    inside = [ipaddress.ip_network(one) for one in block["except"]]
    for address in ("10.1.2.3", "172.20.0.1", "192.168.1.1", "169.254.169.254"):
        assert any(ipaddress.ip_address(address) in one for one in inside)


def image(name: str) -> str:
    return (ROOT / "compose" / f"{name}.Dockerfile").read_text().replace("\\\n", "")


def test_silo_has_time_to_complete_its_sessions():
    from fedbroker_worker.config import SiloSettings

    assert pod(EWR)["terminationGracePeriodSeconds"] > SiloSettings.__dataclass_fields__["drain_seconds"].default


def test_two_replicas_of_a_silo_use_standby():
    for overlay, replicas, budget in ((EWR, 1, {"maxUnavailable": 1}), (STANDBY, 2, {"minAvailable": 1})):
        deployment, disruption = the("Deployment", overlay), the("PodDisruptionBudget", overlay)
        assert deployment["spec"]["replicas"] == replicas
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert disruption["spec"].pop("selector") == {"matchLabels": labels}
        assert disruption["spec"] == budget
        (container,) = pod(overlay)["containers"]
        assert ({"name": "FEDBROKER_SILO_STANDBY", "value": "true"} in container["env"]) == (replicas == 2)
    assert the("Deployment", EWR)["spec"]["strategy"] == {"type": "Recreate"}


def test_two_replicas_have_a_claim_of_their_own():
    """Check that ewr may become standby: the access mode of a claim that exists cannot be changed."""
    state = {}
    for overlay in (EWR, STANDBY):
        (state[overlay],) = (
            one["metadata"]["name"] for one in render(overlay)
            if one["kind"] == "PersistentVolumeClaim" and "data" not in one["metadata"]["name"]
        )  # fmt: skip
        mounted = {volume["name"]: volume for volume in pod(overlay)["volumes"]}
        assert mounted["state"]["persistentVolumeClaim"]["claimName"] == state[overlay]
    assert state[EWR] != state[STANDBY]


def test_settings_of_the_silo_are_valid(tmp_path):
    from fedbroker_worker.config import load

    (tmp_path / "silo.toml").write_text(the("ConfigMap", EWR)["data"]["silo.toml"])
    (tmp_path / "broker").write_text("amqps://ewr:password@broker.example/")
    for overlay in (EWR, STANDBY, NAMESPACES):
        (container,) = pod(overlay)["containers"]
        environ = {one["name"]: one["value"].replace(SECRETS, str(tmp_path)) for one in container["env"]}
        settings = load(tmp_path / "silo.toml", environ)
        isolation = "namespace" if overlay == NAMESPACES else "none"
        assert (settings.silo.isolation, settings.silo.standby) == (isolation, overlay == STANDBY)


def test_program_equals_that_of_compose():
    assert the("ConfigMap", DELAYS)["data"]["program.py"] == (ROOT / "compose" / "program.py").read_text()


def test_broker_is_a_cluster_with_our_settings_and_tls_only():
    (cluster,) = render(BROKER)
    assert (cluster["apiVersion"], cluster["kind"]) == ("rabbitmq.com/v1beta1", "RabbitmqCluster")
    spec = cluster["spec"]
    assert spec["replicas"] % 2 == 1
    assert spec["tls"] == {"secretName": "broker-tls", "disableNonTLSListeners": True}
    example = (ROOT / "config" / "rabbitmq" / "rabbitmq.conf").read_text()
    ours = [line for line in example.splitlines() if line and not line.startswith("#")]
    assert spec["rabbitmq"]["additionalConfig"].splitlines() == ours
    policy = (KUBERNETES / "silo" / "base" / "networkpolicy.yaml").read_text()
    assert f"app.kubernetes.io/name: {cluster['metadata']['name']}" in policy
    assert f"kubernetes.io/metadata.name: {cluster['metadata']['namespace']}" in policy
