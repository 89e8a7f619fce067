"""deploy/kubernetes without a cluster: put together by kubectl, held against Kubernetes' schemas, and against the application."""

from __future__ import annotations

import copy
import os
import re
import secrets
import subprocess
import time
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml

from app.core import config
from app.core.config import Config, ConfigError
from harness.containers import image_command
from harness.processes import run
from harness.servers import PROGRAMS, ROOT, base_environment

KUBERNETES = ROOT / "deploy" / "kubernetes"
VERSIONS = ["1.31", kubernetes_validate.latest_version()]
WEB, WORKER = "reporadar-web", "reporadar-worker"

GATEWAY_API = "gateway.networking.k8s.io/v1"
SECRETS = "/run/secrets/reporadar/"
HTTP_CONNECTION, HTTPS_CONNECTION = 80, 443

Manifest = dict[str, Any]


def kustomize(overlay: str) -> list[Manifest]:
    """The objects that `kubectl apply --kustomize` sends."""
    command = [str(PROGRAMS / "kubectl"), "kustomize", str(KUBERNETES / "overlays" / overlay)]
    return [*yaml.safe_load_all(run(command, environment=base_environment(), directory=ROOT))]


@pytest.fixture(scope="module")
def production() -> list[Manifest]:
    return [*kustomize("production"), example_secret()]


@pytest.fixture(scope="module")
def kind() -> list[Manifest]:
    return kustomize("kind")


@pytest.fixture(scope="module", params=["production", "kind"])
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    found: list[Manifest] = request.getfixturevalue(request.param)
    return found


def ingresses() -> list[Manifest]:
    return [*yaml.safe_load_all((KUBERNETES / "overlays" / "production" / "ingress.yaml").read_text())]


def example_secret() -> Manifest:
    content: Manifest = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text())
    return content


