"""The fault: an endpoint answers with a status that the API description does not list."""

from flask import Response, request

from app import create_app
from app.core import config

app = create_app(config.from_environment_or_exit())


@app.before_request
def surprise() -> Response | None:
    return Response("a surprise", 418) if request.path == "/api/auth/sessions" else None
