"""HTTP requests through the load balancer, over keep-alive connections and over fresh ones."""

import json
from collections import deque
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10.0


class NoResponse(Exception):
    pass


@dataclass(frozen=True)
class HttpResponse:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def instance(self) -> str:
        return self.headers.get("X-Instance-Id", "")

    @property
    def error(self) -> str:
        """The sender of an error response and its problem detail, or its status where there is none."""
        is_problem = self.headers.get_content_type() == "application/problem+json"
        return f"{self.instance or 'load balancer'}: {json.loads(self.body)['detail'] if is_problem else self.status}"

    @property
    def cookies(self) -> dict[str, str]:
        cookies = SimpleCookie("; ".join(self.headers.get_all("Set-Cookie", [])))
        return {name: morsel.value for name, morsel in cookies.items()}


class BalancerClient:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._netloc, self._path = parts.netloc, parts.path.rstrip("/")
        self._idle: deque[HTTPConnection] = deque()  # used in rotation, so that none is idle for long

    def get(self, path: str, cookie: str = "", *, fresh: bool = True) -> HttpResponse:
        return self.request("GET", path, cookie, fresh=fresh)

    def post(self, path: str, cookie: str = "", *, fresh: bool = True, **body: Any) -> HttpResponse:
        return self.request("POST", path, cookie, json.dumps(body).encode(), fresh=fresh)

    def request(self, method: str, path: str, cookie: str = "", body: bytes | None = None, *, fresh: bool = True) -> HttpResponse:
        """Send one request without any retry. Raise NoResponse."""
        connection = None if fresh or not self._idle else self._idle.popleft()
        connection = connection or self._connection(self._netloc, timeout=TIMEOUT_SECONDS)
        headers = {"Cookie": cookie} if cookie else {}
        headers |= {"Connection": "close"} if fresh else {}
        headers |= {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, self._path + path, body, headers)
            raw = connection.getresponse()
            response = HttpResponse(raw.status, raw.headers, raw.read())
        except (OSError, HTTPException) as error:
            connection.close()
            raise NoResponse(f"{type(error).__name__}: {error}") from None
        if fresh or raw.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return response

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
