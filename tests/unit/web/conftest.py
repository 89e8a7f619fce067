import pytest
from flask import Flask
from flask.testing import FlaskClient


@pytest.fixture
def signed_in(app: Flask) -> FlaskClient:
    """The client of the registered user ada@example.org."""
    client = app.test_client()
    account = {"email": "ada@example.org", "password": "three calm herons"}
    assert client.post("/api/auth/register", json=account).status_code == 201
    return client
