"""The views of all pages. They work without scripts: a form is shown again with its errors, or answered with a redirect."""

from app.web import about, accounts, analytics, channels, exports, fleet, imports, notifications, privacy, repositories, resets
from app.web.pages import blueprint

__all__ = [
    "about",
    "accounts",
    "analytics",
    "blueprint",
    "channels",
    "exports",
    "fleet",
    "imports",
    "notifications",
    "privacy",
    "repositories",
    "resets",
]
