"""An https server that receives webhooks and keeps them. It can be slow or hostile, with the answers of `harness.git_server`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.git_server import GitServer, Handler
from harness.processes import PATIENCE_SECONDS, wait_until

NAMES = ("localhost", "127.0.0.1")


@dataclass
class Received:
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    def is_signed_with(self, secret: str) -> bool:
        """Verify the signature as the documentation explains it, without the code of the application."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        return hmac.compare_digest(expected, self.headers["webhook-signature"])


@dataclass
class Inbox:
    received: list[Received] = field(default_factory=list)
    status: int = 200
    before_reply: Callable[[Received], None] = lambda _: None


class WebhookReceiver(GitServer):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder, NAMES)
        self.inbox = Inbox()
        self.answers["/hook"] = self._keep

    def address(self, path: str = "hook") -> str:
        return self.url(path, "127.0.0.1")

    @property
    def received(self) -> list[Received]:
        return self.inbox.received

    @property
    def environment(self) -> dict[str, str]:
        return {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8", "WEBHOOK_CA_FILE": str(self.authority)}

    def wait_for(self, count: int, timeout: float = PATIENCE_SECONDS) -> list[Received]:
        wait_until(lambda: len(self.received) >= count, timeout=timeout, what=f"{count} webhooks")
        return self.received

    def _keep(self, handler: Handler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        received = Received(handler.path, {name.lower(): value for name, value in handler.headers.items()}, body)
        self.inbox.received.append(received)
        self.inbox.before_reply(received)
        handler.reply(self.inbox.status)
