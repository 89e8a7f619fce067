"""The fault: psycopg2 blocks the event loop while it waits for PostgreSQL."""

from psycopg2 import extensions

from tests.faults.slow_queries import app

extensions.set_wait_callback(None)

__all__ = ["app"]
