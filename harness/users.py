"""A user of the API, with the cookies of a browser."""

from __future__ import annotations

import secrets
import weakref
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Protocol

import httpx

from harness import web
from harness.processes import PATIENCE_SECONDS

PASSWORD = "correct horse battery"


class Reachable(Protocol):
    @property
    def url(self) -> str: ...


def client_without_cookies(timeout: float = PATIENCE_SECONDS) -> httpx.Client:
    """Return an HTTP client that stores no cookies, so that many users can share it."""
    forgetful = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return web.client(cookies=forgetful, timeout=timeout)


class User:
    """A user whose requests go to the given instances in turn, with the same cookies."""

    def __init__(self, *instances: Reachable, timeout: float = PATIENCE_SECONDS) -> None:
        self.instances = list(instances)
        self.email = f"user-{secrets.token_hex(6)}@example.org"
        self.client = web.client(timeout=timeout)
        weakref.finalize(self, self.client.close)
        self._turn = 0

    def register(self) -> User:
        assert self.post("/api/auth/register", email=self.email, password=PASSWORD).status_code == 201
        return self

    def log_in(self, password: str = PASSWORD) -> httpx.Response:
        return self.post("/api/auth/login", email=self.email, password=password)

    def is_signed_in(self) -> bool:
        status = self.get("/api/auth/me").status_code
        assert status in (200, 401), status
        return status == 200

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.request("POST", path, json=body)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request to the next instance."""
        self._turn += 1
        instance = self.instances[self._turn % len(self.instances)]
        return self.client.request(method, instance.url + path, **options)

    @property
    def cookie(self) -> str:
        return self.client.cookies["reporadar_session"]

    @property
    def cookie_header(self) -> str:
        """The value of a `Cookie` header that carries the session."""
        return f"reporadar_session={self.cookie}"
