"""Examples for the description of the API, made from the schemas: a value for each field, by its name and its type."""

from typing import Any

Schema = dict[str, Any]

TIME = "2026-01-31T12:00:00Z"

# By field, or by model and field where a name means different things. Other fields get a value by their type.
VALUES: dict[str, Any] = {
    "accepted": 1,
    "action": "add an instance",
    "address": "pallets/flask",
    "after": 41,
    "attempt": 1,
    "by_category": {"navigation": 42},
    "by_name": {"page_viewed": 42},
    "cause": "Responses are slow (p95 900 ms): the CPU is at 96 % of one core.",
    "config_fingerprint": "5d41402abc4b2a76",
    "cpu_percent": 96,
    "current_password": "three calm herons",
    "data": {"repository_id": 7},
    "detail": "You do not follow this repository.",
    "disabled_at": None,
    "disabled_reason": None,
    "drain": True,
    "email": "ada@example.org",
    "error": None,
    "EventsBody.events": [{"name": "button_pressed", "category": "navigation", "properties": {"button": "export"}}],
    "expires_at": "2030-01-01T00:00:00Z",
    "field": "url",
    "formula_version": 2,
    "from": "2026-01-01T00:00:00Z",
    "head": 42,
    "hostname": "radar-1",
    "ids": "7,8",
    "inherited": False,
    "instance_id": "instance-1",
    "instance_ids": ["instance-1", "instance-2"],
    "interval": "day",
    "ip": "192.0.2.7",
    "is_admin": False,
    "limit": 100,
    "message": "The address must begin with https://.",
    "metric": "p95_ms",
    "name": "pallets/flask",
    "new_password": "four loud geese",
    "nonce": "f3a1c2d4e5b60718",
    "obstacles": [],
    "opted_out": False,
    "password": "three calm herons",
    "pid": 4711,
    "progress": 100,
    "reason": None,
    "report": {"commits": 5412, "license": "BSD-3-Clause", "verdict": {"headline": "Well maintained and released often."}},
    "request_id": "0a1b2c3d",
    "scope": "read",
    "scores": {
        "activity": 88,
        "community": 73,
        "continuity": 45,
        "releases": 91,
        "documentation": 80,
        "engineering": None,
        "overall": 76,
    },
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "seq": 42,
    "session_id": "c0ffee",
    "set_aside": False,
    "status": "succeeded",
    "step": "Done",
    "summary": "Nothing was waited for.",
    "tags": ["web"],
    "text": "pallets/flask\npsf/requests",
    "threshold": 500,
    "title": "flask has a new release: 3.1.3",
    "token": "rr_PSy4wGVBh1yJzYz5vGJ0n4aQ2cTtZk7m3xwLq8RbN1U",
    "type": "release.found",
    "types": {"release.found": True, "score.changed": False},
    "url": "https://github.com/pallets/flask",
    "up_to": 42,
    "uptime": 86_400,
    "user_agent": "Mozilla/5.0",
    "value": 900,
    "version": "0.1.0",
    "AcceptedView.rejected": [],
    "AnalysisStatusView.status": "queued",
    "ChannelBody.url": "https://hooks.example.org/radar",
    "ChannelView.url": "https://hooks.example.org/radar",
    "CreatedChannelView.url": "https://hooks.example.org/radar",
    "CreatedTokenView.id": 3,
    "CreatedTokenView.last_used_at": None,
    "CreatedTokenView.name": "nightly build",
    "CurrentSessionView.id": "c0ffee",
    "DeliveryView.status": 204,
    "DisagreementView.kind": "database",
    "DisagreementView.message": "Instances use different databases.",
    "ExportBody.from": "2026-01-01",
    "ExportBody.to": "2026-01-31",
    "ImportResultView.status": "added",
    "InstanceView.status": "ready",
    "JobView.finished_at": None,
    "JobView.progress": 40,
    "JobView.rows": 5120,
    "JobView.status": "running",
    "PhaseView.name": "sockets",
    "SessionView.id": "c0ffee",
    "ShareView.url": "https://radar.example.org/shared/5f0c6b1d9a3e4c7f8b2d0a1c3e5f7a9b",
    "StopView.kind": "clean",
    "StopView.role": "instance",
    "TokenBody.name": "nightly build",
    "TokenView.name": "nightly build",
    "WorkerView.finished_jobs": 41,
    "WorkerView.instance_id": "radar-1-worker",
    "WorkerView.last_heartbeat": TIME,
    "WorkerView.max_jobs": 4,
    "WorkerView.running_jobs": 2,
    "WorkerView.start_time": "2026-01-30T12:00:00Z",
    "WorkerView.status": "running",
}
NUMBER = 7


def example(schema: Schema, schemas: dict[str, Schema], name: str = "") -> Any:
    """Return a value that fits the schema. `schemas` are those that it may refer to; `name` is a key of VALUES."""
    if "$ref" in schema:
        model = schema["$ref"].rpartition("/")[2]
        return example(schemas[model], schemas, model)
    for values in (schema.get("examples"), schema.get("enum"), [schema["const"]] if "const" in schema else None):
        if values:
            return values[0]
    if "anyOf" in schema:
        return example(schema["anyOf"][0], schemas, name)
    match schema.get("type"):
        case "object":
            fields = schema.get("properties", {}).items()
            return {field: _field(name, field, described, schemas) for field, described in fields}
        case "array":
            return [example(schema["items"], schemas, name)]
        case "integer" | "number":
            return max(schema.get("minimum", NUMBER), NUMBER)
        case "boolean":
            return True
    return TIME if name.endswith(("_at", "_of", "from", "to", "start", "time", "before")) or name == "at" else name


def _field(model: str, field: str, schema: Schema, schemas: dict[str, Schema]) -> Any:
    if f"{model}.{field}" in VALUES:
        return VALUES[f"{model}.{field}"]
    if field in VALUES and "enum" not in schema and "$ref" not in str(schema):
        return VALUES[field]
    return example(schema, schemas, field)
