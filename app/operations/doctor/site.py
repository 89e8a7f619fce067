"""One of the given addresses, an instance or what stands in front of several: asked by HTTP, as a program would."""

from __future__ import annotations

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

from app.operations.doctor.findings import in_words

T = TypeVar("T")

CONNECT_SECONDS, READ_SECONDS = 3.0, 5.0
NAME_SECONDS = 5.0
# On one machine all have the address 127.0.0.1, a proxy too. Linux gives us more of them to be told apart by.
OWN_LOOPBACK = "127.0.0.77"


class Unreachable(Exception):
    """With the reason in words."""


@dataclass
class Site:
    url: str
    instances: set[str] = field(default_factory=set)  # that have answered here
    server: str = ""  # as it calls itself
    is_proxied: bool = False
    own_address: str = ""  # from which we ask

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def origin(self) -> str:
        """As a browser writes it: without the port that goes without saying."""
        return re.sub(r"^(http://.*):80$|^(https://.*):443$", r"\1\2", self.url)

    def find(self) -> None:
        """Looks up the name, which can't be given a time limit otherwise, and learns from where we ask. Raises Unreachable."""
        port = urlsplit(self.url).port or (443 if self.scheme == "https" else 80)
        found = within(NAME_SECONDS, lambda: socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM))
        for family, _, _, _, peer in found:
            try:
                self.own_address = _own_address(family, peer)
            except OSError as error:
                failure = error
            else:
                return
        raise Unreachable(in_words(failure))

    def get(self, path: str, **headers: str) -> requests.Response:
        return self._ask("GET", path, headers)

    def post(self, path: str, body: Any = None, **headers: str) -> requests.Response:
        return self._ask("POST", path, headers, body)

    def _ask(self, method: str, path: str, headers: Mapping[str, str], body: Any = None) -> requests.Response:
        """On a connection of its own, so that a balancer chooses anew. Raises Unreachable."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with session(self.own_address) as http:
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
                raise Unreachable(in_words(error)) from None
        if instance_id := response.headers.get("X-Instance-Id"):
            self.instances.add(instance_id)
        return response


def session(own_address: str = "") -> requests.Session:
    """Without cookies of its own, and without the proxies of the environment; its authorities are those of REQUESTS_CA_BUNDLE."""
    http = requests.Session()
    http.trust_env = False
    http.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or True
    http.cookies = _forgetful()
    if own_address == OWN_LOOPBACK:
        http.mount("http://", _From(own_address))
        http.mount("https://", _From(own_address))
    return http


def within(seconds: float, work: Callable[[], T]) -> T:
    """The result of what can't be interrupted; after so many seconds it is left to itself. Raises Unreachable."""
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
        raise Unreachable("its name was not found out in time")
    if isinstance(outcome[0], BaseException):
        raise Unreachable(in_words(outcome[0]))
    return outcome[0]


def _own_address(family: int, peer: Any) -> str:
    """From which a connection to the peer comes."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_SECONDS)
        if str(peer[0]).startswith("127."):
            with suppress(OSError):
                probe.bind((OWN_LOOPBACK, 0))
        probe.connect(peer)
        return str(probe.getsockname()[0])


def _forgetful() -> RequestsCookieJar:
    jar = RequestsCookieJar()
    CookieJar.set_policy(jar, DefaultCookiePolicy(allowed_domains=[]))
    return jar


class _From(HTTPAdapter):
    """Connects from a certain address of this machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, source_address=(self._address, 0), **options)
