"""The routes of both Flask applications."""

import time

from flask import Blueprint, Response, jsonify, session

SLOW_SECONDS = 3.0

blueprint = Blueprint("bench", __name__, url_prefix="/bench")


@blueprint.post("/login")
def login() -> Response:
    session.setdefault("user_id", 1)  # the session of RepoRadar is already signed in
    session["changes"] = 0
    return Response(status=204)


@blueprint.get("/read")
def read() -> tuple[Response, int]:
    user_id = session.get("user_id")
    return jsonify(user_id=user_id), 200 if user_id else 401


@blueprint.get("/change")
def change() -> Response:
    session["changes"] += 1
    return jsonify(changes=session["changes"])


@blueprint.get("/slow")
def slow() -> Response:
    time.sleep(SLOW_SECONDS)
    return jsonify(ok=True)


@blueprint.get("/bare")
def bare() -> Response:
    return jsonify(ok=True)
