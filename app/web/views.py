"""All pages. They work without scripts: a form is shown again with its errors, or answered with a redirect."""

from __future__ import annotations

from app.web import accounts, exports, fleet, insights, notifications, privacy, repositories
from app.web.pages import blueprint

__all__ = ["accounts", "blueprint", "exports", "fleet", "insights", "notifications", "privacy", "repositories"]
