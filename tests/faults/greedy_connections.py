"""The fault: a connection with pipelined requests is served without yielding to other connections."""

from app.server.worker import InstanceWorker
from wsgi import app

InstanceWorker.yield_to_other_connections = staticmethod(lambda: None)  # type: ignore[method-assign]

__all__ = ["app"]
