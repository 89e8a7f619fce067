from __future__ import annotations

from app.core import config
from app.operations.doctor import mail
from app.operations.doctor.findings import Finding
from harness.mail import MailServer


def findings(embedded: dict[str, str], **settings: str) -> list[Finding]:
    return list(mail.examine(config.load({**embedded, **settings})))


def test_mail_server_is_examined_if_there_is_one(embedded: dict[str, str]) -> None:
    assert findings(embedded) == []
    with MailServer() as server:
        address = f"127.0.0.1:{server.port}"
        settings = {"PUBLIC_URL": "https://radar.example.org", "SMTP_URL": f"smtp://{address}"}
        (found,) = findings(embedded, **settings)
        assert (found.status, found.text) == ("ok", f"mail: the mail server accepts connections: {address}")
    (found,) = findings(embedded, **settings)
    assert (found.status, found.text) == ("fail", f"mail: the mail server cannot be used: Connection refused: {address}")
    assert "SMTP_URL" in found.advice
