"""Follows the redirects of an https address and checks each target, before git connects to it.

git could follow redirects itself, but would connect to any IP address that a name resolves to at that moment.
"""

import http.client
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from urllib.parse import urljoin

from app.analysis import network
from app.analysis.address import Address, AddressRefused, parse_url
from app.analysis.failures import AnalysisError
from app.analysis.network import IP, HostNotFound, Network

MAX_REDIRECTS = 5
CONNECT_TIMEOUT_SECONDS = 10.0  # per IP address
RESPONSE_TIMEOUT_SECONDS = 30.0  # from the connection to the end of the response headers
SERVICE = "/info/refs?service=git-upload-pack"
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"

REDIRECT_STATUSES = {301, 302, 303, 307, 308}
NOT_PUBLIC_STATUSES = {401, 403, 404, 410, 451}  # most servers send 401 or 404 for private repositories


def resolve_redirects(address: Address, allowed: Sequence[Network]) -> tuple[Address, list[IP]]:
    """Return the final address and its IP addresses, which are all allowed. Raises AnalysisError."""
    for _ in range(MAX_REDIRECTS + 1):
        addresses = _resolve(address, allowed)
        location = _request(address, addresses)
        if location is None:
            return address, addresses
        address = _redirect_target(address, location)
    raise AnalysisError("This address has too many redirects.", permanent=True)


def ca_file() -> str | None:
    """Return the path of the certificate authorities that the operator has configured, or None."""
    return os.environ.get("GIT_SSL_CAINFO") or os.environ.get("SSL_CERT_FILE") or None


def _resolve(address: Address, allowed: Sequence[Network]) -> list[IP]:
    try:
        return network.resolve_allowed(address.host, address.port, allowed)
    except HostNotFound:
        raise AnalysisError(f"The host name {address.host} can't be resolved.", permanent=False) from None
    except AddressRefused as refused:
        raise AnalysisError(str(refused), permanent=True) from None


def _redirect_target(address: Address, location: str) -> Address:
    try:
        target = urljoin(address.url + SERVICE, location)
        if not target.endswith(SERVICE):
            raise AddressRefused("redirect to a page, for example to the login")
        return parse_url(target.removesuffix(SERVICE))
    except ValueError:  # AddressRefused is a ValueError
        raise AnalysisError("This address redirects to one that is not a repository.", permanent=True) from None


def _request(address: Address, addresses: Sequence[IP]) -> str | None:
    """Request the refs of a repository. Return the location of a redirect, or None if there is a repository."""
    headers = {"User-Agent": "git/2 (RepoRadar)", "Accept": "*/*", "Git-Protocol": "version=2", "Connection": "close"}
    connection = http.client.HTTPSConnection(address.host, address.port)
    try:
        with _connect(address, addresses) as tls, _time_limit(tls):
            connection.sock = tls
            connection.request("GET", address.path + SERVICE, headers=headers)
            response = connection.getresponse()
            with response:
                return _check_response(response)
    except ssl.SSLCertVerificationError:
        raise AnalysisError("The certificate of the server is not valid.", permanent=True) from None
    except (OSError, http.client.HTTPException):
        raise AnalysisError("The server can't be reached or is not a web server.", permanent=False) from None


def _check_response(response: http.client.HTTPResponse) -> str | None:
    status = response.status
    if status in REDIRECT_STATUSES and (location := response.headers.get("Location")):
        return location
    if status in NOT_PUBLIC_STATUSES:
        raise AnalysisError("There is no public repository at this address.", permanent=True)
    if status != 200:
        raise AnalysisError(f"The server responded with an error ({status}).", permanent=status < 500 and status != 429)
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() != ADVERTISEMENT:
        raise AnalysisError("There is no git repository at this address.", permanent=True)
    return None


def _connect(address: Address, addresses: Sequence[IP]) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=ca_file())
    last_error: OSError = ConnectionError()
    for ip in addresses:
        try:
            connection = socket.create_connection((str(ip), address.port), timeout=CONNECT_TIMEOUT_SECONDS)
        except OSError as error:
            last_error = error
            continue
        try:
            return context.wrap_socket(connection, server_hostname=address.host)
        except BaseException:
            connection.close()
            raise
    raise last_error


@contextmanager
def _time_limit(tls: ssl.SSLSocket) -> Iterator[None]:
    """Limit the total time: the timeout of a socket does not stop a server that sends a byte now and then."""
    has_expired = threading.Event()

    def expire() -> None:
        has_expired.set()
        with suppress(OSError):
            tls.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(RESPONSE_TIMEOUT_SECONDS, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if has_expired.is_set():  # the response is incomplete
            raise AnalysisError("The server is too slow.", permanent=False)
