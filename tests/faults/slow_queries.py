"""The application with a query that takes about a second, on either database."""

from flask import Response
from sqlalchemy import Connection, text

from app import create_app
from app.core import config
from app.database.engine import Database

SECONDS = 60.0  # patience: this is about other requests, not about this one

app = create_app(config.from_environment_or_exit())
database: Database = app.extensions["database"]


def slow(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_sleep(1)"))
    else:
        counting = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000000) SELECT max(i) FROM n"
        connection.execute(text(counting))


@app.get("/slow")
def slow_view() -> Response:
    database.run_within(SECONDS, slow)
    return Response(status=204)
