"""Where an https address leads to: asked by ourselves, machine by machine, before git talks to anybody.

git would follow redirects by itself, but to whatever machine a name leads to at that moment.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import urljoin

from app.analysis import network
from app.analysis.address import Address, AddressRefused, parse
from app.analysis.failures import Failure
from app.analysis.network import IP, Network, Unresolvable

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0  # to one machine
ANSWER_SECONDS = 30.0  # from the connection to the end of the answer's headers
SERVICE = "/info/refs?service=git-upload-pack"
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"

REDIRECTS = {301, 302, 303, 307, 308}
MISSING = {401, 403, 404, 410, 451}  # who has no business there is told 401 or 404 by most


def find(address: Address, allowed: Sequence[Network]) -> tuple[Address, list[IP]]:
    """The address that redirects lead to in the end, and the machines there; each of them checked. Raises Failure."""
    for _ in range(MAX_REDIRECTS + 1):
        addresses = _machines(address, allowed)
        location = _ask(address, addresses)
        if location is None:
            return address, addresses
        address = _redirected(address, location)
    raise Failure("There are too many redirects at this address.", permanent=True)


def certificates() -> str | None:
    """Of authorities, if the operator has some of their own."""
    return os.environ.get("GIT_SSL_CAINFO") or os.environ.get("SSL_CERT_FILE") or None


def _machines(address: Address, allowed: Sequence[Network]) -> list[IP]:
    try:
        return network.check(address.host, address.port, allowed)
    except Unresolvable:
        raise Failure(f"The name of the server, {address.host}, can't be resolved.", permanent=False) from None
    except AddressRefused as refused:
        raise Failure(str(refused), permanent=True) from None


def _redirected(address: Address, location: str) -> Address:
    try:
        target = urljoin(address.url + SERVICE, location)
        if not target.endswith(SERVICE):
            raise AddressRefused("a page, such as the one to log in")
        return parse(target.removesuffix(SERVICE), roots=())
    except ValueError:  # AddressRefused is one
        raise Failure("This address leads on to one that is not that of a repository.", permanent=True) from None


def _ask(address: Address, addresses: Sequence[IP]) -> str | None:
    """Whether there is a repository: None, or where else to look. Raises Failure."""
    headers = {"User-Agent": "git/2 (RepoRadar)", "Accept": "*/*", "Git-Protocol": "version=2", "Connection": "close"}
    connection = http.client.HTTPSConnection(address.host, address.port)
    try:
        with _connect(address, addresses) as tls, _time_limit(tls):
            connection.sock = tls
            connection.request("GET", address.path + SERVICE, headers=headers)
            response = connection.getresponse()
            with response:
                return _judge(response.status, response.headers.get("Content-Type", ""), response.headers.get("Location", ""))
    except ssl.SSLCertVerificationError:
        raise Failure("The certificate of the server is not valid.", permanent=True) from None
    except (OSError, http.client.HTTPException):
        raise Failure("The server can't be reached, or does not answer as one.", permanent=False) from None


def _judge(status: int, content_type: str, location: str) -> str | None:
    if status in REDIRECTS and location:
        return location
    if status in MISSING:
        raise Failure("There is no public repository at this address.", permanent=True)
    if status != 200:
        raise Failure(f"The server answers with an error ({status}).", permanent=status < 500 and status != 429)
    if content_type.partition(";")[0].strip().lower() != ADVERTISEMENT:
        raise Failure("There is no git repository at this address.", permanent=True)
    return None


def _connect(address: Address, addresses: Sequence[IP]) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=certificates())
    problem: OSError = ConnectionError()
    for ip in addresses:
        try:
            plain = socket.create_connection((str(ip), address.port), timeout=CONNECT_SECONDS)
        except OSError as error:
            problem = error
            continue
        try:
            return context.wrap_socket(plain, server_hostname=address.host)
        except BaseException:
            plain.close()
            raise
    raise problem


@contextmanager
def _time_limit(tls: ssl.SSLSocket) -> Iterator[None]:
    """For all of it together: one who sends a byte now and then meets no time limit of the socket's."""
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        with suppress(OSError):
            tls.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(ANSWER_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if is_over.is_set():  # what was read until then means nothing
            raise Failure("The server is too slow.", permanent=False)
