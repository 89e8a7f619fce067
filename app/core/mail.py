"""Sending mail over SMTP, as SMTP_URL and MAIL_FROM configure it."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from urllib.parse import unquote, urlsplit

from app.core.config import Config

TIMEOUT_SECONDS = 10.0  # of connecting, and of each reply of the server
PORTS = {"smtp": 587, "smtps": 465}  # of mail submission, RFC 8314


class MailError(Exception):
    """The mail was not accepted. The text has the reason for a log, without the recipient and without the password."""


class Mailer:
    """A client of one mail server. A connection lasts for one mail.

    The connection is encrypted from the beginning (`smtps`), or as soon as the server offers it (`smtp`, STARTTLS). The server's
    certificate is verified. A password is never sent without encryption.
    """

    def __init__(self, url: str, sender: str) -> None:
        """`url` as in SMTP_URL, `sender` as in MAIL_FROM."""
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "smtps"
        self._host = parts.hostname or ""
        self._port = parts.port or PORTS[parts.scheme]
        self._user, self._password = unquote(parts.username or ""), unquote(parts.password or "")
        self._sender = sender

    @property
    def server(self) -> str:
        """The host and the port of the mail server."""
        return f"{self._host}:{self._port}"

    def send(self, recipient: str, subject: str, text: str, *, message_id: str | None = None) -> None:
        """Send one mail and return when the server has accepted it. Raises MailError.

        Blocks only the calling greenlet or thread. A mail that is sent again has the same `message_id`.
        """
        message = self._compose(recipient, subject, text, message_id)
        with self._connection() as connection, _mail_errors(recipient):
            # Named explicitly: send_message leaves out addresses that are unusual but valid for browsers.
            connection.send_message(message, parseaddr(self._sender)[1], [recipient])

    def check(self) -> None:
        """Connect and sign in to the mail server without sending anything. Raises MailError."""
        with self._connection():
            pass

    def _compose(self, recipient: str, subject: str, text: str, message_id: str | None) -> EmailMessage:
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = recipient
        message["Subject"] = subject
        message["Date"] = format_datetime(datetime.now(UTC))
        message["Message-ID"] = message_id or make_msgid(domain=parseaddr(self._sender)[1].partition("@")[2])
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic replies, please
        message.set_content(text)
        return message

    @contextmanager
    def _connection(self) -> Iterator[smtplib.SMTP]:
        with _mail_errors():
            connection = self._connect()
        try:
            yield connection
        finally:
            with suppress(OSError, smtplib.SMTPException):  # the mail has been accepted, so this is no reason to send it again
                connection.quit()
            connection.close()

    def _connect(self) -> smtplib.SMTP:
        tls = ssl.create_default_context()
        if self._is_tls:
            connection: smtplib.SMTP = smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT_SECONDS, context=tls)
        else:
            connection = smtplib.SMTP(self._host, self._port, timeout=TIMEOUT_SECONDS)
        try:
            self._prepare(connection, tls)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: smtplib.SMTP, tls: ssl.SSLContext) -> None:
        connection.ehlo_or_helo_if_needed()
        is_encrypted = self._is_tls
        if not is_encrypted and connection.has_extn("starttls"):
            connection.starttls(context=tls)
            connection.ehlo()
            is_encrypted = True
        if self._user:
            if not is_encrypted:
                raise MailError("the mail server does not offer STARTTLS, so the password was not sent; try smtps://")
            connection.login(self._user, self._password)


def create_mailer(config: Config) -> Mailer | None:
    """Return the client of the configured mail server, or None without SMTP_URL."""
    if config.smtp_url is None:
        return None
    return Mailer(config.smtp_url, config.mail_from or _default_sender(config.public_url or ""))


def _default_sender(public_url: str) -> str:
    host = urlsplit(public_url).hostname or "localhost"
    is_address = ":" in host or host.replace(".", "").isdigit()
    domain = f"[IPv6:{host}]" if ":" in host else f"[{host}]" if is_address else host  # RFC 5321, section 4.1.3
    return str(Address("RepoRadar", "reporadar", domain))


@contextmanager
def _mail_errors(recipient: str = "") -> Iterator[None]:
    """Turn errors of smtplib, TLS and the network into MailError."""
    try:
        yield
    except smtplib.SMTPRecipientsRefused as error:
        code, reply = next(iter(error.recipients.values()))
        raise MailError(f"the mail server refused the recipient: {_reply(code, reply, recipient)}") from None
    except smtplib.SMTPAuthenticationError as error:
        raise MailError(f"the mail server refused the user or the password: {error.smtp_code}") from None
    except smtplib.SMTPResponseException as error:
        raise MailError(f"the mail server refused: {_reply(error.smtp_code, error.smtp_error, recipient)}") from None
    except ssl.SSLCertVerificationError as error:
        raise MailError(f"the certificate of the mail server is not trusted: {error.verify_message}") from None
    except (OSError, smtplib.SMTPException, UnicodeError) as error:
        if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
            raise MailError("the mail server does not answer in time") from None
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise MailError(f"the mail server cannot be used: {reason}") from None


def _reply(code: int, reply: bytes | str, recipient: str) -> str:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    line = f"{code} {text.partition(chr(10))[0]}"
    return line.replace(recipient, "(recipient)") if recipient else line
