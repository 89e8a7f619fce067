"""The fault: an instance that stops does not wait for the requests that it is serving, of which there are always some here."""

import time

from app.server.stop_sequence import StopSequence
from wsgi import app

SECONDS = 0.3


@app.before_request
def take_long() -> None:
    time.sleep(SECONDS)


StopSequence._finish_requests = lambda *_: None  # type: ignore[method-assign]

__all__ = ["app"]
