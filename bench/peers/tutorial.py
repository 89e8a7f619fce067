"""T, the stack of the tutorials: stock Flask-Session on Redis, not encrypted, and stock Flask-SocketIO with a message queue."""

from __future__ import annotations

import os

import redis
from flask import Flask, Response, jsonify, session
from flask_session import Session
from flask_socketio import SocketIO

app = Flask(__name__)
app.config.update(
    SECRET_KEY=os.environ["SESSION_SECRET"],
    SESSION_TYPE="redis",
    SESSION_REDIS=redis.Redis.from_url(os.environ["REDIS_URL"]),
)
Session(app)
socketio = SocketIO(app, message_queue=os.environ["REDIS_URL"], async_mode="gevent")


@app.post("/bench/login")
def login() -> Response:
    session["user_id"], session["changes"] = 1, 0
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
