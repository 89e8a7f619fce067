"""The fleet page, for administrators: the state of all instances, and the drain of one of them."""

import time

from flask import current_app, redirect, request, url_for
from werkzeug import Response

from app.core.errors import NotFound
from app.core.extensions import extension
from app.fleet.views import fleet as the_fleet
from app.fleet.views import set_drained
from app.fleet.worker_monitor import WorkerMonitor
from app.web import forms, triage
from app.web.pages import SEE_OTHER, administrators_only, blueprint, current_notice, render

SHOWN_STOPS = 8  # older ones are collapsed

instance_route = "/admin/fleet/instances/<instance_id>"


@blueprint.get("/admin/fleet")
@administrators_only
def fleet() -> Response:
    """Show all instances. With `?drain=ID` the page asks for confirmation to drain the last ready instance."""
    overview = the_fleet().overview()
    monitor = extension(WorkerMonitor, "worker_monitor")  # None in embedded mode
    wanted = request.args.get("drain", "")
    return render(
        "fleet.html",
        **overview | {"instances": triage.worst_first(overview["instances"])},
        verdict=triage.judge(overview, is_worker_needed=bool(monitor) and monitor.is_worker_needed),
        triage=triage,
        to_confirm=wanted if triage.is_last_ready(overview["instances"], wanted) else None,
        shown_stops=SHOWN_STOPS,
        as_of=int(time.time()),
        is_shared=current_app.config["REPORADAR"].use_redis_sessions,
        notice=current_notice(),
    )


@blueprint.post(f"{instance_route}/drain")
@administrators_only
def drain(instance_id: str) -> Response:
    if not forms.text("confirmed") and triage.is_last_ready(the_fleet().overview()["instances"], instance_id):
        return redirect(url_for("web.fleet", drain=instance_id), SEE_OTHER)
    return _set_drained(instance_id, drain=True)


@blueprint.post(f"{instance_route}/call-back")
@administrators_only
def end_drain(instance_id: str) -> Response:
    return _set_drained(instance_id, drain=False)


def _set_drained(instance_id: str, drain: bool) -> Response:
    try:
        set_drained(instance_id, drain=drain)
    except NotFound:  # it ended while the page was open
        return redirect(url_for("web.fleet", done="gone"), SEE_OTHER)
    return redirect(url_for("web.fleet", done="drain" if drain else "call-back"), SEE_OTHER)
