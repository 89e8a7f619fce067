"""Which machines may be talked to: none that are not part of the public internet, unless the operator allows their network."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from app.analysis.address import Address, AddressRefused

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RESOLVE_SECONDS = 2.0  # that somebody who adds a repository waits for a name server
MAX_LOOK_UPS = 4  # at once, in the way of `refuse_private`
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")  # all that is given out to the public internet
_RELAYS = IPv4Network("192.88.99.0/24"), IPv4Network("192.0.0.0/24")  # of protocols, not of anybody's servers


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
    _refuse_any(addresses, allowed)
    return addresses


def _refuse_any(addresses: Sequence[IP], allowed: Sequence[Network]) -> None:
    if not all(is_allowed(address, allowed) for address in addresses):
        raise AddressRefused("This address leads into a private network, which is not fetched from.")


_look_ups = threading.BoundedSemaphore(MAX_LOOK_UPS)


def refuse_private(address: Address, allowed: Sequence[Network]) -> None:
    """Raises AddressRefused as far as that can be told quickly; what can't be, is told when it is fetched."""
    if address.is_local:
        return
    if written_out := _written_out(address.host):
        _refuse_any([written_out], allowed)
        return
    refusals: list[AddressRefused] = []

    def look() -> None:
        try:
            check(address.host, address.port, allowed)
        except AddressRefused as refused:
            refusals.append(refused)
        except Unresolvable:
            pass
        finally:
            _look_ups.release()

    # A name server that hangs must not take all of gevent's resolver threads, which are ten.
    if not _look_ups.acquire(blocking=False):
        return
    # Nothing can end a look-up; a thread can be left alone with it, and gevent makes a greenlet of it.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(RESOLVE_SECONDS)
    for refusal in refusals:
        raise refusal


def _written_out(host: str) -> IP | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_allowed(address: IP, allowed: Sequence[Network]) -> bool:
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv4Address):
        is_server = not (address.is_multicast or address.is_reserved or any(address in network for network in _RELAYS))
        return address.is_global and is_server
    embedded = _embedded(address)
    if embedded is not None:
        return is_allowed(embedded, allowed)
    return address.is_global and address in _UNICAST


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 one leads to."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1]) or None
