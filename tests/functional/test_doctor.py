"""`flask doctor` on real servers: a healthy fleet has no findings, and each fault is found by its line."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg2
import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from app import create_app
from app.core import config
from app.server.lifecycle import Lifecycle
from harness.fleet import Fleet
from harness.servers import (
    ROOT,
    Instance,
    PostgresServer,
    RedisServer,
    Server,
    base_environment,
    embedded_environment,
    fleet_environment,
    free_port,
    migrate,
    procfile_command,
    wait_until,
)
from harness.users import User, client_without_cookies

EX_CONFIG = 78
LIMIT_SECONDS = 40 + 15  # of the examination of one address
PASSWORD = "only-for-this-test"


class Examination(NamedTuple):
    status: int
    output: str
    seconds: float

    def lines(self, status: str) -> list[str]:
        """Return the lines with this status, except those about the registry, which depend on earlier tests.

        Warnings and failures about the response time of a server are left out, because other tests keep the machine busy.
        """
        lines = [line for line in self.all_lines(status) if not line.startswith(("fleet:", "stops:"))]
        return [line for line in lines if status == "ok" or " answers: " not in line]

    def all_lines(self, status: str) -> list[str]:
        found = [line for line in self.output.splitlines() if not line.startswith(" ")][:-1]
        return [line[5:] for line in found if line.startswith(f"{status:<5}")]

    def advice(self, beginning: str) -> str:
        lines = self.output.splitlines()
        return next(lines[at + 1].strip() for at, line in enumerate(lines) if line[5:].startswith(beginning))


def flask(environment: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    program, *_ = procfile_command("release")
    command = [program, "--app", "wsgi", *arguments]
    return subprocess.run(
        command, env=base_environment() | dict(environment), cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )


def examine_as_process(environment: Mapping[str, str], *urls: str) -> Examination:
    started = time.monotonic()
    ended = flask(environment, "doctor", *(word for url in urls for word in ("--url", url)))
    assert ended.stderr == ""
    assert "\x1b" not in ended.stdout
    return checked(Examination(ended.returncode, ended.stdout, time.monotonic() - started))


def examine(environment: Mapping[str, str], *urls: str) -> Examination:
    """Run the command in this process, which saves the start of another."""
    app = create_app(config.load(environment))
    started = time.monotonic()
    try:
        ended = app.test_cli_runner().invoke(args=["doctor", *(word for url in urls for word in ("--url", url))])
        return checked(Examination(ended.exit_code, ended.output, time.monotonic() - started))
    finally:
        logging.disable(logging.NOTSET)
        lifecycle: Lifecycle = app.extensions["lifecycle"]
        lifecycle.stop(lifecycle.drain(), 1)


def examine_as_json(environment: Mapping[str, str]) -> str:
    app = create_app(config.load(environment))
    try:
        return app.test_cli_runner().invoke(args=["doctor", "--json"]).output
    finally:
        logging.disable(logging.NOTSET)
        lifecycle: Lifecycle = app.extensions["lifecycle"]
        lifecycle.stop(lifecycle.drain(), 1)


def checked(found: Examination) -> Examination:
    assert found.status == (1 if found.all_lines("fail") else 0), found.output
    return found


class Proxy(Server):
    """nginx as somebody might set it up by hand: a good configuration, and changes to it."""

    def __init__(self, instances: Sequence[Instance], changes: Mapping[str, str], *, tls: bool = False) -> None:
        super().__init__()
        self._instances = instances
        self._changes = changes
        self._tls = tls

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        file = self.folder / "nginx.conf"
        file.write_text(self._configuration())
        return ["nginx", "-p", str(self.folder), "-c", str(file), "-e", "stderr"]

    def _configuration(self) -> str:
        servers = {
            instance.environment.get("INSTANCE_ID", "nameless"): f"127.0.0.1:{instance.port}" for instance in self._instances
        }
        routes = "".join(f'"~^{name}\\." {name};' for name in servers)
        upstreams = "".join(f"upstream {name} {{ server {address}; }}" for name, address in servers.items())
        every = "".join(f"server {address} max_fails=0;" for address in servers.values())
        paths = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        text = f"""
            daemon off; master_process off; pid nginx.pid; error_log stderr crit;
            events {{ worker_connections 1024; }}
            http {{
                access_log off; {paths}
                map $http_upgrade $connection_header {{ default upgrade; "" ""; }}
                map $arg_sid $instances {{ default all; {routes} }}
                upstream all {{ {every} }} {upstreams}
                server {{
                    listen 127.0.0.1:{self.port}{" ssl" if self._tls else ""};
                    location = /metrics {{ return 404; }}
                    location / {{
                        proxy_pass http://$instances;
                        proxy_http_version 1.1;
                        proxy_buffering off;
                        proxy_set_header Host $http_host;
                        proxy_set_header X-Forwarded-For $remote_addr;
                        proxy_set_header X-Forwarded-Proto $scheme;
                        proxy_set_header Upgrade $http_upgrade;
                        proxy_set_header Connection $connection_header;
                    }}
                }}
            }}
        """
        for old, new in self._changes.items():
            assert old in text
            text = text.replace(old, new)
        return text

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), "PATH": f"{os.environ['PATH']}:/usr/sbin"}

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False


@pytest.fixture(scope="module")
def fleet(postgres_server: PostgresServer) -> Iterator[Fleet]:
    # Without a Host header of its own, nginx sends the name of the upstream.
    hosts = "127.0.0.1, all, instance-1, instance-2"
    with Fleet(postgres_server, workers=1, settings={"TRUSTED_PROXIES": "1", "TRUSTED_HOSTS": hosts}) as fleet:
        yield fleet


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def accounts_of_the_doctor(database_url: str) -> int:
    with closing(psycopg2.connect(database_url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM users WHERE email LIKE 'doctor-%'")
        ((count,),) = cursor.fetchall()
        return int(count)


def test_healthy_fleet_and_proxy_have_no_findings(fleet: Fleet) -> None:
    one, two = fleet.instances
    with Proxy(fleet.instances, {}) as proxy:
        found = examine_as_process(fleet.environment, one.url, two.url, proxy.url)
    assert (found.status, found.lines("fail"), found.lines("warn")) == (0, [], []), found.output
    good = found.lines("ok")
    for line in (
        f"{proxy.url} reaches through a proxy: instance-1, instance-2",
        f"{one.url} reaches directly: instance-1",
        f"sessions: a session opened at {one.url} (instance-1) is known at {two.url} (instance-2)",
        f"sessions: a session opened at {one.url} (instance-1) is known at {proxy.url} (instance-1, instance-2)",
        f"{proxy.url}: long polling connects",
        f"{proxy.url}: WebSocket connects",
        f"{proxy.url}: a request of its own pages is accepted (Origin, Host with its port)",
        f"{proxy.url}: a request of another site's pages is rejected",
        f"{proxy.url}: a socket of its own pages is accepted",
        f"{proxy.url}: a socket of another site's pages is rejected",
        f"{proxy.url}: the client address arrives (127.0.0.77), a forged X-Forwarded-For is ignored",
        f"{proxy.url}: /metrics is closed (404)",
    ):
        assert line in good, found.output
    assert any(line.startswith("messages: a notification from this process arrived at all 8 sockets") for line in good)
    assert not any(fleet.environment[name] in found.output for name in ("SESSION_ENCRYPTION_KEY", "SESSION_SECRET"))
    assert accounts_of_the_doctor(fleet.environment["DATABASE_URL"]) == 0


NO_ADDRESS = {"proxy_set_header X-Forwarded-For $remote_addr;": 'proxy_set_header X-Forwarded-For "";'}


@pytest.mark.parametrize(
    ("changes", "faults", "advice"),
    [
        pytest.param(
            {"proxy_set_header Upgrade $http_upgrade;": "", "$connection_header;": '"";'},
            ["WebSocket does not connect: Connection error; the handshake is answered with 400 instead of 101"],
            "Let the proxy pass on the upgrade",
            id="the upgrade is dropped",
        ),
        pytest.param(
            NO_ADDRESS,
            ["the client address does not arrive: the instance sees 127.0.0.1 instead of 127.0.0.77"],
            "Let the proxy send X-Forwarded-For",
            id="the address is not passed",
        ),
        pytest.param(
            {"proxy_set_header X-Forwarded-For $remote_addr;": ""},
            ["a client can forge X-Forwarded-For"],
            "Let the proxy replace or extend the header",
            id="the address can be forged",
        ),
        pytest.param(
            {"Host $http_host;": "Host $host;"},
            [
                "a request of its own pages is rejected: the Host header loses its port",
                "a socket of its own pages is rejected (Origin URL)",
            ],
            "nginx: proxy_set_header Host $http_host (not $host)",
            id="the port of the host is lost",
        ),
        pytest.param(
            {"proxy_set_header Host $http_host;": ""},
            [
                "a request of its own pages is rejected: the Host header does not arrive",
                "a socket of its own pages is rejected (Origin URL)",
            ],
            "Let the proxy pass on Host unchanged",
            id="the host is lost",
        ),
        pytest.param(
            {"X-Forwarded-Proto $scheme": "X-Forwarded-Proto https"},
            [
                "a request of its own pages is rejected: the instance takes it for https",
                "a socket of its own pages is rejected (Origin URL)",
            ],
            "Let the proxy send X-Forwarded-Proto",
            id="the scheme is another one",
        ),
        pytest.param(
            {"proxy_set_header Host": 'proxy_set_header Origin ""; proxy_set_header Host'},
            [
                "a request of another site's pages was answered with 204 instead of 403",
                "a socket of another site's pages is accepted",
            ],
            "The proxy must not change Origin and Sec-Fetch-Site",
            id="the origin is hidden",
        ),
        pytest.param(
            {"location = /metrics { return 404; }": "", **NO_ADDRESS, "proxy_set_header X-Forwarded-Proto $scheme;": ""},
            [
                "/metrics is public",
                "the client address does not arrive: the instance sees 127.0.0.1 instead of 127.0.0.77",
            ],
            "Block it in the proxy",
            id="metrics are open",
        ),
    ],
)
def test_proxy_faults_are_found(fleet: Fleet, changes: dict[str, str], faults: list[str], advice: str) -> None:
    with Proxy(fleet.instances, changes) as proxy:
        found = examine(fleet.environment, proxy.url)
    assert found.lines("fail") == [f"{proxy.url}: {fault.replace('URL', proxy.url)}" for fault in faults], found.output
    assert found.advice(f"{proxy.url}: {faults[0]}").startswith(advice)


def test_unrouted_long_polling_is_found(fleet: Fleet) -> None:
    with Proxy(fleet.instances, {"map $arg_sid $instances": "map $arg_nothing $instances"}) as proxy:
        found = examine(fleet.environment, proxy.url)
    (fault,) = found.lines("fail")
    assert fault.startswith(f"{proxy.url}: long polling does not connect"), found.output
    assert "SOCKET_TRANSPORTS=websocket" in found.advice(fault)


def test_missing_instance_behind_the_proxy_is_found(fleet: Fleet) -> None:
    away = Instance(fleet.environment)  # never started: its port refuses
    with closing(away), Proxy([fleet.instances[0], away], {"location / {": "location / { proxy_next_upstream off;"}) as proxy:
        found = examine(fleet.environment, proxy.url)
    assert any("requests itself, with 502" in line for line in found.lines("fail")), found.output


def test_frozen_instance_behind_the_proxy_is_found(fleet: Fleet) -> None:
    two = fleet.instances[1]
    with Proxy(fleet.instances, {}) as proxy, two.lost("freeze"):
        found = examine(fleet.environment, proxy.url)
    (fault,) = found.lines("fail")
    assert fault.endswith(" requests failed: the request timed out"), found.output
    assert found.seconds < LIMIT_SECONDS
    wait_until(lambda: is_ready(two), what="the instance to be itself again")


def is_ready(instance: Instance) -> bool:
    with suppress(httpx.TransportError):
        return User(instance).get("/health/ready").status_code == 200
    return False


def test_production_over_plain_http_is_explained(fleet: Fleet) -> None:
    environment = {**fleet.environment, "APP_ENV": "production", "SHUTDOWN_DELAY": "0", "INSTANCE_ID": "instance-3"}
    with Instance(environment) as instance, Proxy([instance], {}) as proxy:
        found = examine(environment, proxy.url, instance.url)
    assert found.lines("fail") == [f"{proxy.url}: nobody can sign in over plain http, because production cookies are Secure"]


def test_websocket_only_instance_has_no_failure(fleet: Fleet) -> None:
    with Instance({**fleet.environment, "SOCKET_TRANSPORTS": "websocket", "INSTANCE_ID": "instance-3"}) as instance:
        found = examine(fleet.environment, instance.url)
    assert found.lines("fail") == [], found.output
    assert f"{instance.url}: long polling is not offered" in found.lines("ok")


def test_https_with_a_private_certificate_authority(fleet: Fleet, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    environment = {**fleet.environment, "APP_ENV": "production", "SHUTDOWN_DELAY": "0", "INSTANCE_ID": "instance-3"}
    changes = {"location = ": f"ssl_certificate {certificate}; ssl_certificate_key {key}; location = "}
    with Instance(environment) as instance, Proxy([instance], changes, tls=True) as proxy:
        untrusted = examine(environment, proxy.url)
        found = examine_as_process({**environment, "REQUESTS_CA_BUNDLE": str(certificate)}, proxy.url)
    assert untrusted.lines("fail") == [f"{proxy.url} does not answer: the certificate is not trusted: self-signed certificate"]
    assert untrusted.advice(f"{proxy.url} does not answer").startswith("For a private authority: REQUESTS_CA_BUNDLE=")
    assert found.lines("fail") == [], found.output
    assert f"{proxy.url}: WebSocket connects" in found.lines("ok")


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Create the files of a certificate for 127.0.0.1 and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


@contextmanager
def stray(environment: Mapping[str, str]) -> Iterator[Instance]:
    """Start an instance that may never become ready."""
    with closing(Instance({**environment, "INSTANCE_ID": "stray"})) as instance, client_without_cookies() as http:
        instance.start(wait_ready=False)
        wait_until(lambda: has_judged_itself(http, instance), what="the instance to know whether it is ready")
        yield instance


def has_judged_itself(http: httpx.Client, instance: Instance) -> bool:
    with suppress(httpx.TransportError):
        return not any(" yet" in reason for reason in http.get(f"{instance.url}/health/ready").json()["reasons"])
    return False


def test_instance_with_another_redis_is_found(fleet: Fleet, own_redis: RedisServer) -> None:
    one = fleet.instances[0]
    with stray({**fleet.environment, "REDIS_URL": own_redis.url}) as instance:
        found = examine(fleet.environment, one.url, instance.url)
    faults = found.lines("fail")
    elsewhere = f"{instance.url}: sessions of stray are not in the store that this process uses"
    assert elsewhere in faults, found.output
    assert "REDIS_URL" in found.advice(elsewhere)
    assert f"sessions: a session opened at {one.url} (instance-1) is not known at {instance.url} by stray" in faults
    # What it is not told over Redis it finds in SQL.
    assert [line.partition(" took ")[0] for line in found.lines("warn")] == ["messages: a notification from this process"]


def test_instance_with_another_database_is_found(fleet: Fleet, database_url: str, own_redis: RedisServer) -> None:
    environment = {**fleet.environment, "DATABASE_URL": database_url, "REDIS_URL": own_redis.url, "INSTANCE_ID": "stray"}
    with Instance(environment) as instance:
        found = examine(fleet.environment, instance.url)
    assert found.lines("fail") == [
        f"{instance.url}: stray does not know the account that was just created in the database of this process"
    ], found.output


def test_instance_with_other_secrets_is_found(fleet: Fleet) -> None:
    one = fleet.instances[0]
    with stray(fleet_environment(fleet.environment["REDIS_URL"], fleet.environment["DATABASE_URL"])) as instance:
        found = examine(fleet.environment, one.url, instance.url)
    faults = found.lines("fail")
    assert any(
        line.startswith(f"{instance.url}: stray is not ready: this instance has no encryption and no signing key")
        for line in faults
    )
    unknown = f"sessions: a session opened at {one.url} (instance-1) is not known at {instance.url} by stray"
    assert unknown in faults, found.output
    assert found.advice(unknown).startswith("Set the same SESSION_SECRET, SESSION_ENCRYPTION_KEY and APP_ENV")


@pytest.mark.parametrize(
    ("settings", "status", "beginning"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "fail", "redis: eviction policy allkeys-lru"),
        ({"appendonly": "no"}, "warn", "redis: persistence without append-only file"),
        ({"maxmemory": "1mb"}, "fail", "redis: uses "),
        ({"maxmemory": "100kb"}, "fail", "redis: uses "),
    ],
)
def test_unsafe_redis_settings_are_found(
    own_redis: RedisServer, database_url: str, settings: dict[str, Any], status: str, beginning: str
) -> None:
    environment = fleet_environment(own_redis.url, database_url)
    with own_redis.client() as client:
        for name, value in settings.items():
            client.config_set(name, value)
    found = examine(environment)
    assert any(line.startswith(beginning) for line in found.lines(status)), found.output
    assert len(found.lines("fail")) == (status == "fail")
    is_full = settings.get("maxmemory") == "100kb"
    assert len(found.lines("warn")) == (status == "warn") + is_full
    of_fleet = "\n".join(line for line in found.all_lines("warn") if line.startswith("fleet:"))
    assert of_fleet.startswith("fleet: the instances and workers were not examined, because Redis refuses writes (") == is_full
    assert ("no instance is registered" in of_fleet) != is_full


@contextmanager
def delayed(port: int, seconds: float) -> Iterator[int]:
    """Open a port that forwards everything to another port after a delay."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, port, seconds), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, port: int, seconds: float) -> None:
    with suppress(OSError):
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for source, target, delay in ((near, far, seconds), (far, near, 0.0)):
                threading.Thread(target=_pump, args=(source, target, delay), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, seconds: float) -> None:
    with suppress(OSError), source:
        while data := source.recv(65536):
            time.sleep(seconds)
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("seconds", "status"), [(0.003, "warn"), (0.015, "fail")])
def test_slow_redis_is_found(own_redis: RedisServer, database_url: str, seconds: float, status: str) -> None:
    with delayed(own_redis.port, seconds) as port:
        environment = fleet_environment(f"redis://127.0.0.1:{port}", database_url)
        found = examine(environment)
    statuses = (status, "fail")  # on a busy machine it is even slower
    (line,) = {line for one in statuses for line in found.all_lines(one) if line.startswith("redis answers: ")}
    assert float(line.split()[2]) >= seconds * 1000


