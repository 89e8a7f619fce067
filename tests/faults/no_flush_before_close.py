"""The fault: a stopping instance does not flush its sockets before it closes them."""

from app.server.stop_sequence import StopSequence
from wsgi import app

StopSequence._is_waiting_for_websockets = lambda *_: False  # type: ignore[method-assign]

__all__ = ["app"]
