"""The fault: a connection whose next request is already there is served again at once, and so on."""

from app.process import InstanceWorker
from wsgi import app

del InstanceWorker.handle_request  # which leaves gunicorn's own

__all__ = ["app"]