def one(manifests: list[Manifest], kind: str, name: str = "reporadar") -> Manifest:
    (found,) = [item for item in manifests if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def settings_of(manifests: list[Manifest]) -> dict[str, str]:
    (found,) = [item["data"] for item in manifests if item["kind"] == "ConfigMap"]
    settings: dict[str, str] = found
    return settings


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {name: one(manifests, "Deployment", name)["spec"]["template"]["spec"] for name in (WEB, WORKER)}


def containers(manifests: list[Manifest]) -> list[Manifest]:
    return [container for pod in pods(manifests).values() for container in [*pod["initContainers"], *pod["containers"]]]


def container_of(manifests: list[Manifest], name: str) -> Manifest:
    (container,) = pods(manifests)[name]["containers"]
    found: Manifest = container
    return found


def web(manifests: list[Manifest]) -> Manifest:
    return container_of(manifests, WEB)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(manifests: list[Manifest], version: str) -> None:
    for manifest in [*manifests, *ingresses()]:
        if manifest["apiVersion"] == GATEWAY_API:  # an extension, without a schema in Kubernetes
            continue
        kubernetes_validate.validate(manifest, version, strict=True)
    seeded = copy.deepcopy(one(manifests, "Deployment", WEB))
    seeded["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(seeded, version, strict=True)


def test_kustomizations_include_all_files() -> None:
    for folder in (KUBERNETES / "base", KUBERNETES / "overlays" / "kind", KUBERNETES / "overlays" / "production"):
        resources = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        apart = {"kustomization.yaml", "ingress.yaml"}  # the latter instead of gateway.yaml
        assert {file.name for file in folder.glob("*.yaml")} - apart == set(resources) - {"../../base"}


def configured(manifests: list[Manifest], folder: Path) -> Config:
    """Return the settings that a pod reads, with real secrets in the folder instead of the placeholders."""
    own = {name: value.replace("your-", "Kz3") for name, value in example_secret()["stringData"].items()}
    own |= {"session_encryption_key": secrets.token_hex(32), "session_secret": secrets.token_hex(32)}
    return config.load(mounted(manifests, folder, own))


def mounted(manifests: list[Manifest], folder: Path, own: dict[str, str]) -> dict[str, str]:
    for name, value in own.items():
        (folder / name).write_text(value)
    return {name: value.replace(SECRETS, f"{folder}/") for name, value in settings_of(manifests).items()}


def test_settings_are_complete_except_for_secrets(production: list[Manifest], tmp_path: Path) -> None:
    placeholders = example_secret()["stringData"]
    with pytest.raises(ConfigError) as refused:
        config.load(mounted(production, tmp_path, placeholders))
    assert {fault.partition(":")[0].lower() for fault in refused.value.faults} == set(placeholders)
    assert all("placeholder" in fault for fault in refused.value.faults)
    assert configured(production, tmp_path).is_production
    assert configured(production, tmp_path).socket_transports == ("websocket",)


def test_trial_works_over_plain_http(kind: list[Manifest], tmp_path: Path) -> None:
    settings = configured(kind, tmp_path)
    assert not settings.is_production
    assert settings.trusted_proxies == 0


def test_every_setting_exists_in_the_application(manifests: list[Manifest]) -> None:
    known = {setting.name.upper() for setting in config.SETTINGS}
    known |= {f"{setting.name.upper()}_FILE" for setting in config.SETTINGS if setting.metadata["secret"]}
    used = set(settings_of(manifests))
    used |= {variable["name"] for container in containers(manifests) for variable in container.get("env", [])}
    assert used <= known
    (settings,) = [item["metadata"]["name"] for item in manifests if item["kind"] == "ConfigMap"]
    assert settings.startswith("reporadar-")  # and a hash, so that changed settings replace the pods
    for container in containers(manifests):
        assert container["envFrom"] == [{"configMapRef": {"name": settings}}]


def test_secrets_are_files(manifests: list[Manifest]) -> None:
    settings = settings_of(manifests)
    files = {value.removeprefix(SECRETS) for value in settings.values() if value.startswith(SECRETS)}
    assert files == set(example_secret()["stringData"])
    for pod in pods(manifests).values():
        (volume,) = [volume for volume in pod["volumes"] if "secret" in volume]
        assert volume["secret"] == {"secretName": "reporadar", "defaultMode": 0o440}
    for container in containers(manifests):
        assert {"name": "secrets", "mountPath": SECRETS.rstrip("/"), "readOnly": True} in container["volumeMounts"]


def test_grace_periods_exceed_shutdown_timeouts(manifests: list[Manifest], tmp_path: Path) -> None:
    settings = configured(manifests, tmp_path)
    delay, timeout = settings.shutdown_delay, settings.shutdown_timeout
    for pod in pods(manifests).values():
        assert pod["terminationGracePeriodSeconds"] >= timeout + 5 > delay
    readiness = web(manifests)["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < delay
    assert "lifecycle" not in web(manifests)


def test_probes_use_the_health_routes(manifests: list[Manifest], tmp_path: Path) -> None:
    container = web(manifests)
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health/live", "readiness": "/health/ready", "liveness": "/health/live"}
    (port,) = container["ports"]
    assert {container[f"{name}Probe"]["httpGet"]["port"] for name in paths} == {port["name"]}
    assert port["containerPort"] == configured(manifests, tmp_path).port


def test_probes_of_a_worker_need_a_recent_heartbeat(production: list[Manifest], tmp_path: Path) -> None:
    container = container_of(production, WORKER)
    assert container["startupProbe"]["exec"] == container["livenessProbe"]["exec"]
    (path,) = [variable["value"] for variable in container["env"] if variable["name"] == "WORKER_HEARTBEAT_FILE"]
    heartbeat = tmp_path / "alive"
    command = [word.replace(path, str(heartbeat)) for word in container["livenessProbe"]["exec"]["command"]]

    def is_alive() -> bool:
        return subprocess.run(command, check=False, stderr=subprocess.DEVNULL, timeout=30).returncode == 0

    assert not is_alive()
    heartbeat.touch()
    assert is_alive()
    too_old = time.time() - 120
    os.utime(heartbeat, (too_old, too_old))
    assert not is_alive()


def test_deployment_adds_an_instance_before_it_removes_one(manifests: list[Manifest]) -> None:
    deployment = one(manifests, "Deployment", WEB)["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert one(manifests, "PodDisruptionBudget", WEB)["spec"]["maxUnavailable"] == 1


def image_group() -> int:
    """The group of the image's user."""
    (group,) = re.findall(r"(?m)^USER \d+:(\d+)$", (ROOT / "deploy" / "docker" / "Dockerfile").read_text())
    return int(group)


def test_pods_meet_the_restricted_standard(manifests: list[Manifest]) -> None:
    namespace = one(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(manifests).values():
        assert pod["securityContext"] == {
            "runAsNonRoot": True,
            "fsGroup": image_group(),
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all({"emptyDir", "secret"} & set(volume) for volume in pod["volumes"])
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["volumeMounts"][0] == {"name": "tmp", "mountPath": "/tmp"}
        assert {"requests", "limits"} <= set(container["resources"])


def test_autoscaling_matches_the_guide(production: list[Manifest]) -> None:
    scaler = one(production, "HorizontalPodAutoscaler", WEB)["spec"]
    thresholds = {metric["resource"]["name"]: metric["resource"]["target"]["averageValue"] for metric in scaler["metrics"]}
    memory = int(web(production)["resources"]["limits"]["memory"].removesuffix("Mi"))
    assert thresholds == {"cpu": "700m", "memory": f"{round(memory * 0.8)}Mi"}  # 70 % of one event loop, 80 % of the memory
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": WEB}
    assert scaler["minReplicas"] == 3
    assert "replicas" not in one(production, "Deployment", WEB)["spec"]


def test_trial_sets_the_number_of_instances(kind: list[Manifest]) -> None:
    assert not [item for item in kind if item["kind"] == "HorizontalPodAutoscaler"]
    assert one(kind, "Deployment", WEB)["spec"]["replicas"] > 1


def test_selectors_match_pods(manifests: list[Manifest]) -> None:
    labels = {name: one(manifests, "Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in (WEB, WORKER)}
    for name in (WEB, WORKER):
        assert one(manifests, "Deployment", name)["spec"]["selector"]["matchLabels"] == labels[name]
        assert one(manifests, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"] == labels[name]
        assert one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels[name].items()
    assert one(manifests, "Service")["spec"]["selector"] == labels[WEB]
    assert one(manifests, "PodDisruptionBudget", WEB)["spec"]["selector"]["matchLabels"] == labels[WEB]
    for spread in pods(manifests)[WEB]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels[WEB]
    assert labels[WEB] != labels[WORKER]


def test_sockets_have_a_separate_ingress(production: list[Manifest]) -> None:
    backend = {"service": {"name": "reporadar", "port": {"name": one(production, "Service")["spec"]["ports"][0]["name"]}}}
    for name, path in (("reporadar", "/"), ("reporadar-sockets", "/socket.io/")):
        ingress = one(ingresses(), "Ingress", name)
        (rule,) = ingress["spec"]["rules"]
        assert rule["http"]["paths"] == [{"path": path, "pathType": "Prefix", "backend": backend}]
        assert [rule["host"]] == ingress["spec"]["tls"][0]["hosts"]
    annotations = one(ingresses(), "Ingress", "reporadar-sockets")["metadata"]["annotations"]
    assert "http_503" in annotations["nginx.ingress.kubernetes.io/proxy-next-upstream"].split()
    assert "non_idempotent" not in str([item["metadata"].get("annotations") for item in ingresses()])


def test_gateway_routes_lead_to_the_service(production: list[Manifest]) -> None:
    (port,) = one(production, "Service")["spec"]["ports"]
    (rule,) = one(production, "HTTPRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": "reporadar", "port": port["port"]}]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert rule["timeouts"] == {"request": "0s"}  # none: a WebSocket is one long request
    (redirect,) = one(production, "HTTPRoute", "reporadar-redirect")["spec"]["rules"]
    assert redirect["filters"][0]["requestRedirect"]["scheme"] == "https"


class Peer(NamedTuple):
    """A destination of a connection: an address, or the labels of a pod and its namespace."""

    port: int
    address: str = ""
    labels: tuple[str, ...] = ()


def is_allowed(manifests: list[Manifest], component: str, peer: Peer) -> bool:
    """Whether a policy lets pods of this component connect, as Kubernetes reads policies."""
    labels = one(manifests, "Deployment", component)["spec"]["template"]["metadata"]["labels"]
    policies = [item["spec"] for item in manifests if item["kind"] == "NetworkPolicy"]
    applying = [spec for spec in policies if spec["podSelector"]["matchLabels"].items() <= labels.items()]
    restricting = [spec for spec in applying if "Egress" in spec["policyTypes"]]
    assert restricting, "without a policy, everything is allowed"
    rules = [rule for spec in restricting for rule in spec.get("egress", [])]
    return any(
        any(_is_destination(peer, to) for to in rule["to"])
        and peer.port in [port["port"] for port in rule.get("ports", [{"port": peer.port}])]
        for rule in rules
    )


def _is_destination(peer: Peer, to: Manifest) -> bool:
    if "ipBlock" in to:
        return bool(peer.address) and _is_in(peer.address, to["ipBlock"])
    selected = [label for selector in to.values() for label in selector["matchLabels"].values()]
    return not peer.address and set(selected) <= set(peer.labels)


def _is_in(address: str, block: Manifest) -> bool:
    def contains(network: str) -> bool:
        return ip_address(address) in ip_network(network)

    return contains(block["cidr"]) and not any(contains(network) for network in block.get("except", []))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_only_workers_reach_the_internet(manifests: list[Manifest], address: str) -> None:
    for port in (HTTP_CONNECTION, HTTPS_CONNECTION):
        assert is_allowed(manifests, WORKER, Peer(port, address))
        assert not is_allowed(manifests, WEB, Peer(port, address))


@pytest.mark.parametrize(
    "address",
    ["10.9.8.7", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "127.0.0.1", "fd00::1", "fe80::1", "::1"],
)
def test_no_pod_reaches_private_networks(manifests: list[Manifest], address: str) -> None:
    for component in (WEB, WORKER):
        assert not is_allowed(manifests, component, Peer(HTTPS_CONNECTION, address))


def test_named_services_are_reached(manifests: list[Manifest], production: list[Manifest], kind: list[Manifest]) -> None:
    for component in (WEB, WORKER):
        assert is_allowed(manifests, component, Peer(53, labels=("kube-system", "kube-dns")))
        assert is_allowed(manifests, component, Peer(4317, labels=("monitoring",)))
        assert not is_allowed(manifests, component, Peer(HTTPS_CONNECTION, labels=("monitoring",)))
        for address, port in (("10.0.1.5", 6379), ("10.0.2.5", 5432), ("10.0.3.5", 465)):
            assert is_allowed(production, component, Peer(port, address))
        for name, port in (("redis", 6379), ("postgres", 5432)):
            assert is_allowed(kind, component, Peer(port, labels=(name,)))
            assert one(kind, "Service", name)["spec"]["ports"][0]["port"] == port


def test_containers_run_the_procfile_commands(manifests: list[Manifest]) -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert " ".join(image_command()) == lines["web"]
    for name, pod in pods(manifests).items():
        (schema,), (container,) = pod["initContainers"], pod["containers"]
        assert " ".join(schema["args"]) == lines["release"]
        assert " ".join(container.get("args", image_command())) == lines[container["name"]]
        assert name.endswith(container["name"])
        assert schema["image"] == container["image"]
        assert container["env"][0] == {"name": "INSTANCE_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
