"""The fault: no file descriptor is held in reserve, so that a full instance accepts no health check."""

from app.server.accept import DescriptorReserve
from wsgi import app

DescriptorReserve.release = lambda self: False  # type: ignore[method-assign]

__all__ = ["app"]
