"""RepoRadar with a route that creates and signs in many users without hashing passwords."""

import gc
import secrets
from datetime import UTC, datetime

from flask import Response, current_app, jsonify
from sqlalchemy import Connection, insert

from app.auth import guards
from app.auth.store import User
from app.database.engine import Database
from app.database.schema import users
from bench.peers.reporadar import app


@app.post("/bench/people/<int:count>")
def create_users(count: int) -> Response:
    """Return the session cookies of new users."""
    database: Database = current_app.extensions["database"]
    cookies = [_sign_in(user) for user in database.run_within(60, _add, count)]
    gc.collect()  # copies all memory pages shared with the master now, so that they do not look like a cost of sockets later
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
    return next(cookie.partition(";")[0] for cookie in cookies if cookie.startswith("reporadar_session="))
