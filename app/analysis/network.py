"""Which machines may be talked to: none that are not part of the public internet, unless the operator allows their network."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as ResolverTimeout
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from app.analysis.address import Address, AddressRefused

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RESOLVE_SECONDS = 2.0
_NAT64 = IPv6Network("64:ff9b::/96")


class Unresolvable(Exception):
    pass


def resolve(host: str, port: int) -> list[IP]:
    """Raises Unresolvable."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unresolvable from None
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def check(host: str, port: int, allowed: Sequence[Network]) -> list[IP]:
    """The addresses of a host, if all of them may be talked to. Raises AddressRefused, Unresolvable."""
    addresses = resolve(host, port)
    if not all(is_allowed(address, allowed) for address in addresses):
        raise AddressRefused("This address leads into a private network, which is not fetched from.")
    return addresses


def refuse_private(address: Address, allowed: Sequence[Network]) -> None:
    """Raises AddressRefused as far as that can be told quickly; what can't be, is told when it is fetched."""
    if address.is_local:
        return
    resolver = ThreadPoolExecutor(1)
    try:
        resolver.submit(check, address.host, address.port, allowed).result(RESOLVE_SECONDS)
    except (Unresolvable, ResolverTimeout):
        return
    finally:
        resolver.shutdown(wait=False)


def is_allowed(address: IP, allowed: Sequence[Network]) -> bool:
    if any(address in network for network in allowed):
        return True
    embedded = _embedded(address)
    if embedded is not None:
        return is_allowed(embedded, allowed)
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: IP) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1]) or None
