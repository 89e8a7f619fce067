"""nginx as it is shipped in deploy/nginx: where requests go, what instances are told, what is tried twice and what never."""

from __future__ import annotations

import os
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from harness import web
from harness.backends import Backend, Request
from harness.fleet import Fleet
from harness.servers import ROOT, Instance, PostgresServer, wait_until
from harness.sockets import HANDSHAKE, Balancer, Listener, WebSocket, render
from harness.users import PASSWORD, User

# The first is how the second begins, and as a pattern it would mean the third as well.
NAMES = ["web.a", "web.a.1", "web-a"]
FORGED = {
    "X-Forwarded-For": "203.0.113.66",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "forged.example",
    "X-Forwarded-Port": "666",
    "X-Forwarded-Prefix": "/forged",
    "X-Real-IP": "203.0.113.66",
    "Forwarded": "for=203.0.113.66;host=forged.example",
}
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer) -> Iterator[list[Instance]]:
    instances = dict.fromkeys(NAMES, "wsgi:app")
    with Fleet(postgres_server, size=0, applications=instances, settings={"TRUSTED_PROXIES": "1"}) as fleet:
        yield fleet.instances


@pytest.fixture(scope="module")
def balancer(fleet: list[Instance]) -> Iterator[Balancer]:
    with Balancer(fleet) as balancer:
        yield balancer


def client(address: str = "127.0.0.1") -> httpx.Client:
    return web.client(transport=httpx.HTTPTransport(local_address=address, verify=web.TLS), timeout=10)


@pytest.mark.parametrize("transports", [["polling"], ["websocket"], None], ids=["polling", "websocket", "upgrade"])
def test_socket_requests_are_routed_to_their_instance(
    fleet: list[Instance], balancer: Balancer, transports: list[str] | None
) -> None:
    user = User(fleet[0]).register()
    with ExitStack() as stack:
        listeners = [stack.enter_context(Listener(user, transports=transports)).connect(balancer) for _ in range(6)]
        for listener in listeners:
            (ready,) = listener.received("ready")
            assert listener.client.eio.sid.rpartition(".")[0] == ready["instance_id"]
            for _ in range(4):
                assert listener.call("sync", {"after": 0})["recovered"] is True
        assert {listener.received("ready")[0]["instance_id"] for listener in listeners} == set(NAMES)
        assert [listener.connections for listener in listeners] == [1] * len(listeners)
        assert not any(listener.connect_errors for listener in listeners)


def test_unknown_socket_id_is_answered_by_any_instance(balancer: Balancer) -> None:
    with client() as http:
        for sid in ("nobody.x", "web.a", "web.a.x.y", "web.a.12.x"):
            assert http.get(f"{balancer.url}{HANDSHAKE}polling&sid={sid}").status_code == 400


def test_client_address_cannot_be_forged(fleet: list[Instance], balancer: Balancer) -> None:
    with client("127.0.0.2") as http:
        body = {"email": User().email, "password": PASSWORD}
        assert http.post(f"{balancer.url}/api/auth/register", json=body, headers=FORGED).status_code == 201
        (session,) = http.get(f"{balancer.url}/api/auth/sessions").json()["sessions"]
        assert session["ip"] == "127.0.0.2"
    assert not any("203.0.113.66" in instance.log() for instance in fleet)


def test_origin_comparison_includes_the_port(balancer: Balancer) -> None:
    with client() as http:
        statuses = [
            http.post(f"{balancer.url}/api/auth/logout", headers={"Origin": origin}).status_code
            for origin in (balancer.url, "http://127.0.0.1", "http://127.0.0.1:1")
        ]
    assert statuses == [204, 403, 403]


def test_metrics_are_only_for_prometheus(fleet: list[Instance], balancer: Balancer) -> None:
    with client() as http:
        assert http.get(f"{fleet[0].url}/metrics").status_code == 200
        for path in ("/metrics", "//metrics", "/%6detrics", "/metrics?a=b", "/x/../metrics"):
            answer = http.get(httpx.URL(balancer.url).copy_with(raw_path=path.encode()))
            assert (path, answer.status_code) == (path, 404)
            assert "X-Instance-Id" not in answer.headers


