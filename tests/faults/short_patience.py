"""An instance that waits a second for the next part of a body, instead of half a minute."""

from app.server import connection
from wsgi import app

vars(connection)["TRANSFER_SECONDS"] = 1.0

__all__ = ["app"]
