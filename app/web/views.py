"""All pages: what a browser shows without any script. Forms come back with what is wrong, or lead on with a redirect."""

from __future__ import annotations

from app.web import accounts, exports, fleet, insights, notifications, privacy, repositories
from app.web.pages import blueprint

__all__ = ["accounts", "blueprint", "exports", "fleet", "insights", "notifications", "privacy", "repositories"]
