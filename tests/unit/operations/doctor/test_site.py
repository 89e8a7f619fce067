from __future__ import annotations

import pytest

from app.operations.doctor.site import Site


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a.example:80", "http://a.example"),
        ("https://a.example:443", "https://a.example"),
        ("https://a.example:80", "https://a.example:80"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ],
)
def test_origin_has_no_default_port(url: str, origin: str) -> None:
    assert Site(url).origin == origin
