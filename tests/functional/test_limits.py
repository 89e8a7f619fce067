"""Rate limits across instances, and the effect of a flood of logins on other requests."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from harness.fleet import Fleet
from harness.machine import Machine
from harness.mail import MailServer
from harness.scale import count
from harness.servers import Instance, PostgresServer, wait_until
from harness.sockets import Listener
from harness.users import PASSWORD, User, client_without_cookies
from tests.functional.conftest import StartFleet

AT_ONCE = 12


def all_at_once(instances: list[Instance], requests: int, path: str, body: dict[str, str], **headers: str) -> Counter[int]:
    """Return the statuses of equal requests that are spread over the instances."""

    def post(number: int) -> int:
        content = {name: value.replace("{n}", str(number)) for name, value in body.items()}
        return client.post(instances[number % len(instances)].url + path, json=content, headers=headers).status_code

    with client_without_cookies() as client, ThreadPoolExecutor(AT_ONCE) as executor:
        return Counter(executor.map(post, range(requests)))


@pytest.fixture(scope="module")
def mail_server() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture(scope="module")
def instances(postgres_server: PostgresServer, mail_server: MailServer) -> Iterator[list[Instance]]:
    """Three instances behind a proxy, with a mail server; each test has a client address of its own."""
    limits = {"RATE_LIMIT_LOGIN": "4/min", "RATE_LIMIT_REGISTER": "5/h", "TRUSTED_PROXIES": "1"}
    mail = {"PUBLIC_URL": "https://radar.example.org", "SMTP_URL": f"smtp://127.0.0.1:{mail_server.port}"}
    with Fleet(postgres_server, size=3, settings=limits | mail) as fleet:
        yield fleet.instances


def user_at(address: str, instances: list[Instance]) -> User:
    user = User(*instances)
    user.client.headers["X-Forwarded-For"] = address
    return user.register()


def test_login_limit_counts_across_instances(instances: list[Instance]) -> None:
    user = user_at("198.51.100.6", instances)
    body = {"email": user.email, "password": "wrong password"}
    assert all_at_once(instances, 60, "/api/auth/login", body, **{"X-Forwarded-For": "198.51.100.6"}) == {401: 4, 429: 56}


def test_address_that_many_share_has_ten_times_the_limit_of_an_account(instances: list[Instance]) -> None:
    body = {"email": "nobody-{n}@example.org", "password": "wrong password"}
    first = all_at_once(instances, 60, "/api/auth/login", body, **{"X-Forwarded-For": "198.51.100.7"})
    assert first == {401: 40, 429: 20}
    assert all_at_once(instances, 3, "/api/auth/login", body, **{"X-Forwarded-For": "198.51.100.8"}) == {401: 3}


def test_registrations_are_limited_by_address(instances: list[Instance]) -> None:
    body = {"email": "user-{n}@example.org", "password": PASSWORD}
    assert all_at_once(instances, 30, "/api/auth/register", body, **{"X-Forwarded-For": "198.51.100.9"}) == {201: 5, 429: 25}


def test_correct_passwords_are_not_limited(instances: list[Instance]) -> None:
    user = user_at("198.51.100.10", instances)
    body = {"email": user.email, "password": PASSWORD}
    address = {"X-Forwarded-For": "198.51.100.10"}
    assert sum(all_at_once(instances, 4, "/api/auth/login", body, **address)[200] for _ in range(3)) == 12


def test_wrong_passwords_of_others_do_not_lock_the_owner_out(start_fleet: StartFleet) -> None:
    instances = start_fleet(2, RATE_LIMIT_LOGIN="4/3s")
    owner, stranger = User(*instances).register(), User(*instances)
    body = {"email": owner.email, "password": "wrong password"}
    assert all_at_once(instances, 40, "/api/auth/login", body)[429] == 36
    stranger.email = owner.email
    refused = stranger.log_in()
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 3
    assert owner.log_in().status_code == 200, "a browser that the owner has signed in with before"

    # Attempts that are refused do not prolong the wait of the others.
    wait_until(lambda: stranger.log_in().status_code == 200, timeout=5, what="the stranger's right password to be accepted")


def test_revoked_token_is_refused_by_every_instance_at_once(instances: list[Instance]) -> None:
    """Programs use a token on all instances while it is revoked. No request that starts afterwards succeeds."""
    user = user_at("198.51.100.11", instances)
    created = user.client.post(f"{instances[0].url}/api/auth/tokens", json={"name": "build server", "scope": "read"}).json()
    headers = {"Authorization": f"Bearer {created['token']}"}
    revoked = threading.Event()

    def use(instance: Instance) -> Counter[tuple[bool, int]]:
        """Return how often each status came, by whether the request started after the revocation."""
        found: Counter[tuple[bool, int]] = Counter()
        with client_without_cookies() as client:
            while found[True, 401] < 5 and (True, 200) not in found:
                is_revoked = revoked.is_set()
                response = client.get(f"{instance.url}/api/repositories", headers=headers)
                assert "Set-Cookie" not in response.headers
                found[is_revoked, response.status_code] += 1
                if found[False, 200] == 5:
                    in_use.release()
        return found

    in_use = threading.Semaphore(0)
    with ThreadPoolExecutor(len(instances)) as executor:
        futures = [executor.submit(use, instance) for instance in instances]
        for _ in instances:
            assert in_use.acquire(timeout=20)
        assert user.client.delete(f"{instances[0].url}/api/auth/tokens/{created['id']}").status_code == 204
        revoked.set()
        for found in [future.result() for future in futures]:
            assert {key for key in found if key[0]} == {(True, 401)}, found
            assert {key for key in found if not key[0]} <= {(False, 200), (False, 401)}, found


def test_shared_report_is_gone_from_every_instance_at_once(instances: list[Instance]) -> None:
    user = user_at("198.51.100.13", instances)
    added = user.client.post(f"{instances[0].url}/api/repositories", json={"url": "https://93.184.216.34/a/shared"}).json()
    link = f"/api/repositories/{added['repository']['id']}/share"
    path = urlsplit(user.client.put(f"{instances[0].url}{link}").json()["url"]).path

    def statuses() -> set[int]:
        with client_without_cookies() as client:
            return {
                client.get(f"{instance.url}{path}{form}").status_code for instance in instances for form in ("", "/badge.svg")
            }

    assert statuses() == {200}
    assert user.client.delete(f"{instances[1].url}{link}").status_code == 204
    assert statuses() == {404}


def test_links_to_set_a_password_are_limited_and_work_once(instances: list[Instance], mail_server: MailServer) -> None:
    user = user_at("198.51.100.12", instances)

    def post_form(path: str, **form: str) -> Counter[int]:
        """Send the same form many times at once, to all instances."""
        with client_without_cookies() as client, ThreadPoolExecutor(AT_ONCE) as executor:
            sent = [executor.submit(client.post, instance.url + path, data=form) for instance in instances * 4]
            return Counter(future.result().status_code for future in sent)

    assert post_form("/forgot-password", email=user.email) == {303: 3, 429: 9}
    mails = mail_server.wait_for(3)
    assert [mail["To"] for mail in mails] == [user.email] * 3
    (link,) = re.findall(r"https://radar.example.org/reset-password\?token=(\S+)", mails[0].get_content())
    with Listener(user).connect(instances[1]) as listener:
        assert post_form("/reset-password", token=link, new_password="four eager otters") == {303: 1, 410: 11}
        assert listener.wait_for("session_ended") == {"reason": "password_changed"}
    assert [user.is_signed_in() for _ in instances] == [False] * 3
    assert [user.log_in(password).status_code for password in (PASSWORD, "four eager otters")] == [401, 200]
    assert not any(link in instance.log() for instance in instances)


@pytest.mark.serial
def test_flood_of_logins_does_not_delay_other_requests(start_fleet: StartFleet, machine: Machine) -> None:
    (instance,) = start_fleet(1, RATE_LIMIT_LOGIN="100000/min")
    user = User(instance).register()
    body = {"email": "nobody-{n}@example.org", "password": "wrong password"}
    logins, delays = count(150, 300), []
    with ThreadPoolExecutor(1) as executor:
        flood = executor.submit(all_at_once, [instance], logins, "/api/auth/login", body)
        while not flood.done():
            started = time.monotonic()
            assert user.is_signed_in()
            delays.append(time.monotonic() - started)
    assert flood.result() == {401: logins}
    assert len(delays) > 100
    limit = machine.limit(0.1)
    late = [delay for delay in delays if delay > limit]
    assert len(late) <= len(delays) / 100, (
        f"{len(late)} of {len(delays)} took longer than {limit:.3f} s, the longest {max(delays):.3f} s"
    )
