"""The fault: a stopping instance does not wait for requests in progress. Slow requests make sure that there are some."""

import time

from app.server.stop_sequence import StopSequence
from wsgi import app

SECONDS = 0.3


@app.before_request
def take_long() -> None:
    time.sleep(SECONDS)


StopSequence._finish_requests = lambda *_: None  # type: ignore[method-assign]

__all__ = ["app"]
