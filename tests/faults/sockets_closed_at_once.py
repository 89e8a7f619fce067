"""An instance that sends all its clients away in one moment."""

from __future__ import annotations

from wsgi import app

app.extensions["connections"]._drain_rate = 10**9

__all__ = ["app"]
