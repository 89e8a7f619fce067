"""Prints the notifications of a user as they arrive, each once and in order.

    pip install "python-socketio[client]"
    REPORADAR_URL=https://radar.example.org REPORADAR_EMAIL=ada@example.org REPORADAR_PASSWORD=... python notifications.py

The number of the last notification is kept in the file `last-notification`, so the next start continues there. The first start
prints new ones only. The program ends with status 1 when its session ends.
"""

import os
import queue
import sys
from collections.abc import Callable
from pathlib import Path

import requests
import socketio

LAST = Path("last-notification")
REQUEST_SECONDS = 30


def sign_in(url: str, email: str, password: str) -> requests.Session:
    """Return an HTTP session that has the session cookie."""
    http = requests.Session()
    response = http.post(f"{url}/api/auth/login", json={"email": email, "password": password}, timeout=REQUEST_SECONDS)
    response.raise_for_status()
    return http


class Notifications:
    """Receives the notifications after the number `after`; None: from now on. `show` is called for each."""

    def __init__(self, url: str, http: requests.Session, after: int | None, show: Callable[[dict], None]) -> None:
        self.url = url
        self.http = http
        self.after = self._get()["head"] if after is None else after
        self.show = show
        # The library calls each handler in a thread of its own, so one event can overtake another. Only `run` processes them.
        self.events: queue.Queue[tuple[str, dict]] = queue.Queue()

    def run(self) -> str:
        """Receive notifications until the session ends. Return the reason."""
        # The client takes the cookie from the HTTP session. If you pass a `Cookie` header instead, let `headers` be a function
        # that returns a new dictionary: the client removes the cookie from the one that it gets, and would reconnect without it.
        client = socketio.Client(http_session=self.http)
        for event in ("notification", "ready", "head", "draining", "session_ended", "connect_error"):
            client.on(event, lambda data, event=event: self.events.put((event, data)))
        client.connect(
            self.url,
            auth=lambda: {"after": self.after},  # a function, because it is called for each connection
            transports=["websocket"],  # also works where the balancer does not route requests of one socket to one instance
            wait_timeout=10,  # the default gives up on a server that does not accept the connection within 1 s
            retry=True,
        )
        try:
            while True:
                event, data = self.events.get()
                if event == "session_ended":
                    return data["reason"]
                if event == "connect_error" and isinstance(data, dict) and data.get("message") == "unauthorized":
                    return "unauthorized"
                self._process(event, data)
        finally:
            client.shutdown()

    def _process(self, event: str, data: dict) -> None:
        try:
            if event == "notification" and data["seq"] == self.after + 1:
                self._take(data)
            elif event == "notification":
                self._catch_up(data["seq"])
            elif event in ("ready", "head"):
                self._catch_up(data["head"])
            else:  # The client connects again by itself, after `draining` to another instance.
                print(f"{event}: {data}", file=sys.stderr)
        except requests.RequestException as error:  # the next event `head` leads here again
            print(f"cannot get notifications: {error}", file=sys.stderr)

    def _take(self, notification: dict) -> None:
        self.show(notification)
        self.after = notification["seq"]

    def _catch_up(self, head: int) -> None:
        """Get the notifications up to `head` over HTTP, if there are any that the socket has not brought."""
        while self.after < head:
            items = self._get(after=self.after, limit=100)["items"]
            for notification in items:
                self._take(notification)
            if not items:  # they are no longer stored
                self.after = head

    def _get(self, **query: int) -> dict:
        response = self.http.get(f"{self.url}/api/notifications", params=query, timeout=REQUEST_SECONDS)
        response.raise_for_status()
        return response.json()


def show(notification: dict) -> None:
    print(notification["seq"], notification["type"], notification["title"], flush=True)
    LAST.write_text(str(notification["seq"]))


def main() -> None:
    url = os.environ["REPORADAR_URL"].rstrip("/")
    http = sign_in(url, os.environ["REPORADAR_EMAIL"], os.environ["REPORADAR_PASSWORD"])
    after = int(LAST.read_text()) if LAST.exists() else None
    sys.exit(f"The session has ended: {Notifications(url, http, after, show).run()}")


if __name__ == "__main__":
    main()