def test_wrong_password_is_found_and_not_printed(database_url: str) -> None:
    with RedisServer(password=PASSWORD) as server:
        wrong = server.url.replace(PASSWORD, f"not-{PASSWORD}")
        environment = fleet_environment(wrong, database_url)
        found = examine(environment)
        right = examine({**environment, "REDIS_URL": server.url})
        as_json = examine_as_json(environment)
    assert found.lines("fail") == [f"redis refuses the password: 127.0.0.1:{server.port}/0"]
    assert right.lines("fail") == []
    assert json.loads(as_json)["failed"] == 1
    assert PASSWORD not in found.output + right.output + as_json


def test_unreachable_redis_is_found_and_other_checks_continue(fleet: Fleet) -> None:
    port, url = free_port(), fleet.instances[0].url
    found = examine({**fleet.environment, "REDIS_URL": f"redis://127.0.0.1:{port}"}, url)
    assert found.lines("fail") == [f"redis does not answer: 127.0.0.1:{port}: Connection refused"], found.output
    assert "database: the schema is up to date" in found.lines("ok")
    assert f"{url}: ready" in found.lines("ok")
    assert [line.partition(" ")[0] for line in found.lines("warn")] == ["database:", "sessions"]
    assert [line for line in found.all_lines("warn") if line.startswith(("fleet:", "stops:"))] == [
        "fleet: the instances and workers were not examined, because Redis does not answer"
    ]


