"""The fault: an instance that stops does not wait for the requests that it is serving, of which there are always some here."""

import time

from app.server.worker import InstanceWorker
from wsgi import app

SECONDS = 0.3


@app.before_request
def take_long() -> None:
    time.sleep(SECONDS)


InstanceWorker._finish_requests = lambda *_: None  # type: ignore[method-assign]

__all__ = ["app"]