def test_too_large_body_gets_the_error_of_the_application(fleet: list[Instance], balancer: Balancer) -> None:
    with client() as http:
        for size, instances in ((1_100_000, NAMES), (3_000_000, [None])):
            answer = http.post(
                f"{balancer.url}/api/auth/login", content=b"x" * size, headers={"Content-Type": "application/json"}
            )
            assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")
            assert answer.json()["instance_id"] in instances
            assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_access_log_has_the_request_id_and_no_secrets(fleet: list[Instance], balancer: Balancer) -> None:
    with client() as http:
        http.get(f"{balancer.url}/feeds/geheim-geheim.atom")
        given = http.get(f"{balancer.url}/login?token=geheim", headers={"X-Request-Id": "support-4711"})
        made = http.get(f"{balancer.url}/login", headers={"X-Request-Id": "not a sane one"})
    assert given.headers["X-Request-Id"] == "support-4711"
    for answer in (given, made):
        name, request_id = answer.headers["X-Instance-Id"], answer.headers["X-Request-Id"]
        wait_until(lambda: f"instance={name} request_id={request_id}" in balancer.log(), what="the line")  # noqa: B023
        (instance,) = (instance for instance in fleet if instance.environment["INSTANCE_ID"] == name)
        assert f"request_id={request_id}" in instance.log()
    assert "geheim" not in balancer.log()
    assert "GET /feeds/*** 404 " in balancer.log()


def test_forwarded_headers_reach_the_instance() -> None:
    with Backend("web") as backend, Balancer([backend]) as balancer, client("127.0.0.2") as http:
        sent = FORGED | {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "traceparent": TRACEPARENT}
        http.get(f"{balancer.url}/a", headers=sent)
        told = backend.requests[-1].headers
        assert {name: told[name] for name in told if name in FORGED} == {
            "X-Forwarded-For": "127.0.0.2",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Host": f"127.0.0.1:{balancer.port}",
        }
        assert told["Host"] == f"127.0.0.1:{balancer.port}"
        assert told["traceparent"] == TRACEPARENT
        assert not {"Connection", "Upgrade"} & set(told)

        with WebSocket(balancer, headers={"Sec-WebSocket-Extensions": "permessage-deflate"}) as websocket:
            assert websocket.status == 200  # no instance after all
        told = backend.requests[-1].headers
        assert (told["Connection"], told["Upgrade"], told["Sec-WebSocket-Version"]) == ("upgrade", "websocket", "13")
        assert "Sec-WebSocket-Extensions" not in told


def test_only_refused_handshakes_are_retried_on_another_instance() -> None:
    with Backend("stopping", lambda _: 503) as stopping, Backend("ready") as ready, Balancer([stopping, ready]) as balancer:
        with client() as http:
            handshakes = [http.get(f"{balancer.url}{HANDSHAKE}polling").status_code for _ in range(6)]
            held = http.get(f"{balancer.url}{HANDSHAKE}polling&sid=stopping.x").status_code
            others = [http.request(method, f"{balancer.url}/a").status_code for method in ("GET", "POST") for _ in range(6)]
        assert handshakes == [200] * 6
        assert held == 503
        assert any(request.path == f"{HANDSHAKE}polling" for request in stopping.requests)
        assert sorted(others) == [200] * 6 + [503] * 6
        assert stopping.received("POST") + ready.received("POST") == 6


def test_post_reaches_at_most_one_instance() -> None:
    def dies(_: Request) -> None:
        return None

    with Backend("one", dies) as one, Backend("two", dies) as two, Balancer([one, two]) as balancer, client() as http:
        for _ in range(6):
            assert http.post(f"{balancer.url}/api/a", json={}).status_code == 502
        assert one.received("POST") + two.received("POST") == 6
        before = one.received("GET"), two.received("GET")
        assert http.get(f"{balancer.url}/a").status_code == 502
        assert (one.received("GET"), two.received("GET")) == (before[0] + 1, before[1] + 1)


