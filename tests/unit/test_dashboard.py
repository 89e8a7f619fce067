"""The queries of the Grafana dashboard are valid and use metrics that instances export, and its data source is provisioned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from app.core import metrics
from harness.servers import ROOT
from tests.unit.test_alerts import exported_metrics, metrics_in, promtool

GRAFANA = ROOT / "deploy/grafana"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]


def check(queries: list[str], folder: Path) -> str:
    """Return the output of promtool for rules with these queries, or an empty text if all are valid."""
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    text = json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}).replace("$__rate_interval", "1m")
    (folder / "queries.yml").write_text(text)
    checked = promtool(["check", "rules", "queries.yml"], folder)
    return "" if checked.returncode == 0 else checked.stdout


def test_every_query_is_valid(tmp_path: Path) -> None:
    assert check(QUERIES, tmp_path) == ""
    assert "parse error" in check(["sum(up{)"], tmp_path)


def test_every_query_uses_an_existing_metric() -> None:
    assert [query for query in QUERIES if not metrics_in([query])] == []
    assert metrics_in(QUERIES) - exported_metrics() == set()
    assert metrics_in(["sum(reporadar_unknown)"]) - exported_metrics() == {"reporadar_unknown"}


def test_dashboard_shows_the_metrics_of_the_application() -> None:
    own = set(re.findall(r'"(reporadar_\w+)"', Path(metrics.__file__).read_text()))
    shown = {name.removesuffix("_bucket").removesuffix("_count") for name in metrics_in(QUERIES)}
    # Instances use the process metrics of the CPU; the current key is only of interest with the number of its records.
    assert own - shown == {"reporadar_cpu_percent", "reporadar_session_key_active"}


def test_dashboard_has_the_rows_that_operators_look_for() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Fleet", "Requests", "Sockets", "Redis", "PostgreSQL", "Jobs", "Analytics events"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_queries_are_about_the_job_of_the_rules() -> None:
    for query in QUERIES:
        selectors = re.findall(r"\b(?:reporadar_|process_)\w+(\{[^}]*\})?|\bup(\{[^}]*\})", query)
        assert selectors
        assert all('job="reporadar"' in "".join(selector) for selector in selectors), query


def test_data_source_is_provisioned() -> None:
    provisioned = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    used = {target["datasource"]["uid"] for panel in PANELS for target in panel["targets"]}
    assert {source["uid"] for source in provisioned} == used
