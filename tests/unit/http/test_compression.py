"""Pages are compressed for those who accept it; the API is not."""

from __future__ import annotations

import gzip

import pytest
from flask import Flask, Response
from flask.testing import FlaskClient

TEXT = "<p>A page about herons.</p>" * 100
GZIP = {"Accept-Encoding": "gzip"}


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    def page() -> Response:
        response = Response(TEXT, mimetype="text/html")
        response.set_etag("herons")
        return response

    app.add_url_rule("/page", "page", page)
    app.add_url_rule("/short", "short", lambda: "short")
    app.add_url_rule("/stream", "stream", lambda: Response(iter([TEXT, TEXT]), mimetype="text/html"))
    return app.test_client()


def test_page_is_compressed(client: FlaskClient) -> None:
    compressed = client.get("/page", headers=GZIP)
    assert gzip.decompress(compressed.data).decode() == TEXT
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert int(compressed.headers["Content-Length"]) == len(compressed.data) < len(TEXT) / 5
    assert compressed.headers["ETag"] == 'W/"herons"'
    assert compressed.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("accepted", ["", "identity", "gzip;q=0"])
def test_page_is_not_compressed_for_others(client: FlaskClient, accepted: str) -> None:
    response = client.get("/page", headers={"Accept-Encoding": accepted})
    assert response.text == TEXT
    assert "Content-Encoding" not in response.headers
    assert response.headers["Vary"] == "Accept-Encoding"


def test_length_of_a_page_does_not_tell_its_content(client: FlaskClient) -> None:
    assert len({len(client.get("/page", headers=GZIP).data) for _ in range(20)}) > 5


@pytest.mark.parametrize("path", ["/short", "/stream", "/api/openapi.json"])
def test_others_stay_as_they_are(client: FlaskClient, path: str) -> None:
    response = client.get(path, headers=GZIP)
    assert response.status_code == 200
    assert "Content-Encoding" not in response.headers
