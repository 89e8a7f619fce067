"""The fault: a connection whose next request is already there is served again at once, and so on."""

from app.server.worker import InstanceWorker
from wsgi import app

InstanceWorker.yield_to_other_connections = staticmethod(lambda: None)  # type: ignore[method-assign]

__all__ = ["app"]
