"""The fault: an instance that stops does not wait until sockets have taken what they were sent last."""

from app.server.worker import InstanceWorker
from wsgi import app

InstanceWorker._is_waiting_for_websockets = lambda *_: False  # type: ignore[method-assign]

__all__ = ["app"]
