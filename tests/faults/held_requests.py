"""The application with routes that hold a request between reading and saving the session.

A held request reports in Redis that it has read the session, and waits there for the test to release it.
"""

from __future__ import annotations

from flask import Flask, Response, request, session

from app import create_app
from app.auth import guards
from app.core import config, logs
from app.redis.client import connect

NOT_HELD = "-"

settings = config.from_environment_or_exit()
logs.configure(settings.log_format, settings.log_level)
redis = connect(settings, "test", timeout=30)


def hold(ticket: str) -> None:
    if ticket != NOT_HELD:
        redis.lpush(f"test:reached:{ticket}", 1)
        redis.blpop([f"test:go:{ticket}"], 20)


def add_held_routes(app: Flask) -> None:
    @app.post("/held/set/<name>/<ticket>")
    def held_set(name: str, ticket: str) -> Response:
        session[name] = request.get_data(as_text=True)
        hold(ticket)
        return Response(status=204)

    @app.post("/held/delete/<name>/<ticket>")
    def held_delete(name: str, ticket: str) -> Response:
        session.pop(name)
        hold(ticket)
        return Response(status=204)

    @app.post("/held/clear/-/<ticket>")
    def held_clear(ticket: str) -> Response:
        session.clear()
        hold(ticket)
        return Response(status=204)

    @app.post("/sign-in/<int:user_id>")
    def sign_in(user_id: int) -> Response:
        user = guards.accounts().get(user_id)
        assert user is not None
        guards.sign_in(user)
        return Response(status=204)

    @app.get("/fields")
    def fields() -> dict[str, object]:
        return dict(session)


app = create_app(settings)
add_held_routes(app)
