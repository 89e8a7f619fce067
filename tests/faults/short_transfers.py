"""An instance that gives clients 1 s, extended by transferred bytes, to send a body or to receive a response, such as `/long`."""

from app.server import connection
from tests.faults.long_responses import app

vars(connection)["TRANSFER_SECONDS"] = 1.0

__all__ = ["app"]
