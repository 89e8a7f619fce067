from __future__ import annotations

from types import SimpleNamespace

import pytest

from app.operations.doctor.findings import Finding
from app.operations.doctor.proxy import _compare_addresses, _origins
from app.operations.doctor.site import Site


@pytest.mark.parametrize(
    ("own", "seen", "status"),
    [
        ("127.0.0.77", "127.0.0.77", "ok"),
        ("127.0.0.77", "127.0.0.1", "fail"),
        ("127.0.0.77", "172.18.0.1", "warn"),  # the published port of a container
        ("10.0.0.5", "10.0.0.9", "fail"),
        ("192.168.1.5", "8.8.8.8", "warn"),  # a router, or a proxy in the internet
        ("10.0.0.5", "invalid", "fail"),
        ("", "10.0.0.9", "ok"),
    ],
)
def test_client_address_is_compared_with_our_own(own: str, seen: str, status: str) -> None:
    assert _compare_addresses(Site("http://x", own_address=own), seen, 1).status == status


def test_refused_host_is_the_only_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Site, "post", lambda *_, **__: SimpleNamespace(status_code=400, ok=False))
    (found,) = _origins(Site("http://app.example:8080"))
    assert found == Finding(
        "fail", "http://app.example:8080: requests for this host are refused", "Add app.example to TRUSTED_HOSTS"
    )
