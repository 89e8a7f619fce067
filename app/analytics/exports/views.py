"""`/api/analytics/exports`: files of the stored events, for administrators."""

from datetime import datetime
from typing import Literal

from flask import Blueprint, Response
from pydantic import BaseModel, Field

from app.analytics.exports.service import Export, Exports
from app.auth.guards import admin_required, log_action, require_user
from app.core.extensions import extension
from app.core.timestamps import iso
from app.http.api import Body, Timestamp, json_response, operation
from app.notifications.service import Notifications

blueprint = Blueprint("exports", __name__, url_prefix="/api/analytics/exports")

CSV = "text/csv"


class ExportBody(Body):
    since: Timestamp = Field(alias="from")
    until: Timestamp = Field(alias="to")  # exclusive
    format: Literal["csv"]


class JobView(BaseModel):
    id: int
    status: Literal["queued", "running", "succeeded", "failed"]
    progress: int
    rows: int
    since: str = Field(serialization_alias="from")
    until: str = Field(serialization_alias="to")
    requested_at: str
    finished_at: str | None
    error: str | None


class ExportRequestedView(BaseModel):
    job: JobView


class ExportsView(BaseModel):
    exports: list[JobView]


@blueprint.post("", endpoint="order")
@operation(
    "Export the events of a time range to a file", body=ExportBody, returns={202: ExportRequestedView}, errors=(401, 403, 429)
)
@admin_required
def create(body: ExportBody) -> Response:
    return json_response(ExportRequestedView(job=_job(request_export(body.since, body.until))), 202)


@blueprint.get("")
@operation("Your exports of the last 7 days, newest first", returns={200: ExportsView}, errors=(401, 403))
@admin_required
def list_exports() -> Response:
    return json_response(ExportsView(exports=[_job(export) for export in service().list(require_user().id)]))


@blueprint.get("/<id:export_id>")
@operation("Download the file of a finished export; 409 until then", returns={200: CSV}, errors=(401, 403, 404, 409))
@admin_required
def download(export_id: int) -> Response:
    found = service().download(require_user().id, export_id)
    extension(Notifications, "notifications").mark_opened(require_user().id, "export_id", export_id)
    log_action("export.downloaded", export=export_id)
    name = f"reporadar-events-{_for_filename(found.export.since)}-to-{_for_filename(found.export.until)}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(found.content, headers=headers, content_type=f"{CSV}; charset=utf-8")


def request_export(since: datetime, until: datetime) -> Export:
    export = service().request(require_user().id, since, until)
    log_action("export.ordered", export=export.id)
    return export


def service() -> Exports:
    return extension(Exports, "exports")


def _job(export: Export) -> JobView:
    return JobView(
        id=export.id,
        status=export.status,
        progress=export.progress,
        rows=export.rows,
        since=iso(export.since),
        until=iso(export.until),
        requested_at=iso(export.requested_at),
        finished_at=iso(export.finished_at) if export.finished_at else None,
        error=export.error,
    )


def _for_filename(timestamp: datetime) -> str:
    """Format as `2026-01-31`, or as `2026-01-31T1530Z` if it is not midnight."""
    return timestamp.strftime("%Y-%m-%dT%H%MZ").removesuffix("T0000Z")
