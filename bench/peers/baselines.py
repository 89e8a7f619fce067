"""Minimal applications as baselines: one for WSGI, one for Flask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, Response, jsonify

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BODY = b'{"ok":true}\n'

flask = Flask(__name__)


def wsgi(_environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(BODY)))])
    return [BODY]


@flask.get("/bench/bare")
def bare() -> Response:
    return jsonify(ok=True)