def test_frozen_servers_are_found_in_bounded_time(own_redis: RedisServer) -> None:
    with PostgresServer() as postgres:
        environment = fleet_environment(own_redis.url, postgres.create_database())
        with Instance({**environment, "INSTANCE_ID": "instance-1"}) as instance:
            with own_redis.lost("freeze"), postgres.lost("freeze"):
                found = examine(environment, instance.url)
            with instance.lost("freeze"):
                of_instance = examine(environment, instance.url)
    assert [line.partition(":")[0] for line in found.lines("fail")][:2] == [
        "redis does not answer within 2 s",
        "database does not answer",
    ], found.output
    assert found.seconds < LIMIT_SECONDS
    assert of_instance.lines("fail") == [f"{instance.url} does not answer: the request timed out"], of_instance.output
    assert of_instance.seconds < LIMIT_SECONDS


def test_refusing_and_read_only_databases_are_found(redis_url: str) -> None:
    with PostgresServer(password=PASSWORD) as postgres:
        url = postgres.create_database()
        environment = fleet_environment(redis_url, url)
        refused = examine({**environment, "DATABASE_URL": url.replace(PASSWORD, f"not-{PASSWORD}")})
        with postgres.read_only(url):
            read_only = examine(environment)
    (fault,) = refused.lines("fail")
    assert fault.startswith("database does not answer: ")
    assert "password authentication failed" in fault
    assert "fleet: the workers were not examined, because that needs the database" in refused.all_lines("warn")
    assert read_only.lines("fail") == ["database: it is read-only, for example a standby"]
    assert PASSWORD not in refused.output + read_only.output


