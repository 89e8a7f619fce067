"""Webhooks of the Standard Webhooks specification: signed POST requests to an address that a user has entered.

An address leads to public servers only. Its name is resolved and checked for each request, and the connection goes to exactly the
addresses that were checked. Redirects are not followed.
"""

import base64
import hashlib
import hmac
import http.client
import io
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import urlsplit

from app.analysis import network
from app.analysis.address import Address, AddressRefused
from app.analysis.network import IP, HostNotFound, Network
from app.core.errors import Invalid
from app.core.version import VERSION

SECRET_PREFIX = "whsec_"  # noqa: S105
SECRET_BYTES = 32
MAX_URL_LENGTH = 2000
MAX_RESPONSE_BYTES = 64 * 1024
RESOLVE_TIMEOUT_SECONDS = 5.0
TIME_LIMIT_SECONDS = 10.0  # from the connection to the end of the response
MAX_ADDRESSES = 4  # of a host, that are tried
GONE = 410  # the receiver wants no more messages


@dataclass(frozen=True)
class Outcome:
    """The result of an attempt. Without an error, the receiver has accepted the message."""

    status: int | None = None
    error: str | None = None
    is_permanent: bool = False  # another attempt would fail too


def create_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature` (scheme `v1`: HMAC-SHA256)."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def parse(url: str) -> Address:
    """Parse the address of a webhook. Raises Invalid."""
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port or 443
    except (ValueError, UnicodeError):
        raise _refusal("This is not an address.") from None
    if parts.scheme != "https":
        raise _refusal("The address must begin with https://.")
    if not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:.]+", host) or parts.username is not None or len(url) > MAX_URL_LENGTH:
        raise _refusal("The address must have a host name and no user name, as in https://hooks.example.org/services/1.")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise _refusal("The address must not contain spaces or other characters than ASCII. Encode them, as in %20.")
    return Address(url.partition("#")[0], host, host, port)


def refuse_private(address: Address, allowed: Sequence[Network]) -> None:
    """Refuse an address in a private network, as far as DNS answers quickly. It is checked again before each connection.

    Raises Invalid.
    """
    try:
        network.refuse_private(address, allowed)
    except AddressRefused as refused:
        raise _refusal(str(refused)) from None


def _refusal(text: str) -> Invalid:
    return Invalid.field("url", text)


class WebhookClient:
    def __init__(self, allowed_networks: Sequence[Network], ca_file: str | None) -> None:
        self._allowed = allowed_networks
        self._ca_file = ca_file

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()  # takes long, so only when there is a webhook
        if self._ca_file:
            context.load_verify_locations(self._ca_file)
        return context

    def post(self, url: str, secret: str, message_id: str, body: bytes) -> Outcome:
        """Send a message and return the outcome within 15 seconds. Blocks only the calling thread or greenlet."""
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"RepoRadar/{VERSION} (webhook)",
            "Connection": "close",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secret, message_id, timestamp, body),
        }
        try:
            address = parse(url)
            return _judge(self._exchange(address, _resolve(address, self._allowed), headers, body))
        except Invalid as invalid:
            return Outcome(error=invalid.detail)
        except AddressRefused as refused:
            return Outcome(error=str(refused))
        except HostNotFound:
            return Outcome(error=f"The host name {address.host} can't be resolved.")
        except ssl.SSLCertVerificationError:
            return Outcome(error="The certificate of the server is not valid.")
        except TimeoutError:
            return Outcome(error=f"The server did not respond within {TIME_LIMIT_SECONDS:.0f} seconds.")
        except OSError:
            return Outcome(error="The server can't be reached.")
        except http.client.HTTPException:
            return Outcome(error="The server sent no valid response.")

    def _exchange(self, address: Address, addresses: Sequence[IP], headers: dict[str, str], body: bytes) -> int:
        """Send the request and return the status of the response. Raises OSError and HTTPException."""
        parts = urlsplit(address.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(address.host, address.port)
        connection.default_port = 443  # the port is part of the header Host only if it is another one
        with _time_limit() as limit, _close_all(limit):
            connection.sock = limited = _LimitedSocket(limit.connect(address, addresses, self._tls))
            connection.request("POST", target, body, headers)
            response = connection.getresponse()
            if limit.has_expired or limited.is_exhausted:  # http.client takes the end of the input for the end of the headers
                raise http.client.HTTPException
            with suppress(OSError, http.client.HTTPException):  # what follows the status does not matter
                response.read(MAX_RESPONSE_BYTES)
            return response.status


def _resolve(address: Address, allowed: Sequence[Network]) -> list[IP]:
    """Return the addresses of a host, which are all allowed. Raises AddressRefused, HostNotFound and TimeoutError."""
    results: list[list[IP] | Exception] = []

    def look_up() -> None:
        try:
            results.append(network.resolve_allowed(address.host, address.port, allowed))
        except (AddressRefused, HostNotFound) as error:
            results.append(error)

    # A lookup can't be cancelled, but a thread (a greenlet under gevent) can be abandoned.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(RESOLVE_TIMEOUT_SECONDS)
    if not results:
        raise TimeoutError
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0][:MAX_ADDRESSES]


def _judge(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(status)
    if 300 <= status < 400:
        return Outcome(status, "The server redirects to another address. Redirects are not followed.")
    if status == GONE:
        return Outcome(status, "The server wants no more messages (410).", is_permanent=True)
    return Outcome(status, f"The server responded with an error ({status}).")


class _TimeLimit:
    """Limits a whole exchange: the timeout of a socket does not stop a server that sends a byte now and then."""

    def __init__(self) -> None:
        self._deadline = time.monotonic() + TIME_LIMIT_SECONDS
        self.socket: socket.socket | None = None

    @property
    def remaining_seconds(self) -> float:
        return self._deadline - time.monotonic()

    @property
    def has_expired(self) -> bool:
        return self.remaining_seconds <= 0

    def connect(self, address: Address, addresses: Sequence[IP], tls: ssl.SSLContext) -> ssl.SSLSocket:
        last_error: OSError = ConnectionError()
        for ip in addresses:
            try:
                self.socket = socket.create_connection((str(ip), address.port), timeout=max(self.remaining_seconds, 0.01))
            except OSError as error:
                last_error = error
                continue
            self.socket = tls.wrap_socket(self.socket, server_hostname=address.host, do_handshake_on_connect=False)
            self.socket.do_handshake()
            return self.socket
        raise last_error

    def expire(self) -> None:
        if self.socket:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def _time_limit() -> Iterator[_TimeLimit]:
    """Limit the time of the block. Raises TimeoutError when it is over, in place of the errors that follow from that."""
    limit = _TimeLimit()
    timer = threading.Timer(TIME_LIMIT_SECONDS, limit.expire)
    timer.daemon = True
    timer.start()
    try:
        yield limit
    except (OSError, http.client.HTTPException):
        if limit.has_expired:
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()


@contextmanager
def _close_all(limit: _TimeLimit) -> Iterator[None]:
    try:
        yield
    finally:
        if limit.socket:
            limit.socket.close()


class _LimitedSocket:
    """The parts of a socket that http.client uses. Its response ends after MAX_RESPONSE_BYTES."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self._reader = _LimitedReader(connection)

    @property
    def is_exhausted(self) -> bool:
        return self._reader.remaining == 0

    def sendall(self, content: bytes) -> None:
        self._connection.sendall(content)

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._reader)

    def close(self) -> None:
        """Do nothing: http.client closes the socket when the response has begun, and the rest is read later."""


class _LimitedReader(io.RawIOBase):
    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._connection = connection
        self.remaining = MAX_RESPONSE_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # a writable buffer
        view = memoryview(buffer)[: self.remaining]
        count = self._connection.recv_into(view) if view else 0
        self.remaining -= count
        return count
