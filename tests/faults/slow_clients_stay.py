"""The fault: a full instance closes only idle connections, so that slow clients keep all others out."""

from app.server.connection import ClientConnection
from wsgi import app

ClientConnection.seconds_left = lambda self: None  # type: ignore[method-assign]

__all__ = ["app"]
