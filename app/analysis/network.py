"""Decides which IP addresses may be connected to: public ones, and those in networks that the operator allows."""

import socket
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from app.analysis.address import Address, AddressRefused

IP = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

RESOLVE_TIMEOUT_SECONDS = 2.0  # the time that a request to add a repository waits for DNS
MAX_CONCURRENT_LOOKUPS = 4  # by `refuse_private`
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")  # all public addresses
_RELAY_NETWORKS = IPv4Network("192.88.99.0/24"), IPv4Network("192.0.0.0/24")  # used by protocols, not by servers


class HostNotFound(Exception):
    pass


def resolve(host: str, port: int) -> list[IP]:
    """Raises HostNotFound."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise HostNotFound from None
    return list(dict.fromkeys(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def resolve_allowed(host: str, port: int, allowed: Sequence[Network]) -> list[IP]:
    """Return the IP addresses of a host. Raises AddressRefused if one of them is not allowed, and HostNotFound."""
    addresses = resolve(host, port)
    _refuse_any(addresses, allowed)
    return addresses


def _refuse_any(addresses: Sequence[IP], allowed: Sequence[Network]) -> None:
    if not all(is_allowed(address, allowed) for address in addresses):
        raise AddressRefused("This address is in a private network, which is not allowed.")


_lookups = threading.BoundedSemaphore(MAX_CONCURRENT_LOOKUPS)


def refuse_private(address: Address, allowed: Sequence[Network]) -> None:
    """Refuse private addresses as far as DNS answers quickly. All addresses are checked again when they are fetched."""
    if address.is_local:
        return
    if ip := _parse_ip(address.host):
        _refuse_any([ip], allowed)
        return
    refusals: list[AddressRefused] = []

    def look_up() -> None:
        try:
            resolve_allowed(address.host, address.port, allowed)
        except AddressRefused as refused:
            refusals.append(refused)
        except HostNotFound:
            pass
        finally:
            _lookups.release()

    # A DNS server that hangs must not occupy all of gevent's ten resolver threads.
    if not _lookups.acquire(blocking=False):
        return
    # A lookup can't be cancelled, but a thread (a greenlet under gevent) can be abandoned.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(RESOLVE_TIMEOUT_SECONDS)
    for refusal in refusals:
        raise refusal


def _parse_ip(host: str) -> IP | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_allowed(address: IP, allowed: Sequence[Network]) -> bool:
    if any(address in network for network in allowed):
        return True
    if isinstance(address, IPv4Address):
        is_server = not (address.is_multicast or address.is_reserved or any(address in network for network in _RELAY_NETWORKS))
        return address.is_global and is_server
    embedded = _embedded_ipv4(address)
    if embedded is not None:
        return is_allowed(embedded, allowed)
    return address.is_global and address in _UNICAST


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that is reached through an IPv6 address of NAT64, 6to4, Teredo or a mapped one."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1]) or None