def test_stopped_instance_fails_no_request() -> None:
    with Backend("gone") as gone, Backend("here") as here, Balancer([gone, here]) as balancer, client() as http:
        gone.stop()
        statuses = [
            http.request(method, f"{balancer.url}/a").status_code for method in ("GET", "POST", "DELETE") for _ in range(9)
        ]
        assert statuses == [200] * 27
        assert here.received("POST") == 9


def test_closed_keep_alive_connection_fails_no_request() -> None:
    """Backends close each connection at its second request. nginx repeats idempotent requests and never reuses it for a POST."""

    def once(request: Request) -> int | None:
        return 200 if request.turn == 1 else None

    with Backend("web", once) as backend, Balancer([backend]) as balancer, client() as http:
        before = len(backend.opened)
        for method in ["GET", "POST"] * 20:
            assert http.request(method, f"{balancer.url}/a").status_code == 200
        posts = [request for request in backend.requests if request.method == "POST"]
        assert [post.turn for post in posts] == [1] * 20
        assert any(request.turn == 2 for request in backend.requests if request.method == "GET")
        assert len(backend.opened) - before <= 40


def test_error_page_without_any_instance() -> None:
    with Backend("gone") as gone, Balancer([gone]) as balancer, client() as http:
        gone.stop()
        for path, kind in (("/api/auth/me", "application/problem+json"), ("/", "text/plain")):
            answer = http.get(f"{balancer.url}{path}", headers={"X-Request-Id": "support-4712"})
            assert (answer.status_code, answer.headers["Content-Type"], answer.headers["Retry-After"]) == (502, kind, "5")
            assert "No instance is available" in answer.text
            assert answer.headers["X-Request-Id"] == "support-4712"


def test_example_is_the_output_of_render() -> None:
    example = (ROOT / "deploy/nginx/reporadar.conf").read_text()
    instances = [f"instance-{number}=127.0.0.1:300{number}" for number in (1, 2, 3)]
    assert render("--listen", "127.0.0.1:8080", *instances) == example


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a"],
        ["a=127.0.0.1"],
        ["a b=127.0.0.1:1"],
        ["a=127.0.0.1:1;"],
        ["a=127.0.0.1:1", "a=127.0.0.1:2"],
        ["--listen", "here", "a=127.0.0.1:1"],
        ["--tls-key", "key.pem", "a=127.0.0.1:1"],
        ["--tls-key", 'key.pem"; x', "--tls-certificate", "c.pem", "a=127.0.0.1:1"],
    ],
)
def test_invalid_arguments_are_refused(arguments: list[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        render(*arguments)


class HttpsBalancer(Balancer):
    def _answers(self) -> bool:
        """Return True: nginx listens before it does anything else."""
        return (self.folder / "nginx.pid").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="ports 80 and 443 are for root")
def test_certificate_switches_everything_to_https(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    address = f"127.{1 + (os.getpid() >> 16)}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
    subject = ["-subj", "/CN=reporadar", "-addext", f"subjectAltName=IP:{address}", "-days", "2"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), *subject]
    subprocess.run(make, check=True, capture_output=True)
    options = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--listen", f"{address}:443"]
    with Backend("web") as backend, HttpsBalancer([backend], *options):
        trust = ssl.create_default_context(cafile=str(certificate))
        with web.client(verify=trust) as http:
            assert http.get(f"https://{address}/a").status_code == 200
            assert backend.requests[-1].headers["X-Forwarded-Proto"] == "https"
            redirected = http.post(f"http://{address}/a?b=c")
        assert (redirected.status_code, redirected.headers["Location"]) == (308, f"https://{address}/a?b=c")
