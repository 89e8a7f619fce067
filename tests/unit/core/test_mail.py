from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from app.core import config, mail
from app.core.mail import Mailer, MailError, create_mailer
from harness.git_server import issue_certificates
from harness.mail import LOGIN, REFUSED, MailServer
from harness.processes import free_port

# Of the test server, which must also be able to ask for a password without TLS.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")

SENDER = "RepoRadar <radar@example.org>"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate authority, and TLS of a server on 127.0.0.1 that it certifies."""
    authority, chain = issue_certificates(tmp_path_factory.mktemp("certificates"), ("127.0.0.1",))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(chain)
    return authority, tls


@pytest.fixture
def tls(certificates: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """TLS of a server that this process trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates[0]))
    return certificates[1]


def error_of(mailer: Mailer, recipient: str = "ada@example.org") -> str:
    with pytest.raises(MailError) as raised:
        mailer.send(recipient, "News", "Text")
    return str(raised.value)


def test_message_arrives_as_it_was_written() -> None:
    with MailServer() as server:
        mailer = Mailer(f"smtp://127.0.0.1:{server.port}", "Größe <radar@example.org>")
        mailer.send(
            "ada@example.org", "Ärger, news", "Grüße\n.\nhttps://radar.example.org/" + "x" * 100, message_id="<7@example.org>"
        )
        (message,) = server.messages()
        assert server.received[0].mail_from == "radar@example.org"
        assert server.received[0].rcpt_tos == ["ada@example.org"]
    assert (message["From"], message["To"]) == ("Größe <radar@example.org>", "ada@example.org")
    assert (message["Subject"], message["Message-ID"]) == ("Ärger, news", "<7@example.org>")
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Date"].datetime.tzinfo is not None
    assert message.get_content().splitlines() == ["Grüße", ".", "https://radar.example.org/" + "x" * 100]


def test_message_id_is_new_unless_given() -> None:
    with MailServer() as server:
        mailer = Mailer(f"smtp://127.0.0.1:{server.port}", SENDER)
        for _ in range(2):
            mailer.send("ada@example.org", "News", "Text")
        first, second = [message["Message-ID"] for message in server.messages()]
    assert first != second
    assert first.endswith("@example.org>")


@pytest.mark.parametrize("starttls", [True, False])
def test_password_is_sent_over_tls(tls: ssl.SSLContext, starttls: bool) -> None:
    with MailServer(tls, starttls=starttls, needs_login=True) as server:
        url = f"{'smtp' if starttls else 'smtps'}://{LOGIN}@127.0.0.1:{server.port}"
        Mailer(url, SENDER).check()
        Mailer(url, SENDER).send("ada@example.org", "News", "Text")
        assert len(server.messages()) == 1
        wrong = url.replace("p%2Fw", "wrong")
        assert error_of(Mailer(wrong, SENDER)) == "the mail server refused the user or the password: 535"


def test_starttls_is_used_whenever_it_is_offered(tls: ssl.SSLContext) -> None:
    with MailServer(tls, starttls=True) as server:
        Mailer(f"smtp://127.0.0.1:{server.port}", SENDER).send("ada@example.org", "News", "Text")
        assert server.encrypted == [True]


def test_password_is_not_sent_without_encryption() -> None:
    with MailServer(needs_login=True) as server:
        found = error_of(Mailer(f"smtp://{LOGIN}@127.0.0.1:{server.port}", SENDER))
        assert "does not offer STARTTLS" in found
        assert server.passwords == []


@pytest.mark.parametrize("starttls", [True, False])
def test_certificate_is_verified(certificates: tuple[Path, ssl.SSLContext], starttls: bool) -> None:
    with MailServer(certificates[1], starttls=starttls) as server:
        scheme = "smtp" if starttls else "smtps"
        found = error_of(Mailer(f"{scheme}://127.0.0.1:{server.port}", SENDER))
    assert found.startswith("the certificate of the mail server is not trusted: ")


def test_certificate_of_another_host_is_refused(tls: ssl.SSLContext) -> None:
    with MailServer(tls) as server:
        assert "is not trusted" in error_of(Mailer(f"smtps://localhost:{server.port}", SENDER))


def test_error_names_the_reason_but_not_the_recipient() -> None:
    with MailServer() as server:
        found = error_of(Mailer(f"smtp://127.0.0.1:{server.port}", SENDER), REFUSED)
        assert found == "the mail server refused the recipient: 550 5.1.1 <(recipient)>: unknown"
        assert server.messages() == []
    assert error_of(Mailer(f"smtp://127.0.0.1:{free_port()}", SENDER)) == "the mail server cannot be used: Connection refused"


def test_server_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert error_of(Mailer(f"smtp://127.0.0.1:{port}", SENDER)) == "the mail server does not answer in time"


@pytest.mark.parametrize(
    ("public_url", "sender"),
    [
        ("https://radar.example.org", "RepoRadar <reporadar@radar.example.org>"),
        ("http://127.0.0.1:3000", "RepoRadar <reporadar@[127.0.0.1]>"),
        ("http://[::1]:3000", "RepoRadar <reporadar@[IPv6:::1]>"),
    ],
)
def test_sender_is_at_the_host_of_the_site_unless_configured(embedded: dict[str, str], public_url: str, sender: str) -> None:
    with MailServer() as server:
        settings = {**embedded, "PUBLIC_URL": public_url, "SMTP_URL": f"smtp://127.0.0.1:{server.port}"}
        for more in ({}, {"MAIL_FROM": SENDER}):
            mailer = create_mailer(config.load({**settings, **more}))
            assert mailer
            mailer.send("ada@example.org", "News", "Text")
        assert [message["From"] for message in server.messages()] == [sender, SENDER]


def test_no_mailer_without_a_server(embedded: dict[str, str]) -> None:
    assert create_mailer(config.load(embedded)) is None
