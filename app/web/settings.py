"""Renders the settings page, whose sections several modules handle."""

from datetime import UTC, datetime
from typing import Any

from werkzeug import Response

from app.auth import guards
from app.auth.guards import require_user, tokens
from app.auth.passwords import MIN_LENGTH
from app.core.errors import Problem
from app.notifications import content
from app.notifications.service import TYPES
from app.notifications.views import channels
from app.web import privacy
from app.web.pages import notifications, render

# Lifetimes of a token that the page offers, by their value in the form.
TOKEN_DAYS = {"30": "in 30 days", "90": "in 90 days", "365": "in a year", "": "never"}
SHOWN_DELIVERIES = 10  # of each channel


def render_settings(problem: Problem | None = None, **context: Any) -> Response:
    user = require_user()
    return render(
        "settings.html",
        problem,
        sessions=guards.list_sessions(user),
        tokens=tokens().list(user.id),
        token_days=TOKEN_DAYS,
        now=datetime.now(UTC),
        min_length=MIN_LENGTH,
        subscription=notifications().subscription(user.id),
        notification_types=TYPES,
        channels=[
            (channel, channels().deliveries(user.id, channel.id)[:SHOWN_DELIVERIES]) for channel in channels().list(user.id)
        ],
        has_email=channels().has_email,
        host_of=content.host,
        **privacy.consent_context("web.settings"),
        **context,
    )
