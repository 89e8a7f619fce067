"""A mail server that keeps the messages it receives."""

from __future__ import annotations

import ssl
from email import message_from_bytes, policy
from email.message import EmailMessage
from types import TracebackType
from typing import Any, Self, cast

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from harness.processes import PATIENCE_SECONDS, free_port, wait_until

USER, PASSWORD = "radar@example.org", "p/w:@ 1"
LOGIN = "radar%40example.org:p%2Fw%3A%40%201"  # the same in SMTP_URL
REFUSED = "refused@example.org"


class _Controller(Controller):
    """Serves TLS from the beginning, or STARTTLS, or neither."""

    def __init__(self, handler: MailServer, port: int, tls: ssl.SSLContext | None, *, starttls: bool, needs_login: bool) -> None:
        options: dict[str, Any] = {"auth_required": needs_login, "auth_require_tls": needs_login and starttls}
        if needs_login:
            options["authenticator"] = handler.check_password
        self._tls_options = {**options, "tls_context": tls if starttls else None}
        super().__init__(handler, hostname="127.0.0.1", port=port, ssl_context=None if starttls else tls)

    def factory(self) -> SMTP:
        return SMTP(self.handler, **self._tls_options)


class MailServer:
    """Accepts mail on a free port of 127.0.0.1. With `tls` it encrypts: from the beginning, or with `starttls` when asked."""

    def __init__(self, tls: ssl.SSLContext | None = None, *, starttls: bool = False, needs_login: bool = False) -> None:
        self.port = free_port()
        self.received: list[Envelope] = []
        self.encrypted: list[bool] = []  # whether each message came after STARTTLS
        self.passwords: list[bytes] = []  # that were tried
        self._controller = _Controller(self, self.port, tls, starttls=starttls, needs_login=needs_login)

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._controller.stop()

    def messages(self) -> list[EmailMessage]:
        contents = [cast(bytes, envelope.original_content) for envelope in self.received]
        return [message_from_bytes(content, policy=policy.default) for content in contents]

    def wait_for(self, count: int, timeout: float = PATIENCE_SECONDS) -> list[EmailMessage]:
        wait_until(lambda: len(self.received) >= count, timeout=timeout, what=f"{count} mails")
        return self.messages()

    # Called by aiosmtpd.

    async def handle_RCPT(self, _server: object, _session: object, envelope: Envelope, address: str, _options: object) -> str:
        if address == REFUSED:
            return f"550 5.1.1 <{address}>: unknown"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: object, session: Session, envelope: Envelope) -> str:
        self.encrypted.append(session.ssl is not None)
        self.received.append(envelope)
        return "250 accepted"

    def check_password(self, _server: object, _session: object, _envelope: object, _mechanism: str, login: Any) -> AuthResult:
        self.passwords.append(login.password)
        is_right = (login.login, login.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=is_right, handled=False)
