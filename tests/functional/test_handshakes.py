"""A socket is opened and used by one session of a trusted host. The log says why another one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import httpx
import pytest

from harness.fleet import Fleet
from harness.servers import Instance, PostgresServer, flask, wait_until
from harness.sockets import HANDSHAKE, Listener, WebSocket
from harness.users import PASSWORD, User


@pytest.fixture(scope="module")
def instances(postgres_server: PostgresServer) -> Iterator[list[Instance]]:
    """One without a fault, and one with it."""
    with Fleet(postgres_server, size=1, applications={"trusting": "tests.faults.session_not_checked_again:app"}) as fleet:
        yield fleet.instances


@pytest.fixture
def instance(instances: list[Instance]) -> Instance:
    return instances[0]


def cookie_of(user: User | None) -> dict[str, str]:
    return {"Cookie": user.cookie_header} if user else {}


def open_by_polling(instance: Instance, user: User) -> str:
    """Return the Engine.IO ID of a connection that the user has opened by polling."""
    opened = httpx.get(f"{instance.url}{HANDSHAKE}polling", headers=cookie_of(user), trust_env=False)
    sid: str = json.loads(opened.text[1:])["sid"]
    return sid


def use(instance: Instance, user: User | None, sid: str) -> list[tuple[int, str]]:
    """Poll, send and upgrade; return the status and body of each response, without the ID."""
    url, headers = f"{instance.url}{HANDSHAKE}polling&sid={sid}", cookie_of(user)
    sent = httpx.post(url, headers=headers, content="40", trust_env=False)
    polled = httpx.get(url, headers=headers, trust_env=False)
    with WebSocket(instance, user, f"&sid={sid}") as websocket:
        return [
            (sent.status_code, sent.text.replace(sid, "")),
            (polled.status_code, polled.text.replace(sid, "")),
            (websocket.status, ""),
        ]


def test_a_connection_belongs_to_the_session_that_opened_it(instance: Instance) -> None:
    owner, other = User(instance).register(), User(instance).register()
    second_session = User(instance)
    second_session.email = owner.email
    assert second_session.log_in().status_code == 200
    sid = open_by_polling(instance, owner)
    for intruder in (other, second_session, None):
        refused = use(instance, intruder, sid)
        assert refused == use(instance, intruder, "instance-1.unknown") == [(400, '"Invalid session "')] * 2 + [(400, "")]
    assert [status for status, _ in use(instance, owner, sid)] == [200, 200, 101]


def reply_after(end: Callable[[User], httpx.Response], instance: Instance) -> str:
    """End the session between the handshake of a socket and its Socket.IO connect, and return the reply to that."""
    user = User(instance).register()
    headers = cookie_of(user)
    url = f"{instance.url}{HANDSHAKE}polling&sid={open_by_polling(instance, user)}"
    assert end(user).status_code == 204
    assert httpx.post(url, headers=headers, content="40", trust_env=False).status_code == 200
    return httpx.get(url, headers=headers, trust_env=False).text


def log_out(user: User) -> httpx.Response:
    return user.post("/api/auth/logout")


def change_password(user: User) -> httpx.Response:
    return user.post("/api/auth/password", current_password=PASSWORD, new_password="a calm grey stone")


def delete_account(user: User) -> httpx.Response:
    return user.request("DELETE", "/api/auth/account", json={"password": PASSWORD})


@pytest.mark.parametrize("end", [log_out, change_password, delete_account])
def test_session_that_ends_during_the_opening_of_a_socket_is_noticed(
    instances: list[Instance], end: Callable[[User], httpx.Response]
) -> None:
    sound, trusting = instances
    assert reply_after(end, sound) == '44{"message":"unauthorized"}'
    assert reply_after(end, trusting).startswith('40{"sid":')


@pytest.mark.parametrize("path", ["/login", f"{HANDSHAKE}polling", "/api/auth/logout"])
def test_foreign_host_is_refused_before_sockets_and_pages(instance: Instance, path: str) -> None:
    foreign = {"Host": f"evil.example:{instance.port}", "Origin": f"http://evil.example:{instance.port}"}
    method = "POST" if path.startswith("/api/") else "GET"
    assert httpx.request(method, f"{instance.url}{path}", headers=foreign, trust_env=False).status_code == 400
    assert httpx.request(method, f"{instance.url}{path}", trust_env=False).status_code in (200, 204)
    assert httpx.get(f"{instance.url}/health/live", headers=foreign, trust_env=False).status_code == 200


def test_log_says_why_a_socket_was_refused(instance: Instance) -> None:
    user = User(instance).register()
    url = f"{instance.url}{HANDSHAKE}polling"
    before = instance.log().count("refused a socket: its Origin https://evil.example")
    for _ in range(5):
        httpx.get(url, headers={**cookie_of(user), "Origin": "https://evil.example"}, trust_env=False)
    httpx.get(url, trust_env=False)
    wait_until(lambda: "refused a socket: it has no valid session" in instance.log(), what="the reason")
    assert 1 <= instance.log().count("refused a socket: its Origin https://evil.example") - before < 5


@pytest.mark.parametrize(("second", "reply"), [("http://127.0.0.1:{port}", "40"), ("https://evil.example", "44")])
def test_equal_origin_lines_of_a_socket_count_as_one(instance: Instance, second: str, reply: str) -> None:
    """Socket.IO answers a connection with 40, or with 44 if it refuses it."""
    origins = [("Origin", origin.format(port=instance.port)) for origin in ("http://127.0.0.1:{port}", second)]
    url = f"{instance.url}{HANDSHAKE}polling"
    with httpx.Client(headers=[*cookie_of(User(instance).register()).items(), *origins], trust_env=False) as client:
        url += f"&sid={json.loads(client.get(url).text[1:])['sid']}"
        assert client.post(url, content="40").status_code == 200
        assert client.get(url).text[:2] == reply


@pytest.mark.parametrize("transports", [["polling"], ["polling", "websocket"], ["websocket"]])
def test_client_whose_session_is_replaced_opens_a_new_connection(instance: Instance, transports: list[str]) -> None:
    user = User(instance).register()
    with Listener(user, transports=transports).connect(instance) as listener:
        assert user.log_in(PASSWORD).status_code == 200
        assert listener.wait_for("session_ended") == {"reason": "replaced"}
        wait_until(lambda: listener.client.eio.state == "disconnected", what="the end of the connection")
        listener.connect(instance, ready=False)
        listener.wait_for("ready", 2)
        assert listener.call("sync", {"after": 0})["recovered"] is True


def test_client_that_polls_with_its_new_session_reconnects_by_itself(instance: Instance) -> None:
    """The new cookie may be there before the client has read the end of its previous session."""
    user = User(instance).register()
    renewed = User(instance)
    renewed.email = user.email
    assert renewed.log_in().status_code == 200
    with Listener(user, transports=["polling"]).connect(instance) as listener:
        listener.client.connection_headers = lambda: cookie_of(renewed)
        listener.client.eio.http.headers.update(cookie_of(renewed))
        flask(instance.environment, "notify", user.email, "hello")  # ends the poll that is in progress
        listener.wait_for("ready", 2)
        assert listener.seqs == [1]
