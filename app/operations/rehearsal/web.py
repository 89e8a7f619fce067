"""Requests through the balancer, over connections that are kept and over fresh ones."""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 10.0


class NoAnswer(Exception):
    pass


@dataclass(frozen=True)
class Answer:
    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def instance(self) -> str:
        return self.headers.get("X-Instance-Id", "")

    @property
    def complaint(self) -> str:
        """Of a refusal: who says what."""
        problem = self.headers.get_content_type() == "application/problem+json"
        return f"{self.instance or 'the balancer'}: {json.loads(self.body)['detail'] if problem else self.status}"

    @property
    def cookies(self) -> dict[str, str]:
        cookies = SimpleCookie("; ".join(self.headers.get_all("Set-Cookie", [])))
        return {name: morsel.value for name, morsel in cookies.items()}


class Web:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._netloc, self._path = parts.netloc, parts.path.rstrip("/")
        self._idle: deque[HTTPConnection] = deque()  # the longest idle first, so that none is idle for long

    def get(self, path: str, cookie: str = "", *, fresh: bool = True) -> Answer:
        return self.ask("GET", path, cookie, fresh=fresh)

    def post(self, path: str, cookie: str = "", *, fresh: bool = True, **body: Any) -> Answer:
        return self.ask("POST", path, cookie, json.dumps(body).encode(), fresh=fresh)

    def ask(self, method: str, path: str, cookie: str = "", body: bytes | None = None, *, fresh: bool = True) -> Answer:
        """Raises NoAnswer. Nothing is tried again, on whichever connection."""
        connection = None if fresh or not self._idle else self._idle.popleft()
        connection = connection or self._connection(self._netloc, timeout=TIMEOUT_SECONDS)
        headers = {"Cookie": cookie} if cookie else {}
        headers |= {"Connection": "close"} if fresh else {}
        headers |= {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, self._path + path, body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        except (OSError, HTTPException) as error:
            connection.close()
            raise NoAnswer(f"{type(error).__name__}: {error}") from None
        if fresh or response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
