"""An instance that waits only 1 s for the next part of a request body."""

from app.server import connection
from wsgi import app

vars(connection)["TRANSFER_SECONDS"] = 1.0

__all__ = ["app"]
