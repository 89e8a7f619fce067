"""The fault: an instance that stops does not wait until sockets have taken what they were sent last."""

from app.server.stop_sequence import StopSequence
from wsgi import app

StopSequence._is_waiting_for_websockets = lambda *_: False  # type: ignore[method-assign]

__all__ = ["app"]
