"""deploy/kubernetes without a cluster: put together by kubectl, held against Kubernetes' schemas, and against the application."""

from __future__ import annotations

import copy
import secrets
from typing import Any

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

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    """The objects that `kubectl apply --kustomize` sends, and the secret."""
    command = [str(PROGRAMS / "kubectl"), "kustomize", str(KUBERNETES)]
    text = run(command, environment=base_environment(), directory=ROOT)
    return [*yaml.safe_load_all(text), example_secret()]


def example_secret() -> Manifest:
    content: Manifest = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text())
    return content


def one(manifests: list[Manifest], kind: str, name: str = "reporadar") -> Manifest:
    (found,) = [item for item in manifests if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {name: one(manifests, "Deployment", name)["spec"]["template"]["spec"] for name in (WEB, WORKER)}


def containers(manifests: list[Manifest]) -> list[Manifest]:
    return [container for pod in pods(manifests).values() for container in [*pod["initContainers"], *pod["containers"]]]


def web(manifests: list[Manifest]) -> Manifest:
    (container,) = pods(manifests)[WEB]["containers"]
    found: Manifest = container
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
    seeded = copy.deepcopy(one(manifests, "Deployment", WEB))
    seeded["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(seeded, version, strict=True)


def test_kustomization_includes_all_files() -> None:
    resources = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    apart = {"kustomization.yaml", "secret.example.yaml", "secret.yaml"}
    assert {file.name for file in KUBERNETES.glob("*.yaml")} - apart == set(resources)


def configured(manifests: list[Manifest]) -> Config:
    """Return the secret with real values instead of the placeholders."""
    placeholders = one(manifests, "Secret")["stringData"]
    own = {name: value.replace("your-", "Kz3") for name, value in placeholders.items()}
    own |= {"SESSION_ENCRYPTION_KEY": secrets.token_hex(32), "SESSION_SECRET": secrets.token_hex(32)}
    return config.load({**one(manifests, "ConfigMap")["data"], **own})


def test_settings_are_complete_except_for_secrets(manifests: list[Manifest]) -> None:
    placeholders = one(manifests, "Secret")["stringData"]
    with pytest.raises(ConfigError) as refused:
        config.load({**one(manifests, "ConfigMap")["data"], **placeholders})
    assert {fault.partition(":")[0] for fault in refused.value.faults} == set(placeholders)
    assert all("placeholder" in fault for fault in refused.value.faults)
    assert configured(manifests).is_production
    assert configured(manifests).socket_transports == ("websocket",)


def test_every_setting_exists_in_the_application(manifests: list[Manifest]) -> None:
    known = {setting.name.upper() for setting in config.SETTINGS}
    used = set(one(manifests, "ConfigMap")["data"]) | set(example_secret()["stringData"])
    used |= {variable["name"] for container in containers(manifests) for variable in container.get("env", [])}
    assert used <= known
    for container in containers(manifests):
        assert container["envFrom"] == [{"configMapRef": {"name": "reporadar"}}, {"secretRef": {"name": "reporadar"}}]


def test_grace_periods_exceed_shutdown_timeouts(manifests: list[Manifest]) -> None:
    settings = configured(manifests)
    delay, timeout = settings.shutdown_delay, settings.shutdown_timeout
    for pod in pods(manifests).values():
        assert pod["terminationGracePeriodSeconds"] >= timeout + 5 > delay
    readiness = web(manifests)["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < delay
    assert "lifecycle" not in web(manifests)


def test_probes_use_the_health_routes(manifests: list[Manifest]) -> None:
    container = web(manifests)
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/health/live", "readiness": "/health/ready", "liveness": "/health/live"}
    (port,) = container["ports"]
    assert {container[f"{name}Probe"]["httpGet"]["port"] for name in paths} == {port["name"]}
    assert port["containerPort"] == configured(manifests).port


def test_deployment_adds_an_instance_before_it_removes_one(manifests: list[Manifest]) -> None:
    deployment = one(manifests, "Deployment", WEB)["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert one(manifests, "PodDisruptionBudget", WEB)["spec"]["maxUnavailable"] == 1


def test_pods_meet_the_restricted_standard(manifests: list[Manifest]) -> None:
    namespace = one(manifests, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(manifests).values():
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all("emptyDir" in volume for volume in pod["volumes"])
    for container in containers(manifests):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]
        assert {"requests", "limits"} <= set(container["resources"])


def test_autoscaling_matches_the_guide(manifests: list[Manifest]) -> None:
    scaler = one(manifests, "HorizontalPodAutoscaler", WEB)["spec"]
    thresholds = {metric["resource"]["name"]: metric["resource"]["target"]["averageUtilization"] for metric in scaler["metrics"]}
    assert thresholds == {"cpu": 70, "memory": 80}
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": WEB}
    assert scaler["minReplicas"] == 3
    assert "replicas" not in one(manifests, "Deployment", WEB)["spec"]
    assert web(manifests)["resources"]["requests"]["cpu"] == "1"  # which the percentage is of: one event loop


def test_selectors_match_pods(manifests: list[Manifest]) -> None:
    labels = {name: one(manifests, "Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in (WEB, WORKER)}
    for name in (WEB, WORKER):
        assert one(manifests, "Deployment", name)["spec"]["selector"]["matchLabels"] == labels[name]
        assert one(manifests, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"] == labels[name]
    assert one(manifests, "Service")["spec"]["selector"] == labels[WEB]
    assert one(manifests, "PodDisruptionBudget", WEB)["spec"]["selector"]["matchLabels"] == labels[WEB]
    for spread in pods(manifests)[WEB]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels[WEB]
    assert labels[WEB] != labels[WORKER]


def test_sockets_have_a_separate_ingress(manifests: list[Manifest]) -> None:
    backend = {"service": {"name": "reporadar", "port": {"name": one(manifests, "Service")["spec"]["ports"][0]["name"]}}}
    for name, path in (("reporadar", "/"), ("reporadar-sockets", "/socket.io/")):
        ingress = one(manifests, "Ingress", name)
        (rule,) = ingress["spec"]["rules"]
        assert rule["http"]["paths"] == [{"path": path, "pathType": "Prefix", "backend": backend}]
        assert [rule["host"]] == ingress["spec"]["tls"][0]["hosts"]
    annotations = one(manifests, "Ingress", "reporadar-sockets")["metadata"]["annotations"]
    assert "http_503" in annotations["nginx.ingress.kubernetes.io/proxy-next-upstream"].split()
    assert "non_idempotent" not in str([item["metadata"].get("annotations") for item in manifests])


def test_containers_run_the_procfile_commands(manifests: list[Manifest]) -> None:
    lines = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert " ".join(image_command()) == lines["web"]
    for name, pod in pods(manifests).items():
        (schema,), (container,) = pod["initContainers"], pod["containers"]
        assert " ".join(schema["args"]) == lines["release"]
        assert " ".join(container.get("args", image_command())) == lines[container["name"]]
        assert name.endswith(container["name"])
        assert schema["image"] == container["image"]
        assert container["env"] == [{"name": "INSTANCE_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]
