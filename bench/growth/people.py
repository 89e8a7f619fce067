"""RepoRadar with a way to have very many people signed in at once, without a password to be hashed for each."""

from __future__ import annotations

import gc
import secrets
from datetime import UTC, datetime

from flask import Response, current_app, jsonify
from sqlalchemy import Connection, insert

from app.auth import guards
from app.auth.store import User
from app.database.engine import Database
from app.database.schema import users
from bench.peers.ours import app


@app.post("/bench/people/<int:count>")
def people(count: int) -> Response:
    """The cookies of so many new people."""
    database: Database = current_app.extensions["database"]
    cookies = [_sign_in(user) for user in database.run_within(60, _add, count)]
    gc.collect()  # which touches all memory that is shared with the master still: later that would look like a cost of sockets
    return jsonify(cookies)


def _add(connection: Connection, count: int) -> list[User]:
    name, now = secrets.token_hex(6), datetime.now(UTC)
    rows = [{"email": f"{name}-{number}@example.org", "password_hash": "-", "created_at": now} for number in range(count)]
    names = User.__dataclass_fields__
    return [User(**row) for row in connection.execute(insert(users).returning(*(users.c[one] for one in names)), rows).mappings()]


def _sign_in(user: User) -> str:
    with current_app.test_request_context():
        guards.sign_in(user)
        cookies = current_app.process_response(Response()).headers.getlist("Set-Cookie")
    return next(cookie.partition(";")[0] for cookie in cookies if cookie.startswith("session="))
