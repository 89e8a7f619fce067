"""The stop of an instance: requests, connections, sockets, timeouts, and the report about it."""

from __future__ import annotations

import errno
import os
import re
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from harness import web
from harness.machine import Machine
from harness.scale import count
from harness.servers import Instance, RedisServer, embedded_environment, flask, migrate, promote, wait_until
from harness.socket_pool import SocketPool, fastest_second
from harness.sockets import CLOSE, HANDSHAKE, WebSocket
from harness.users import User
from tests.functional.conftest import StartFleet

HELD = "tests.faults.held_requests:app"
CROWD = 1500  # more than an event loop accepts before a careless stop has closed its socket
QUICK = 2.0  # seconds: a stop with nothing to wait for, on a busy machine


def get(instance: Instance, path: str = "/health/live") -> httpx.Response:
    return web.get(instance.url + path, timeout=40)


def account(instance: Instance) -> str:
    """Return the summary of the last stop in the log."""
    return str(re.findall(r"stopped: (.*)", instance.log())[-1])


@contextmanager
def held(instance: Instance, redis_server: RedisServer) -> Iterator[tuple[Future[httpx.Response], str]]:
    """Hold a request in the instance until its ticket is pushed."""
    ticket = secrets.token_hex(4)
    with ThreadPoolExecutor(1) as pool, redis_server.client() as client:
        answer = pool.submit(User(instance, timeout=40).request, "POST", f"/held/set/name/{ticket}", content=b"value")
        assert client.blpop([f"test:reached:{ticket}"], 10)
        yield answer, ticket
        client.lpush(f"test:go:{ticket}", 1)


def let_go(redis_server: RedisServer, ticket: str) -> None:
    with redis_server.client() as client:
        client.lpush(f"test:go:{ticket}", 1)


# Signals


