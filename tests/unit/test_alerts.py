"""The alert rules: promtool runs their own tests, here is whether those would notice, and whether rules and code agree."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from app.core import metrics
from app.fleet import advice
from harness.servers import ROOT

FOLDER = ROOT / "deploy/prometheus"
RULES = (FOLDER / "rules.yml").read_text()
TESTS = (FOLDER / "rules.test.yml").read_text()

# Of Prometheus itself, and of its client library where the kernel tells them.
NOT_OURS = {"up", "process_cpu_seconds_total", "process_start_time_seconds"}


def promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def rules_with(folder: Path, old: str, new: str) -> Path:
    assert old in RULES
    shutil.copy(FOLDER / "rules.test.yml", folder)
    (folder / "rules.yml").write_text(RULES.replace(old, new))
    return folder


def expressions() -> list[str]:
    return re.findall(
        r"expr: (?:>\n)?(.*?)(?=\n *(?:for|labels|annotations|- record|- alert|- name|#)\b|\n\n|\Z)", RULES, re.DOTALL
    )


@pytest.mark.parametrize("command", [("check", "config", "prometheus.yml"), ("test", "rules", "rules.test.yml")])
def test_promtool_is_content(command: tuple[str, ...]) -> None:
    outcome = promtool(*command, folder=FOLDER)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("> 70", ">= 70"),
        ("> 0.5", "> 1"),
        ("for: 30s", "for: 0s"),
        ("for: 90s", "for: 0s"),
        ("keep_firing_for: 2m", "keep_firing_for: 0s"),
        ("unless on (job, instance) reporadar:busy", ""),
        ("forced|crashed", "forced"),
        ("max by (job, kind)", "sum by (job, kind, instance)"),
        ('up{job="reporadar"}', "up"),
        ("changes(process_start_time_seconds{", "0 * changes(process_start_time_seconds{"),
        ("unless resets(reporadar_events_waiting[2m]) > 0", ""),
        ("or reporadar_events_waiting > 50000", ""),
        ("for: 3m", "for: 0s"),
        ("max by (job) (reporadar_events_put_aside) > 0", "max by (job) (reporadar_events_put_aside) > 1"),
    ],
)
def test_a_rule_that_says_something_else_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    outcome = promtool("test", "rules", "rules.test.yml", folder=rules_with(tmp_path, old, new))
    assert outcome.returncode == 1
    assert "FAILED" in outcome.stderr


def test_each_alert_is_tested() -> None:
    alerts = set(re.findall(r"alert: (\w+)", RULES))
    assert len(alerts) == 14
    assert {alert for alert in alerts if alert not in TESTS} == set()


def test_the_rules_look_at_metrics_that_exist() -> None:
    assert metrics.ready
    families = {
        sample for family in REGISTRY.collect() for sample in (family.name, f"{family.name}_total", f"{family.name}_bucket")
    }
    recorded = set(re.findall(r"record: (\S+)", RULES))
    text = "\n".join(expressions())
    used = set(re.findall(r"\b(?:reporadar[_:]|process_)\w+|\bup(?=\{)", text))
    assert len(used) > 15
    assert used - families - NOT_OURS == recorded


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


def test_what_counts_from_the_first_time_on_starts_at_zero() -> None:
    """Prometheus sees no increase where a number begins at one."""
    source = "".join(path.read_text() for path in (ROOT / "app/sessions").glob("*.py"))
    reasons = set(re.findall(r'CorruptRecord\("([^"]+)"\)', source))
    assert len(reasons) == 5
    for name, label, values in [
        ("reporadar_session_integrity_failures_total", "reason", reasons),
        ("reporadar_stops_total", "kind", {"clean", "forced", "crashed"}),
    ]:
        assert {value for value in values if REGISTRY.get_sample_value(name, {label: value}) is None} == set()
