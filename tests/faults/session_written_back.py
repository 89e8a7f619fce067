"""The fault: each request saves its session even if it has been destroyed, as stock Flask-Session does."""

import gevent
from flask import Flask, Response
from flask.sessions import SessionMixin

from app import create_app
from app.core import config
from app.sessions.interface import SessionInterface
from app.sessions.session import Session

LATE_SECONDS = 0.05

save = SessionInterface.save_session


def write_back(self: SessionInterface, app: Flask, session: SessionMixin, response: Response) -> None:
    save(self, app, session, response)
    assert isinstance(session, Session)
    if session.record:
        gevent.sleep(LATE_SECONDS)
        self.store._client.hset(session.key, mapping=session.record.encrypted)  # type: ignore[attr-defined]


SessionInterface.save_session = write_back  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
