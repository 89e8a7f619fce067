from __future__ import annotations

import pytest
from flask import Flask, jsonify, request
from flask.testing import FlaskClient

from app.http.proxies import TrustedProxies

DIRECT = ["192.0.2.99", "http", "app.internal"]


def behind(hops: int) -> FlaskClient:
    app = Flask(__name__)
    app.add_url_rule("/", view_func=lambda: jsonify([request.remote_addr, request.scheme, request.host]))
    if hops:
        app.wsgi_app = TrustedProxies(app.wsgi_app, hops)  # type: ignore[method-assign]
    return app.test_client()


def seen(hops: int, **headers: str) -> object:
    forwarded = {f"X-Forwarded-{name}": value for name, value in headers.items()}
    return (
        behind(hops).get("/", base_url="http://app.internal", headers=forwarded, environ_base={"REMOTE_ADDR": "192.0.2.99"}).json
    )


@pytest.mark.parametrize(
    ("hops", "headers", "expected"),
    [
        # No trusted proxy.
        (0, {"For": "203.0.113.1", "Proto": "https", "Host": "evil.example"}, DIRECT),
        # One proxy: only the value that it added.
        (1, {}, DIRECT),
        (1, {"For": "203.0.113.1", "Proto": "https", "Host": "app.example"}, ["203.0.113.1", "https", "app.example"]),
        (1, {"For": "198.51.100.7, 203.0.113.1"}, ["203.0.113.1", "http", "app.internal"]),
        (1, {"Proto": "http, https", "Host": "evil.example, app.example"}, ["192.0.2.99", "https", "app.example"]),
        # Two proxies: each appends its address; scheme and host may have been overwritten.
        (2, {"For": "203.0.113.1, 10.0.0.1", "Proto": "https", "Host": "app.example"}, ["203.0.113.1", "https", "app.example"]),
        (
            2,
            {
                "For": "198.51.100.7, 203.0.113.1, 10.0.0.1",
                "Proto": "ftp, https, http",
                "Host": "x.example, app.example, app.lan",
            },
            ["203.0.113.1", "https", "app.example"],
        ),
        # Fewer proxies than configured: the client connected directly.
        (2, {"For": "203.0.113.1"}, ["192.0.2.99", "http", "app.internal"]),
    ],
)
def test_forwarded_headers_are_trusted_for_the_configured_proxies(
    hops: int, headers: dict[str, str], expected: list[str]
) -> None:
    assert seen(hops, **headers) == expected
