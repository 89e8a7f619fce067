"""The alert rules pass their promtool tests, those tests notice changed rules, and rules and code have the same thresholds."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client import REGISTRY

from app.core import metrics
from app.fleet import advice
from harness.scale import FULL
from harness.servers import ROOT

FOLDER = ROOT / "deploy/prometheus"
RULES = (FOLDER / "rules.yml").read_text()
TESTS = (FOLDER / "rules.test.yml").read_text()

# Metrics of Prometheus itself, and of its client library on Linux.
FOREIGN_METRICS = {"up", "process_cpu_seconds_total", "process_start_time_seconds"}


class Mutation(NamedTuple):
    """A change of the rules, and the beginning of the name of the test that must fail with it."""

    test: str
    old: str
    new: str


ALL_MUTATIONS = [
    Mutation("alerts fire above", "> 70", ">= 70"),
    Mutation("slow responses", "> 0.5", "> 1"),
    Mutation("a spike", "for: 30s", "for: 0s"),
    Mutation("a spike", "for: 90s", "for: 0s"),
    Mutation("a spike", "keep_firing_for: 2m", "keep_firing_for: 0s"),
    Mutation("slow responses", "unless on (job, instance) reporadar:busy", ""),
    Mutation("faults", "forced|crashed", "forced"),
    Mutation("faults", "max by (job, kind)", "sum by (job, kind, instance)"),
    Mutation("faults", 'up{job="reporadar"}', "up"),
    Mutation("faults", "changes(process_start_time_seconds{", "0 * changes(process_start_time_seconds{"),
    Mutation("events", "unless resets(reporadar_events_waiting[2m]) > 0", ""),
    Mutation("events", "or reporadar_events_waiting > 50000", ""),
    Mutation("no file descriptors", "reporadar_file_descriptor_shortage > 0", "reporadar_file_descriptor_shortage > 1"),
    Mutation("events", "for: 3m", "for: 0s"),
    Mutation("no instance", "unless on (job) max by (job) (reporadar_ready", "unless on (job) min by (job) (reporadar_ready"),
    Mutation("no instance", 'absent(up{job="reporadar"})', "absent(up)"),
    Mutation("server errors", "> 0.01", ">= 0.01"),
    Mutation("server errors", '{status="5xx"}[5m])) > 5', '{status="5xx"}[5m])) > 0'),
    Mutation("work waits", "or max by (job) (reporadar_events_waiting) > 0", ""),
    Mutation("work waits", "unless on (job) time() - max by", "unless on (job) time() - min by"),
    Mutation("work waits", "unless on (job) min by (job) (reporadar_dependency_up) == 0", ""),
    Mutation("work waits", "sum by (job) (max by (job, kind)", "sum by (job) (sum by (job, kind)"),
    Mutation("work waits", "_queued_seconds) > 900", "_queued_seconds) > 899"),
    Mutation("periodic tasks", "> 3 * max by", "> 2 * max by"),
    Mutation("periodic tasks", 'last_success_timestamp_seconds{scope="instance"}', 'last_success_timestamp_seconds{scope="no"}'),
    Mutation("events", "max by (job) (reporadar_events_put_aside) > 0", "max by (job) (reporadar_events_put_aside) > 1"),
]
MUTATIONS = ALL_MUTATIONS if FULL else ALL_MUTATIONS[::3]


def promtool(arguments: list[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run promtool. Its standard error is part of `stdout`, in the order of the lines."""
    return subprocess.run(
        ["promtool", *arguments],
        cwd=folder,
        env=os.environ | {"GOGC": "400"},  # collects garbage less often: a third less processor time
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )


