"""RepoRadar itself, with routes that do no more than the peers' do."""

from __future__ import annotations

from flask import Response, jsonify, session

from app import config, create_app

app = create_app(config.from_environment_or_exit())


@app.post("/bench/login")
def login() -> Response:
    """Of somebody who has signed in already."""
    session["changes"] = 0
    return Response(status=204)


@app.get("/bench/read")
def read() -> tuple[Response, int]:
    user_id = session.get("user_id")
    return jsonify(user_id=user_id), 200 if user_id else 401


@app.get("/bench/change")
def change() -> Response:
    session["changes"] += 1
    return jsonify(changes=session["changes"])


@app.get("/bench/bare")
def bare() -> Response:
    return jsonify(ok=True)
