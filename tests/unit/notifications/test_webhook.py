from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from app.core.errors import Invalid
from app.notifications import webhook
from app.notifications.webhook import Outcome, WebhookClient, create_secret, sign
from harness import git_server
from harness.git_server import Answer, Handler
from harness.webhooks import WebhookReceiver

ALLOWED = [ip_network("127.0.0.0/8")]
SECRET = create_secret()


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebhookReceiver]:
    with WebhookReceiver(tmp_path_factory.mktemp("webhooks")) as receiver:
        answers = {
            "/no-response": git_server.hang,
            "/trickle": git_server.trickle,
            "/endless-body": git_server.endless,
            "/endless-headers": endless_headers,
            "/redirect": git_server.redirect(307, receiver.address()),
            "/error": git_server.error(500),
            "/gone": git_server.error(410),
            "/nonsense": nonsense,
        }
        receiver.answers |= {path: after_body(answer) for path, answer in answers.items()}
        yield receiver


@pytest.fixture
def client(receiver: WebhookReceiver) -> WebhookClient:
    return WebhookClient(ALLOWED, str(receiver.authority))


def after_body(answer: Answer) -> Answer:
    """Read the request before the answer: a server that closes the connection earlier resets it."""

    def read_and_answer(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        answer(handler)

    return read_and_answer


def nonsense(handler: Handler) -> None:
    handler.wfile.write(b"hello\r\n")


def endless_headers(handler: Handler) -> None:
    handler.send_response(200)
    handler.flush_headers()
    while not handler.server.owner.closing.is_set():
        handler.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")


def post(client: WebhookClient, url: str) -> Outcome:
    return client.post(url, SECRET, "msg_1_2", b'{"text":"Hello"}')


def test_signature_is_that_of_the_specification() -> None:
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    found = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_message_has_the_headers_of_the_specification(client: WebhookClient, receiver: WebhookReceiver) -> None:
    receiver.received.clear()
    assert post(client, receiver.address("hook/1?a=b")) == Outcome(200)
    (received,) = receiver.received
    assert (received.path, received.body, received.id) == ("/hook/1?a=b", b'{"text":"Hello"}', "msg_1_2")
    assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert received.headers["content-type"] == "application/json"
    assert abs(int(received.headers["webhook-timestamp"]) - time.time()) < 60
    assert received.is_signed_with(SECRET)
    assert not received.is_signed_with(create_secret())


@pytest.mark.parametrize(
    ("path", "outcome"),
    [
        ("error", Outcome(500, "The server responded with an error (500).")),
        ("gone", Outcome(410, "The server wants no more messages (410).", is_permanent=True)),
        ("redirect", Outcome(307, "The server redirects to another address. Redirects are not followed.")),
        ("nonsense", Outcome(None, "The server sent no valid response.")),
        ("endless-headers", Outcome(None, "The server sent no valid response.")),
        ("endless-body", Outcome(200)),
    ],
)
def test_response_decides_the_outcome(client: WebhookClient, receiver: WebhookReceiver, path: str, outcome: Outcome) -> None:
    receiver.received.clear()
    assert post(client, receiver.address(path)) == outcome
    assert receiver.received == []


@pytest.mark.parametrize("path", ["no-response", "trickle"])
def test_slow_receiver_is_left_after_the_time_limit(
    client: WebhookClient, receiver: WebhookReceiver, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "TIME_LIMIT_SECONDS", 0.5)
    started = time.monotonic()
    assert post(client, receiver.address(path)).error == "The server did not respond within 0 seconds."
    assert time.monotonic() - started < 5


def test_receiver_that_never_begins_tls_is_left_after_the_time_limit(
    client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "TIME_LIMIT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        assert post(client, url).error == "The server did not respond within 0 seconds."


def test_unreachable_receiver_is_an_error(client: WebhookClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert post(client, f"https://127.0.0.1:{port}/").error == "The server can't be reached."
    assert post(client, "https://nowhere.invalid/").error == "The host name nowhere.invalid can't be resolved."


def test_certificate_is_verified(receiver: WebhookReceiver) -> None:
    assert post(WebhookClient(ALLOWED, None), receiver.address()).error == "The certificate of the server is not valid."


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"])
def test_private_networks_are_refused_when_connecting(receiver: WebhookReceiver, host: str) -> None:
    receiver.received.clear()
    outcome = post(WebhookClient([], str(receiver.authority)), f"https://{host}:{receiver.port}/hook")
    assert outcome.error == "This address is in a private network, which is not allowed."
    assert receiver.received == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "https://",
        "https:///path",
        "https://user@example.org/",
        "https://user:password@example.org/",
        "https://example.org/a b",
        "https://example.org/ü",
        "https://example.org:x/",
        "https://example.org/\r\nX: y",
        "https://exa mple.org/",
        "https://[::1/",
        "https://example.org/" + "x" * 2000,
        "/etc/passwd",
        "",
    ],
)
def test_invalid_addresses_are_refused(url: str) -> None:
    with pytest.raises(Invalid):
        webhook.parse(url)


def test_address_is_normalised() -> None:
    parsed = webhook.parse(" https://Hooks.Example.org:8443/a?b#c ")
    assert (parsed.url, parsed.host, parsed.port) == ("https://Hooks.Example.org:8443/a?b", "hooks.example.org", 8443)
    assert webhook.parse("https://[2606:4700::1111]/").host == "2606:4700::1111"