def only_test(name: str, rules: str) -> str:
    """The test file with a single test, for another file of rules."""
    head, *tests = re.split(r"^(?=  - name: )", TESTS, flags=re.MULTILINE)
    (test,) = [test for test in tests if test.startswith(f"  - name: {name}")]
    return head.replace("rules.yml", rules) + test


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The output of promtool for the unchanged rules, then for each mutation. One process runs all of them."""
    folder = tmp_path_factory.mktemp("rules")
    for number, mutation in enumerate(MUTATIONS):
        assert mutation.old in RULES
        (folder / f"{number}.yml").write_text(RULES.replace(mutation.old, mutation.new))
        (folder / f"{number}.test.yml").write_text(only_test(mutation.test, f"{number}.yml"))
    files: list[str | Path] = [FOLDER / "rules.test.yml", *(f"{number}.test.yml" for number in range(len(MUTATIONS)))]
    found = promtool(["test", "rules", *files], folder)
    assert found.returncode == 1
    return found.stdout.split("Unit Testing:")[1:]


def expressions() -> list[str]:
    return re.findall(
        r"expr: (?:>\n)?(.*?)(?=\n *(?:for|labels|annotations|- record|- alert|- name|#)\b|\n\n|\Z)", RULES, re.DOTALL
    )


def exported_metrics() -> set[str]:
    """The names of all series of an instance."""
    assert metrics.ready
    families = [family.name for family in REGISTRY.collect()]
    return FOREIGN_METRICS | {f"{name}{suffix}" for name in families for suffix in ("", "_total", "_bucket", "_count")}


def metrics_in(queries: list[str]) -> set[str]:
    """The names of series in queries, also those that rules record."""
    return set(re.findall(r"\b(?:reporadar[_:]|process_|python_)\w+|\bup(?=\{)", "\n".join(queries)))


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES)["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_promtool_accepts_the_configuration() -> None:
    found = promtool(["check", "config", "prometheus.yml"], FOLDER)
    assert found.returncode == 0, found.stdout


def test_rules_pass_their_tests(outcomes: list[str]) -> None:
    assert len(outcomes) == 1 + len(MUTATIONS)
    assert "SUCCESS" in outcomes[0], outcomes[0]
    assert "FAILED" not in outcomes[0]


@pytest.mark.parametrize("number", range(len(MUTATIONS)))
def test_changed_rule_fails_its_tests(outcomes: list[str], number: int) -> None:
    outcome = outcomes[1 + number]
    assert f"{number}.test.yml" in outcome
    assert "FAILED" in outcome
    assert "got:" in outcome  # samples or alerts differ: the rules themselves were read


def test_each_alert_is_tested() -> None:
    names = {alert["alert"] for alert in alerts()}
    assert len(names) == 21
    assert {name for name in names if name not in TESTS} == set()


def test_each_alert_has_a_runbook() -> None:
    runbooks = [(alert["alert"], alert["annotations"]["runbook_url"]) for alert in alerts()]
    assert runbooks == [(name, f"docs/alerts.md#{name.lower()}") for name, _ in runbooks]
    headings = re.findall(r"^### (Reporadar\w+)$", (ROOT / "docs/alerts.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted({name for name, _ in runbooks})


def test_pod_monitor_matches_the_rules_and_the_pods() -> None:
    monitor = yaml.safe_load((ROOT / "deploy/kubernetes/monitoring/pod-monitor.yaml").read_text())["spec"]
    (web,) = (ROOT / "deploy/kubernetes").rglob("web.yaml")
    manifests = yaml.safe_load_all(web.read_text())
    (pod,) = [manifest["spec"]["template"] for manifest in manifests if manifest["kind"] == "Deployment"]
    labels = pod["metadata"]["labels"]
    assert set(re.findall(r'job="([^"]+)"', RULES)) == {labels[monitor["jobLabel"]]}
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in [port["name"] for port in pod["spec"]["containers"][0]["ports"]]


def test_rules_use_existing_metrics() -> None:
    recorded = set(re.findall(r"record: (\S+)", RULES))
    used = metrics_in(expressions())
    assert len(used) > 15
    assert used - exported_metrics() == recorded


@pytest.mark.parametrize(
    ("number", "threshold"),
    [
        ("reporadar:cpu_percent", advice.CPU_PERCENT),
        ("reporadar:memory_percent", advice.MEMORY_PERCENT),
        ("reporadar:connections", advice.CONNECTIONS),
        ("reporadar:p95_seconds", advice.P95_MS / 1000),
        ('reporadar:latency_seconds{dependency="redis"}', advice.REDIS_LATENCY_MS / 1000),
        ("max_over_time(reporadar:cpu_percent[1m])", advice.CPU_PERCENT),
        ("max_over_time(reporadar:loop_delay_seconds[1m])", advice.LOOP_DELAY_MS / 1000),
        ('max_over_time(reporadar:latency_seconds{dependency="redis"}[1m])', advice.REDIS_LATENCY_MS / 1000),
        ('max_over_time(reporadar:latency_seconds{dependency="database"}[1m])', advice.DATABASE_LATENCY_MS / 1000),
    ],
)
def test_alerts_and_advice_have_the_same_thresholds(number: str, threshold: float) -> None:
    limits = re.findall(rf"(?<!\w){re.escape(number)} > ([\d.]+)", RULES)
    assert limits
    assert {float(limit) for limit in limits} == {threshold}


def test_counters_with_alerts_start_at_zero() -> None:
    """Prometheus sees no increase if a series starts at one."""
    source = "".join(path.read_text() for path in (ROOT / "app/sessions").glob("*.py"))
    reasons = set(re.findall(r'CorruptRecord\("([^"]+)"\)', source))
    assert len(reasons) == 5
    for name, label, values in [
        ("reporadar_session_integrity_failures_total", "reason", reasons),
        ("reporadar_stops_total", "kind", {"clean", "forced", "crashed"}),
    ]:
        assert {value for value in values if REGISTRY.get_sample_value(name, {label: value}) is None} == set()
