"""HTTP requests to one of the given addresses: an instance, or the balancer in front of several."""

import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar

from app.operations.doctor.findings import describe_error

T = TypeVar("T")

CONNECT_SECONDS, READ_SECONDS = 3.0, 5.0
LOOKUP_SECONDS = 5.0
# On one machine a proxy connects from 127.0.0.1. This address distinguishes the doctor from it; Linux accepts all of 127.0.0.0/8.
OWN_LOOPBACK = "127.0.0.77"


class Unreachable(Exception):
    """The message is the reason, for people."""


@dataclass
class Site:
    url: str
    instances: set[str] = field(default_factory=set)  # seen in responses from here
    server: str = ""  # the Server header
    is_proxied: bool = False
    own_address: str = ""  # the client address of the doctor

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def origin(self) -> str:
        """The origin as browsers send it, without a default port."""
        return re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", self.url)

    def resolve(self) -> None:
        """Look up the name with a timeout and find out the own client address. Raises Unreachable."""
        port = urlsplit(self.url).port or (443 if self.scheme == "https" else 80)
        addresses = within(LOOKUP_SECONDS, lambda: socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM))
        for family, _, _, _, peer in addresses:
            try:
                self.own_address = _own_address(family, peer)
            except OSError as error:
                failure = error
            else:
                return
        raise Unreachable(describe_error(failure))

    def get(self, path: str, **headers: str) -> requests.Response:
        return self._request("GET", path, headers)

    def post(self, path: str, body: Any = None, **headers: str) -> requests.Response:
        return self._request("POST", path, headers, body)

    def _request(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> requests.Response:
        """Send a request on a new connection, so that a balancer chooses an instance again. Raises Unreachable."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with http_session(self.own_address) as http:
            try:
                response = http.request(
                    method,
                    self.url + path,
                    json=body,
                    headers={"Connection": "close", "User-Agent": "RepoRadar doctor", **named},
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                raise Unreachable(describe_error(error)) from None
        if instance_id := response.headers.get("X-Instance-Id"):
            self.instances.add(instance_id)
        return response


def http_session(own_address: str = "") -> requests.Session:
    """Return a session without stored cookies or proxies of the environment. REQUESTS_CA_BUNDLE names the trusted authorities."""
    http = requests.Session()
    http.trust_env = False
    http.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
    http.cookies = _rejecting_cookie_jar()
    if own_address == OWN_LOOPBACK:
        http.mount("http://", _SourceAddressAdapter(own_address))
        http.mount("https://", _SourceAddressAdapter(own_address))
    return http


def within(seconds: float, work: Callable[[], T]) -> T:
    """Run work that can't be interrupted, in a thread that is abandoned after the timeout. Raises Unreachable."""
    outcome: list[T | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise Unreachable("the DNS lookup timed out")
    if isinstance(outcome[0], BaseException):
        raise Unreachable(describe_error(outcome[0]))
    return outcome[0]


def _own_address(family: int, peer: Any) -> str:
    """Return the address from which a connection to the peer comes."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_SECONDS)
        if str(peer[0]).startswith("127."):
            with suppress(OSError):
                probe.bind((OWN_LOOPBACK, 0))
        probe.connect(peer)
        return str(probe.getsockname()[0])


def _rejecting_cookie_jar() -> RequestsCookieJar:
    jar = RequestsCookieJar()
    CookieJar.set_policy(jar, DefaultCookiePolicy(allowed_domains=[]))
    return jar


class _SourceAddressAdapter(HTTPAdapter):
    """Connects from the given address of this machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, source_address=(self._address, 0), **options)
