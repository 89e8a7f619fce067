"""Files have addresses that never change their content, are compressed in advance, and are revalidated at other addresses."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from flask import Flask, url_for
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.web import static_files

PLAIN = "/static/live.js"
SOURCE = (static_files.FOLDER / "live.js").read_bytes()
GZIP = {"Accept-Encoding": "gzip, deflate, br"}


@pytest.fixture
def versioned(app: Flask) -> str:
    with app.test_request_context():
        return url_for("static", filename="live.js")


def get(client: FlaskClient, path: str, **headers: str) -> TestResponse:
    return client.get(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_page_names_addresses_with_the_digest(client: FlaskClient, versioned: str) -> None:
    prefix = versioned.removesuffix("live.js")
    assert re.fullmatch(r"/static/[0-9a-f]{16}/", prefix)
    addresses = re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/").text)
    assert len(addresses) > 3
    for address in addresses:
        assert address.startswith(prefix)
        assert client.get(address).headers["Cache-Control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("path", [PLAIN, "/static/0123456789abcdef/live.js"])
def test_other_addresses_are_revalidated(client: FlaskClient, path: str) -> None:
    """The second one is in a page of another version, which may be running during a deployment."""
    response = client.get(path)
    assert (response.data, response.headers["Cache-Control"]) == (SOURCE, "no-cache")
    assert get(client, path, If_None_Match=response.headers["ETag"]).status_code == 304


def test_digest_changes_with_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_files, "FOLDER", tmp_path)
    digests = set()
    for name, text in (("a.js", "1"), ("a.js", "2"), ("sub/b.js", "1"), ("sub/b.js", "2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        digests.add(static_files.digest_of_all(static_files.read_files.__wrapped__()))
    assert len(digests) == 4


def test_compressed_file_is_sent_to_those_who_accept_it(client: FlaskClient) -> None:
    plain, compressed = client.get(PLAIN), get(client, PLAIN, **GZIP)
    assert plain.data == gzip.decompress(compressed.data) == SOURCE
    assert len(compressed.data) < len(SOURCE) / 2
    assert compressed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == compressed.headers["Vary"] == "Accept-Encoding"
    assert plain.headers["ETag"] != compressed.headers["ETag"]
    assert get(client, PLAIN, Accept_Encoding="gzip;q=0").data == SOURCE


def test_etag_depends_on_the_content_alone(client: FlaskClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So it is the same on each instance, whenever its files were written."""
    before = client.get(PLAIN).headers["ETag"]
    (tmp_path / "live.js").write_bytes(SOURCE)
    monkeypatch.setattr(static_files, "FOLDER", tmp_path)
    assert before == f'"{static_files.read_files.__wrapped__()["live.js"].digest}"'


@pytest.mark.parametrize(
    "path", ["/static/nothing.js", "/static/", "/static/../pages.py", "/static/%2e%2e/pages.py", "/static/vendor"]
)
def test_nothing_else_is_served(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("name", "content_type"),
    [("live.js", "text/javascript; charset=utf-8"), ("style.css", "text/css; charset=utf-8"), ("logo.svg", "image/svg+xml")],
)
def test_types(client: FlaskClient, name: str, content_type: str) -> None:
    assert client.get(f"/static/{name}").headers["Content-Type"] == content_type
