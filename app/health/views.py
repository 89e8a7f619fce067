"""`/health`, `/health/ready`, `/health/live` and `/metrics`. None of them does I/O or reads a session."""

from ipaddress import ip_address
from typing import Any

from flask import Blueprint, Response, json, request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.core import instance
from app.core.errors import NotFound
from app.core.extensions import extension
from app.core.version import VERSION
from app.health.load import Load
from app.health.service import FAIL, PASS, WARN, HealthCheck
from app.server.lifecycle import Lifecycle

blueprint = Blueprint("health", __name__)

FORWARDING_HEADERS = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via")


@blueprint.get("/health")
def health() -> Response:
    found = extension(list[HealthCheck], "health_checks")
    load = extension(Load, "load")
    statuses = {check.status for check in found}
    status = next((status for status in (FAIL, WARN) if status in statuses), PASS)
    checks = {check.name: _describe(check) for check in found}
    return _answer(status, checks=checks, load=load.describe())


@blueprint.get("/health/ready")
def ready() -> Response:
    lifecycle = extension(Lifecycle, "lifecycle")
    reasons = lifecycle.check_readiness()
    return _answer(FAIL if reasons else PASS, phase=lifecycle.phase, reasons=reasons)


@blueprint.get("/health/live")
def live() -> Response:
    return _answer(PASS)


@blueprint.get("/metrics")
def metrics() -> Response:
    """Only for a direct peer on loopback or a private network; 404 for a forwarded request or a public address."""
    if any(header in request.headers for header in FORWARDING_HEADERS) or not _is_private(request.remote_addr):
        raise NotFound("There is nothing at this address.")
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)


def _is_private(address: str | None) -> bool:
    try:
        peer = ip_address(address or "")
    except ValueError:
        return False
    return (peer.is_loopback or peer.is_private) and not peer.is_unspecified


def _describe(check: HealthCheck) -> dict[str, Any]:
    description = {"status": check.status, "latency_ms": check.latency_ms}
    if reason := check.reason:
        description["reason"] = reason
    if check.status == WARN and check.warning:
        description["output"] = check.warning.partition(": ")[0]
    return description


def _answer(status: str, **more: Any) -> Response:
    body = {"status": status, "instance_id": instance.current().instance_id, "version": VERSION, **more}
    response = Response(json.dumps(body), 503 if status == FAIL else 200, content_type="application/health+json")
    response.headers["Cache-Control"] = "no-store"
    return response