def test_missing_schema_is_found(redis_url: str, empty_database_url: str) -> None:
    found = examine(fleet_environment(redis_url, empty_database_url))
    assert found.lines("fail") == ["database: the schema is missing"]
    assert found.advice("database: the schema is missing") == "Run: flask --app wsgi schema upgrade"


def test_all_configuration_errors_are_listed_without_values(fleet: Fleet) -> None:
    faulty = {**fleet.environment, "LOG_FORMAT": "hunter2", "SESSION_SECRET": "hunter2", "DATABASE_URL": "hunter2://hunter2"}
    found = examine_as_process(faulty, fleet.instances[0].url)
    names = [line.split(":")[1].strip() for line in found.lines("fail")]
    assert sorted(names) == ["DATABASE_URL", "LOG_FORMAT", "SESSION_SECRET"], found.output
    assert f"{fleet.instances[0].url}: ready" in found.lines("ok")
    assert "hunter2" not in found.output
    assert flask(faulty, "schema", "upgrade").returncode == EX_CONFIG


def test_embedded_instance_is_examined(tmp_path: Path) -> None:
    environment = embedded_environment(tmp_path)
    assert examine(environment).lines("fail") == [f"database: there is no file {tmp_path}/reporadar.db"]
    assert not (tmp_path / "reporadar.db").exists()
    migrate(environment)
    with Instance(environment) as instance:
        found = examine(environment, instance.url)
    assert (found.status, found.lines("warn")) == (0, []), found.output
    assert f"{instance.url}: WebSocket connects" in found.lines("ok")
    assert "database: the write-ahead log (WAL) is in use" in found.lines("ok")


