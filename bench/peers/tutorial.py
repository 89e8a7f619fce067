"""T, the stack of Flask tutorials: Flask-Session on Redis without encryption, and Flask-SocketIO with a message queue."""

import os
from typing import Any

import redis
from flask import Flask
from flask_session import Session
from flask_socketio import SocketIO, join_room

from bench.peers import publisher, routes

app = Flask(__name__)
app.config.update(
    SECRET_KEY=os.environ["SESSION_SECRET"],
    SESSION_TYPE="redis",
    SESSION_REDIS=redis.Redis.from_url(os.environ["REDIS_URL"]),
)
Session(app)
socketio = SocketIO(app, message_queue=os.environ["REDIS_URL"], async_mode="gevent")
app.register_blueprint(routes.blueprint)


@socketio.on("connect")  # type: ignore[untyped-decorator]
def join(auth: Any = None) -> None:
    if auth:
        join_room(auth["room"])


publisher.listen(lambda user_id, state: socketio.emit("analysis", state, to=publisher.room(user_id)))
