from __future__ import annotations

import pytest

from app.operations.doctor.proxy import _compare_addresses
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
