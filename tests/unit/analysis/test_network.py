from __future__ import annotations

import socket
import threading
import time
from ipaddress import ip_address, ip_network

import pytest

from app.analysis import network
from app.analysis.address import Address, AddressRefused, parse
from app.analysis.network import HostNotFound, is_allowed, refuse_private, resolve_allowed

ADDRESS = parse("https://git.example/a/b", roots=())


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def answer(host: str, port: int, **_: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "140.82.121.4", "2606:4700::1111", "2002:0101:0101::1", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_public_address_is_allowed(text: str) -> None:
    assert is_allowed(ip_address(text), [])


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0",  # noqa: S104 - not a listener
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff0e::1",
    ],
)
def test_other_address_is_allowed_only_by_configuration(text: str) -> None:
    assert not is_allowed(ip_address(text), [])
    assert is_allowed(ip_address(text), [ip_network("0.0.0.0/0"), ip_network("::/0")])


def test_the_operator_allows_a_network_and_no_more() -> None:
    allowed = [ip_network("10.1.0.0/16")]
    assert is_allowed(ip_address("10.1.2.3"), allowed)
    assert is_allowed(ip_address("::ffff:10.1.2.3"), allowed)
    assert not is_allowed(ip_address("10.2.0.1"), allowed)
    assert not is_allowed(ip_address("::1"), allowed)


def test_one_private_address_among_many_refuses_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "1.1.1.1", "2606:4700::1111")
    assert [str(found) for found in resolve_allowed("git.example", 443, [])] == ["1.1.1.1", "2606:4700::1111"]
    resolve_to(monkeypatch, "1.1.1.1", "2606:4700::1111", "192.168.1.1")
    with pytest.raises(AddressRefused, match="private network"):
        resolve_allowed("git.example", 443, [])
    assert len(resolve_allowed("git.example", 443, [ip_network("192.168.0.0/16")])) == 3


def test_addresses_are_given_once_and_without_their_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "fe80::1%eth0", "fe80::1%eth1")
    assert network.resolve("git.example", 443) == [ip_address("fe80::1")]


def test_unknown_host_name() -> None:
    with pytest.raises(HostNotFound):
        resolve_allowed("git.test.invalid", 443, [])


def test_name_of_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.1")
    with pytest.raises(AddressRefused, match="private network"):
        refuse_private(ADDRESS, [])
    refuse_private(ADDRESS, [ip_network("127.0.0.0/8")])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254", "localhost"])
def test_literal_private_address_is_refused(host: str) -> None:
    with pytest.raises(AddressRefused, match="private network"):
        refuse_private(parse(f"https://{host}/a/b", roots=()), [])


def test_unknown_host_and_dns_timeout_are_not_refused_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_private(parse("https://git.test.invalid/a/b", roots=()), [])

    waiting = threading.Event()
    monkeypatch.setattr(network, "RESOLVE_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: waiting.wait(60) and [])
    start = time.monotonic()
    refuse_private(ADDRESS, [])
    assert time.monotonic() - start < 30
    waiting.set()


def test_hanging_lookups_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, started = threading.Event(), []

    def hang(*_: object, **__: object) -> list[object]:
        started.append(1)
        waiting.wait(60)
        return []

    monkeypatch.setattr(network, "RESOLVE_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    for _ in range(network.MAX_CONCURRENT_LOOKUPS + 3):
        refuse_private(ADDRESS, [])
    assert len(started) == network.MAX_CONCURRENT_LOOKUPS
    with pytest.raises(AddressRefused):  # literal addresses need no lookup
        refuse_private(parse("https://127.0.0.1/a/b", roots=()), [])
    waiting.set()
    for _ in range(network.MAX_CONCURRENT_LOOKUPS):
        assert network._lookups.acquire(timeout=60)
    network._lookups.release(network.MAX_CONCURRENT_LOOKUPS)


def test_local_repository_needs_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    refuse_private(Address("/srv/git/a", "a"), [])
