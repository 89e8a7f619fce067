"""The fault: psycopg2 waits for PostgreSQL by itself, which stops the event loop."""

from psycopg2 import extensions

from tests.faults.slow_queries import app

extensions.set_wait_callback(None)

__all__ = ["app"]