@pytest.mark.parametrize("whom", ["master", "both", "group", "worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_repeated_signals_to_any_process_are_one_clean_stop(start_fleet: StartFleet, whom: str, number: signal.Signals) -> None:
    (instance,) = start_fleet(1, SHUTDOWN_DELAY="1")
    (worker,) = instance.worker_pids()
    process = psutil.Process(worker)
    for _ in range(3):
        if whom in ("master", "both"):
            instance.send(number)
        if whom in ("worker", "both"):
            os.kill(worker, number)
        if whom == "group":
            os.killpg(instance.pid, number)
        time.sleep(0.1)
    if whom == "worker":
        process.wait(10)
        wait_until(lambda: instance._answers(), 20, "the next worker to be ready")
        assert instance.terminate() == 0
    else:
        assert instance.wait() == 0
    ends = [line for line in instance.log().splitlines() if "stopped: " in line]
    assert len(ends) == (2 if whom == "worker" else 1)
    assert all("stopped: clean in " in line for line in ends)


def test_instance_stops_when_its_master_is_killed(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1)
    worker = psutil.Process(instance.worker_pids()[0])
    os.kill(instance.pid, signal.SIGKILL)
    worker.wait(10)
    assert account(instance).startswith("clean in ")


def test_signal_during_startup_is_a_clean_stop(tmp_path: Path) -> None:
    environment = embedded_environment(tmp_path)
    migrate(environment)
    for pause in (0.0, 0.05, 0.1):
        with closing(Instance(environment)) as instance:
            instance.start(wait_ready=False)
            wait_until(lambda: "Booting worker" in instance.log(), what="the worker to begin")
            time.sleep(pause)
            assert instance.terminate() == 0, instance.log()


SLOW_FORK = """
import time
exec(open("gunicorn.conf.py").read())
configured_post_fork = post_fork

def post_fork(server, worker):
    configured_post_fork(server, worker)
    time.sleep(0.5)  # the worker has not installed its handlers of signals yet
"""


class SlowlyForkedInstance(Instance):
    def _command(self) -> list[str]:
        (self.folder / "slow.conf.py").write_text(SLOW_FORK)
        return [str(self.folder / "slow.conf.py") if word == "gunicorn.conf.py" else word for word in super()._command()]


def test_signal_before_a_worker_has_handlers_is_not_lost(tmp_path: Path) -> None:
    environment = embedded_environment(tmp_path)
    migrate(environment)
    with closing(SlowlyForkedInstance(environment)) as instance:
        instance.start(wait_ready=False)
        wait_until(lambda: "Booting worker" in instance.log(), what="the worker to begin")
        assert instance.terminate(timeout=10) == 0, instance.log()


def test_sigkill_during_a_stop_is_recorded_as_forced(start_fleet: StartFleet) -> None:
    witness, instance = start_fleet(2, SHUTDOWN_DELAY="5")
    admin = User(witness).register()
    promote(witness.environment, admin.email)
    instance.send(signal.SIGTERM)
    wait_until(lambda: "draining" in instance.log(), what="the stop to begin")
    wait_until(lambda: status_of(admin, "instance-2") == "draining", 10, "the fleet to know that it drains")
    instance.kill()
    wait_until(lambda: stops(admin) == [("instance-2", "forced")], 20, "the end to be known")


def status_of(admin: User, name: str) -> str | None:
    found = [one["status"] for one in admin.get("/api/fleet").json()["instances"] if one["instance_id"] == name]
    return found[0] if found else None


def test_crash_during_a_stop_is_not_reported_as_clean(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1, SHUTDOWN_DELAY="3")
    (worker,) = instance.worker_pids()
    instance.send(signal.SIGTERM)
    wait_until(lambda: "draining" in instance.log(), what="the stop to begin")
    os.kill(worker, signal.SIGKILL)
    assert instance.wait() == 1
    assert "stopped: " not in instance.log()


# Requests


def test_readiness_fails_immediately_while_requests_are_served(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1, SHUTDOWN_DELAY="2")
    with web.client(base_url=instance.url) as kept:
        assert kept.get("/health/live").headers["Connection"] == "keep-alive"
        instance.send(signal.SIGTERM)
        wait_until(lambda: get(instance, "/health/ready").status_code == 503, what="readiness to turn")
        for path in ("/health/live", "/login", "/api/auth/me", "/nowhere"):
            for answer in (get(instance, path), kept.get(path)):
                assert (answer.status_code < 500, answer.headers["Connection"]) == (True, "close")
        refused = get(instance, f"{HANDSHAKE}polling")
        assert (refused.status_code, refused.headers["Retry-After"], refused.headers["Connection"]) == (503, "5", "close")
    assert instance.wait() == 0
    assert "delay in 2.0" in account(instance)


def test_request_in_progress_is_finished_and_closes_its_connection(start_fleet: StartFleet, redis_server: RedisServer) -> None:
    (instance,) = start_fleet(1, application=HELD)
    with held(instance, redis_server) as (answer, ticket):
        instance.send(signal.SIGTERM)
        wait_until(lambda: is_refused(instance), what="the instance to listen no more")
        assert not answer.done()
        let_go(redis_server, ticket)
        assert (answer.result(10).status_code, answer.result().headers["Connection"]) == (204, "close")
    assert instance.wait() == 0
    assert re.search(r"^clean in .*requests 1 in \d", account(instance))


def is_refused(instance: Instance) -> bool:
    try:
        socket.create_connection(("127.0.0.1", instance.port), timeout=0.2).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return False


def test_request_that_exceeds_the_timeout_is_cut_off(start_fleet: StartFleet, redis_server: RedisServer) -> None:
    (instance,) = start_fleet(1, application=HELD, SHUTDOWN_TIMEOUT="5")
    with held(instance, redis_server) as (answer, _):
        began = time.monotonic()
        instance.send(signal.SIGTERM)
        assert instance.wait() == 1
        assert time.monotonic() - began < 5
        with pytest.raises(httpx.TransportError):
            answer.result(10)
    assert re.search(r"^forced in .*requests 1 in 2\.\d\d s \(1 cut off\)", account(instance))
    assert "cut off: POST /held/set/name/" in instance.log()


@pytest.mark.serial
def test_idle_instance_stops_quickly(start_fleet: StartFleet, machine: Machine) -> None:
    (instance,) = start_fleet(1)
    with web.client(base_url=instance.url) as kept:
        kept.get("/health/live")
        began = time.monotonic()
        assert instance.terminate() == 0
        assert time.monotonic() - began < machine.limit(QUICK)
    assert float(re.findall(r"clean in ([\d.]+) s", account(instance))[0]) < machine.limit(1)


# The accept queue


def crowd_before_a_stop(instance: Instance, count: int) -> list[socket.socket]:
    """Open connections that a frozen instance has not accepted yet, each with a request."""
    request = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:{instance.port}\r\n\r\n".encode()
    connections = []
    for _ in range(count):
        connections.append(socket.create_connection(("127.0.0.1", instance.port), timeout=10))
        connections[-1].sendall(request)
    return connections


def answers(connections: list[socket.socket]) -> int:
    """Return how many connections got a complete response."""
    good = 0
    for connection in connections:
        received = b""
        with connection:
            try:
                while data := connection.recv(4096):
                    received += data
            except ConnectionError:
                continue
        good += received.startswith(b"HTTP/1.1 200 OK") and b"Connection: close" in received
    return good


def stop_with_a_crowd_in_the_queue(instance: Instance) -> int:
    (worker,) = instance.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    connections = crowd_before_a_stop(instance, CROWD)
    instance.send(signal.SIGTERM)
    wait_until(lambda: "Handling signal: term" in instance.log(), what="the master to stop")
    os.kill(worker, signal.SIGCONT)
    return answers(connections)


def test_connections_in_the_accept_queue_are_not_reset(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1)
    assert stop_with_a_crowd_in_the_queue(instance) == CROWD
    assert instance.wait() == 0
    assert re.search(r"accept queue \d+ in", account(instance))


def test_closing_the_listener_immediately_resets_connections(start_fleet: StartFleet) -> None:
    """The negative control may need several attempts: an instance may accept all connections before the signal."""

    def resets_some() -> bool:
        (instance,) = start_fleet(1, application="tests.faults.listener_closed_immediately:app")
        good = stop_with_a_crowd_in_the_queue(instance)
        assert instance.wait() == 0
        return good < CROWD

    assert any(resets_some() for _ in range(5))


def test_new_connections_are_refused_and_never_reset(start_fleet: StartFleet) -> None:
    """Clients that keep connecting during a stop are answered or refused."""
    (instance,) = start_fleet(1, SHUTDOWN_DELAY="1")
    outcomes: list[str] = []
    threads = [threading.Thread(target=knock, args=(instance, outcomes)) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(outcomes) > 100, what="some traffic")
    assert instance.terminate() == 0
    for thread in threads:
        thread.join()
    assert {outcome for outcome in outcomes if outcome not in ("answered", "refused", "not let in")} == set()
    assert outcomes.count("answered") > 100
    assert outcomes.count("refused") == 8


def knock(instance: Instance, outcomes: list[str]) -> None:
    """Send POST requests on new connections until the first refusal."""
    request = f"POST /api/auth/logout HTTP/1.1\r\nHost: 127.0.0.1:{instance.port}\r\nContent-Length: 0\r\n\r\n".encode()
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", instance.port), timeout=0.5)
        except ConnectionRefusedError:
            outcomes.append("refused")
            return
        except TimeoutError:
            outcomes.append("not let in")
            continue
        with connection:
            connection.settimeout(10)
            try:
                connection.sendall(request)
                outcomes.append("answered" if connection.recv(4096).startswith(b"HTTP/1.1 204") else "cut off")
            except ConnectionError as error:
                outcomes.append(type(error).__name__)
                return


# Sockets


def drain_of_300(start_fleet: StartFleet, application: str = "wsgi:app") -> tuple[list[float], float, Instance]:
    """Return the close times of 300 sockets and the time when readiness failed, in seconds after the signal."""
    (instance,) = start_fleet(1, application=application, SHUTDOWN_DELAY="1", MAX_SOCKETS_PER_USER="400")
    with SocketPool(instance, User(instance).register(), 300) as pool:
        began = time.monotonic()
        instance.send(signal.SIGTERM)
        wait_until(lambda: get(instance, "/health/ready").status_code == 503, what="readiness to turn")
        turned = time.monotonic() - began
        pool.wait_closed(20)
        closed = [moment - began for moment in pool.closed]
        assert pool.notified_before_closing == 300
        assert len(set(pool.delays)) > 100
    return closed, turned, instance


@pytest.mark.serial
def test_sockets_are_closed_at_the_drain_rate(start_fleet: StartFleet, machine: Machine) -> None:
    closed, turned, instance = drain_of_300(start_fleet)
    assert len(closed) == 300
    assert min(closed) > max(turned, 1.0)
    assert fastest_second(closed) <= machine.limit(150)  # an instance that got no processor closes what is due at once
    assert max(closed) < 1.0 + 300 / 100 + machine.limit(2)
    assert instance.wait() == 0
    assert "sockets 300 in " in account(instance)


def test_closing_all_sockets_at_once_is_detected(start_fleet: StartFleet) -> None:
    closed, _, _ = drain_of_300(start_fleet, "tests.faults.all_sockets_at_once:app")
    assert fastest_second(closed) > 150


def test_sockets_are_closed_faster_when_time_is_short(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1, DRAIN_RATE="1", SHUTDOWN_TIMEOUT="6", MAX_SOCKETS_PER_USER="400")
    with SocketPool(instance, User(instance).register(), 300) as pool:
        assert instance.terminate() == 0
        pool.wait_closed(1)
        assert pool.notified_before_closing == 300
    assert float(re.findall(r"clean in ([\d.]+) s", account(instance))[0]) < 4.5


@contextmanager
def stuck_client(instance: Instance) -> Iterator[WebSocket]:
    """A client that does not read the 8 MB that it requested. They are one answer, so the instance has made all of it."""
    user = User(instance).register()
    flask(instance.environment, "notify", user.email, "x" * 100_000, "--count", "80")
    with WebSocket(instance, user, receive_buffer=4096).join() as websocket:
        websocket.send_text('420["sync",{"after":0}]')
        wait_until(lambda: has_begun_to_receive(websocket), what="the beginning of the answer")
        yield websocket


def test_client_that_does_not_read_does_not_delay_a_stop(start_fleet: StartFleet) -> None:
    (instance,) = start_fleet(1)
    with stuck_client(instance):
        assert instance.terminate() == 0
    assert float(re.findall(r"clean in ([\d.]+) s", account(instance))[0]) < 8


@pytest.mark.parametrize(("application", "is_told"), [("wsgi:app", True), ("tests.faults.no_flush_before_close:app", False)])
def test_slow_reader_receives_everything_and_the_close_frame(start_fleet: StartFleet, application: str, is_told: bool) -> None:
    (instance,) = start_fleet(1, application=application)
    with stuck_client(instance) as websocket:
        instance.send(signal.SIGTERM)
        wait_until(lambda: is_closed(instance), what="the listening socket to be closed")
        frames = list(received(websocket))
    kinds = [payload[:12] if opcode != CLOSE else b"close" for opcode, payload in frames]
    assert (kinds == [b'430[{"items"', b'42["draining', b"close"]) == is_told, kinds


def is_closed(instance: Instance) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", instance.port)) == errno.ECONNREFUSED


def received(websocket: WebSocket) -> Iterator[tuple[int, bytes]]:
    """Yield frames up to the close frame or the end of the connection."""
    with suppress(OSError):
        while True:
            opcode, payload = websocket.receive()
            yield opcode, payload
            if opcode == CLOSE:
                return


def has_begun_to_receive(websocket: WebSocket) -> bool:
    return len(websocket.socket.recv(1 << 20, socket.MSG_PEEK)) > 1000


@pytest.mark.serial
def test_sockets_do_not_use_the_connections_of_requests(start_fleet: StartFleet, machine: Machine) -> None:
    """All sockets are in use, and idle connections use all other connections."""
    (instance,) = start_fleet(1, MAX_SOCKETS="60", MAX_SOCKETS_PER_USER="60")
    with SocketPool(instance, User(instance).register(), 60), ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(socket.create_connection(("127.0.0.1", instance.port)))
        assert get(instance).status_code == 200  # when the first of them has had its time to send a request
        delays = []
        for _ in range(20):
            began = time.monotonic()
            assert get(instance).status_code == 200
            delays.append(time.monotonic() - began)
        assert sorted(delays)[5] < machine.limit(0.1), delays  # a full instance would answer none
        assert get(instance, f"{HANDSHAKE}polling").status_code == 503


@pytest.mark.parametrize(("application", "is_ended"), [("tests.faults.short_transfers:app", True), ("wsgi:app", False)])
def test_connection_without_the_announced_body_is_closed(start_fleet: StartFleet, application: str, is_ended: bool) -> None:
    (instance,) = start_fleet(1, application=application, SHUTDOWN_TIMEOUT="4")
    with socket.create_connection(("127.0.0.1", instance.port), timeout=10 if is_ended else 3) as connection:
        connection.sendall(
            b"POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        try:
            while connection.recv(4096):
                pass
        except TimeoutError:
            assert not is_ended
        else:
            assert is_ended
    assert "Traceback" not in instance.log()


# What is known of it afterwards


def test_stops_are_classified_as_clean_forced_or_crashed(start_fleet: StartFleet, redis_server: RedisServer) -> None:
    witness, *fleet = start_fleet(count(4, 6), application=HELD, SHUTDOWN_TIMEOUT="4")
    admin = User(witness).register()
    promote(witness.environment, admin.email)
    due: list[tuple[str, str]] = []
    turns = count(2, 5)
    for turn in range(turns):
        kinds = [("clean", "forced", "crashed")[(turn + number) % 3] for number in range(len(fleet))]
        with ThreadPoolExecutor(len(fleet)) as pool:
            list(pool.map(lambda instance, kind: end(instance, kind, redis_server), fleet, kinds))
        due += [(instance.environment["INSTANCE_ID"], kind) for instance, kind in zip(fleet, kinds, strict=True)]
        if turn < turns - 1:
            for instance in fleet:
                instance.start(wait_ready=False)
            for instance in fleet:
                instance.wait_ready()
    wait_until(lambda: len(stops(admin)) == len(due), 20, "all stops to be known")
    assert sorted(stops(admin)) == sorted(due)


def end(instance: Instance, kind: str, redis_server: RedisServer) -> None:
    if kind == "crashed":
        instance.kill()
    elif kind == "clean":
        assert instance.terminate() == 0
    else:
        with held(instance, redis_server):
            assert instance.terminate() == 1


def stops(admin: User) -> list[tuple[str, str]]:
    return [(stop["instance_id"], stop["kind"]) for stop in admin.get("/api/fleet").json()["stops"]]
