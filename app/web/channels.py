"""The section of the settings for channels, to which notifications also go, and the private feed."""

import hashlib
from contextlib import suppress

from flask import Response as FlaskResponse
from flask import redirect, request, url_for
from werkzeug import Response

from app.auth.guards import require_user
from app.core.errors import NotFound, Problem
from app.http.addresses import public_site
from app.notifications import content
from app.notifications.views import channels, feed_address
from app.web import forms
from app.web.pages import SEE_OTHER, blueprint, sign_in_required
from app.web.settings import render_settings


@blueprint.post("/settings/channels")
@sign_in_required
def create_channel() -> Response:
    kind, url = forms.text("kind"), forms.text("url").strip()
    try:
        created = channels().create(require_user().id, kind if kind in ("email", "feed") else "webhook", url)
    except Problem as problem:
        return render_settings(forms.correctable(problem), form="channel", webhook_url=url)
    if created.secret or created.token:
        # Not a redirect: neither is stored in a form that the next page could show.
        address = feed_address(created.token) if created.token else None
        return render_settings(created_channel=created.channel, channel_secret=created.secret or address)
    return _done("channel")


@blueprint.post("/settings/channels/<id:channel_id>/test")
@sign_in_required
def test_channel(channel_id: int) -> Response:
    try:
        channels().test(require_user().id, channel_id)
    except Problem as problem:
        return render_settings(forms.correctable(problem), form="channel")
    return _done("channel-test")


@blueprint.post("/settings/channels/<id:channel_id>/delete")
@sign_in_required
def delete_channel(channel_id: int) -> Response:
    with suppress(NotFound):  # it was deleted while the page was open
        channels().delete(require_user().id, channel_id)
    return _done("channel-deleted")


@blueprint.get("/feeds/<token>.atom")
def feed(token: str) -> Response:
    """Return a private feed. Its address is the only proof of who reads it, and feed readers have no session."""
    found = channels().feed(token)
    document = content.feed(found.channel, token, found.items, public_site(), feed_address(token))
    response = FlaskResponse(document, content_type="application/atom+xml; charset=utf-8")
    response.set_etag(hashlib.sha256(document).hexdigest()[:32])
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["X-Robots-Tag"] = "noindex"
    return response.make_conditional(request)


def _done(what: str) -> Response:
    return redirect(url_for("web.settings", done=what, _anchor="channels"), SEE_OTHER)