def test_several_instances_in_embedded_mode_are_found(fleet: Fleet, tmp_path: Path) -> None:
    environment = embedded_environment(tmp_path)
    migrate(environment)
    found = examine(environment, *(instance.url for instance in fleet.instances))
    assert found.lines("fail")[0].startswith(
        "configuration: several instances answer (instance-1, instance-2), but this process is in embedded mode"
    )
    assert "USE_REDIS_SESSIONS=true" in found.advice("configuration: several instances")


def test_address_without_an_instance_is_found(fleet: Fleet) -> None:
    refusing, silent = free_port(), free_port()
    with socket.create_server(("127.0.0.1", silent)):
        found = examine(fleet.environment, f"http://127.0.0.1:{refusing}", f"http://127.0.0.1:{silent}")
    assert found.lines("fail") == [
        f"http://127.0.0.1:{refusing} does not answer: Connection refused",
        f"http://127.0.0.1:{silent} does not answer: the request timed out",
    ]
    assert found.seconds < LIMIT_SECONDS


def test_doctor_leaves_no_session_in_redis(fleet: Fleet) -> None:
    examine(fleet.environment, *(instance.url for instance in fleet.instances))
    with redis.Redis.from_url(fleet.environment["REDIS_URL"], single_connection_client=True) as client:
        assert list(client.scan_iter("session:*")) == []
    with client_without_cookies() as http:
        assert http.get(f"{fleet.instances[0].url}/health/live").status_code == 200


def test_dead_letters_are_found(own_redis: RedisServer, database_url: str) -> None:
    with own_redis.client() as client:
        client.xadd("analytics:poison", {"event": "bad"})
    found = examine(fleet_environment(own_redis.url, database_url))
    line = "fleet: workers: 1 events are dead-lettered: list them with flask --app wsgi events dead-letters"
    assert line in found.all_lines("warn"), found.output
