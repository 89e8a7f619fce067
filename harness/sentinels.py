"""A primary with two replicas, watched by three sentinels that fail over within a few seconds.

with ReplicatedRedis() as servers:
    environment = fleet_environment(servers.url, database_url)
    ...
    servers.primary.kill()
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.fleet import start_together
from harness.git_server import issue_certificates
from harness.servers import RedisServer, Server, ServerGroup, wait_until

SERVICE = "reporadar"
QUORUM = 2
# Long enough for a machine that is busy with other tests: a server that is only slow is not to be failed over.
DOWN_AFTER_MS = 2000
FAILOVER_TIMEOUT_MS = 5000
_LOG_TIME = "%d %b %Y %H:%M:%S.%f"


class Passwords(NamedTuple):
    servers: str | None = None
    sentinels: str | None = None


NO_PASSWORDS = Passwords()


class Certificates(NamedTuple):
    """A certificate authority, and the certificate of all servers with its key."""

    authority: Path
    server: Path


class SentinelEvent(NamedTuple):
    """A line of a sentinel's log, such as `+switch-master reporadar 127.0.0.1 20001 127.0.0.1 20002`."""

    at: float  # seconds since the epoch
    name: str
    data: str


class Replicated(RedisServer):
    """A Redis server that starts as the primary or as a replica of it. The sentinels may change its role later."""

    def __init__(self, primary: Replicated | None, password: str | None, certificates: Certificates | None) -> None:
        super().__init__(password)
        self._primary_port = primary.port if primary else None
        self._certificates = certificates
        if certificates:
            self.url = self.url.replace("redis:", "rediss:") + f"?ssl_ca_certs={certificates.authority}"

    def role(self) -> str:
        """Return `master` or `slave`, as the server calls itself."""
        with self.client() as client:
            return str(client.execute_command("ROLE")[0])

    def demote(self, primary: Replicated) -> None:
        """Make the server a replica, without the sentinels. It keeps its connections and refuses writes."""
        with self.client() as client:
            client.replicaof("127.0.0.1", primary.port)

    def promote(self) -> None:
        """Make the server a primary, without the sentinels."""
        with self.client() as client:
            client.replicaof("NO", "ONE")

    def _command(self) -> list[str]:
        options = {"repl-diskless-sync-delay": "0", "repl-timeout": "5"}
        if self._primary_port:
            options["replicaof"] = f"127.0.0.1 {self._primary_port}"
        if self.password:
            options["masterauth"] = self.password
        command = [*super()._command(), *itertools.chain.from_iterable((f"--{name}", value) for name, value in options.items())]
        if self._certificates:
            command[command.index("--port") + 1] = "0"
            command += ["--tls-port", str(self.port), "--tls-replication", "yes", *_tls_options(self._certificates, "--")]
        return command


class Sentinel(Server):
    """One sentinel. It remembers what it learned through restarts, in the configuration file that it rewrites."""

    def __init__(self) -> None:
        super().__init__()
        self.id = secrets.token_hex(20)
        self._file = self.folder / "sentinel.conf"
        self._options: dict[str, Any] = {}

    def configure(
        self,
        servers: Sequence[Replicated],
        sentinels: Sequence[Sentinel],
        passwords: Passwords = NO_PASSWORDS,
        certificates: Certificates | None = None,
    ) -> None:
        """Write the configuration. It names the replicas and the other sentinels, which would take seconds to be found."""
        primary, *replicas = servers
        lines = [
            "bind 127.0.0.1",
            f"dir {self.folder}",
            *([f"port {self.port}"] if certificates is None else ["port 0", f"tls-port {self.port}", "tls-replication yes"]),
            *_tls_lines(certificates),
            f"sentinel myid {self.id}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {QUORUM}",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} {FAILOVER_TIMEOUT_MS}",
            f"sentinel parallel-syncs {SERVICE} {len(replicas)}",
            *(f"sentinel known-replica {SERVICE} 127.0.0.1 {replica.port}" for replica in replicas),
            *(f"sentinel known-sentinel {SERVICE} 127.0.0.1 {other.port} {other.id}" for other in sentinels if other is not self),
        ]
        if passwords.servers:
            lines.append(f"sentinel auth-pass {SERVICE} {passwords.servers}")
        if passwords.sentinels:
            lines += [f"requirepass {passwords.sentinels}", f"sentinel sentinel-pass {passwords.sentinels}"]
        self._file.write_text("\n".join([*lines, ""]))
        self._options = {"password": passwords.sentinels, "ssl": certificates is not None}
        if certificates:
            self._options["ssl_ca_certs"] = str(certificates.authority)

    def client(self) -> redis.Redis:
        """Return a client for a `with` block."""
        return redis.Redis(
            "127.0.0.1",
            self.port,
            decode_responses=True,
            single_connection_client=True,
            socket_timeout=2,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            **self._options,
        )

    def primary_port(self) -> int | None:
        """Return the port of the server that this sentinel names as the primary, or None if it does not answer."""
        with suppress(redis.RedisError), self.client() as client:
            return int(client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)[1])
        return None

    def state(self) -> dict[str, Any]:
        """Return what SENTINEL MASTER tells."""
        with self.client() as client:
            found: dict[str, Any] = client.sentinel_master(SERVICE)
            return found

    def fail_over(self) -> None:
        with self.client() as client:
            client.execute_command("SENTINEL FAILOVER", SERVICE)

    def events(self) -> list[SentinelEvent]:
        return [event for line in self.log().splitlines() if (event := _parse_event(line))]

    def _command(self) -> list[str]:
        return ["redis-server", str(self._file), "--sentinel"]

    def _answers(self) -> bool:
        with suppress(redis.ConnectionError), self.client() as client:
            return bool(client.ping())
        return False


class ReplicatedRedis(ServerGroup):
    """One primary, two replicas and three sentinels. `servers[0]` is the first primary."""

    def __init__(self, passwords: Passwords = NO_PASSWORDS, *, tls: bool = False) -> None:
        super().__init__()
        self._passwords = passwords
        self._tls = tls

    def _start(self) -> None:
        self.sentinels = [Sentinel() for _ in range(3)]
        certificates = Certificates(*issue_certificates(self.sentinels[0].folder, ("127.0.0.1",))) if self._tls else None
        self.authority = certificates.authority if certificates else None
        first = Replicated(None, self._passwords.servers, certificates)
        self.servers = [first, *(Replicated(first, self._passwords.servers, certificates) for _ in range(2))]
        for sentinel in self.sentinels:
            sentinel.configure(self.servers, self.sentinels, self._passwords, certificates)
        start_together(self._stack, [*self.servers, *self.sentinels])
        self.wait_until_whole()

    @property
    def url(self) -> str:
        """The value of REDIS_URL."""
        login = f":{self._passwords.servers}@" if self._passwords.servers else ""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis{'s' if self._tls else ''}+sentinel://{login}{hosts}/{SERVICE}/0"

    @property
    def primary(self) -> Replicated:
        """The server that most sentinels name as the primary."""
        ports = [port for sentinel in self.sentinels if (port := sentinel.primary_port())]
        port = max(ports, key=ports.count)
        return next(server for server in self.servers if server.port == port)

    @property
    def replicas(self) -> list[Replicated]:
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def wait_until_whole(self, timeout: float = 60) -> None:
        """Wait until all servers run, two of them as replicas of the third, and all sentinels know that."""
        wait_until(self._is_whole, timeout, "the primary, its replicas and the sentinels to agree")

    def wait_for_failover(self, former: Replicated, timeout: float = 60) -> None:
        """Wait until no sentinel names this server as the primary any more."""
        others = [server.port for server in self.servers if server is not former]
        wait_until(
            lambda: all(sentinel.primary_port() in (None, *others) for sentinel in self.sentinels),
            timeout,
            "the sentinels to fail over",
        )

    def repair(self) -> None:
        """Start and resume what was killed or frozen, and wait until everything is replicated again."""
        for server in [*self.sentinels, *self.servers]:
            if server.status() is None:
                server.resume()
            else:
                server.start()
        primary = self.primary
        for server in self.servers:
            if server is not primary:
                server.demote(primary)  # the sentinels would take ten seconds to do it
        self.wait_until_whole()

    def switched_at(self, since: float) -> float:
        """Return when the first sentinel announced the new primary after this time, in seconds since the epoch."""
        times = [event.at for sentinel in self.sentinels for event in sentinel.events() if event.name == "+switch-master"]
        return min(at for at in times if at > since)

    def _is_whole(self) -> bool:
        try:
            return self._has_replicas() and all(map(_knows_all, self.sentinels))
        except redis.RedisError:
            return False

    def _has_replicas(self) -> bool:
        primary = self.primary
        if {sentinel.primary_port() for sentinel in self.sentinels} != {primary.port} or primary.role() != "master":
            return False
        return all(_replicates(replica, primary) for replica in self.servers if replica is not primary)


def _replicates(replica: Replicated, primary: Replicated) -> bool:
    with replica.client() as client:
        found = client.info("replication")
    return bool(found.get("master_port") == primary.port and found.get("master_link_status") == "up")


def _knows_all(sentinel: Sentinel) -> bool:
    state = sentinel.state()
    if state["flags"] != "master" or state["num-slaves"] < 2 or state["num-other-sentinels"] < 2:
        return False
    with sentinel.client() as client:
        seen = [*client.sentinel_slaves(SERVICE), *client.sentinel_sentinels(SERVICE)]
    return not any("down" in one["flags"] or "disconnected" in one["flags"] for one in seen)


def _tls_lines(certificates: Certificates | None) -> list[str]:
    if certificates is None:
        return []
    options = _tls_options(certificates, "")
    return [f"{name} {value}" for name, value in zip(options[::2], options[1::2], strict=True)]


def _tls_options(certificates: Certificates, prefix: str) -> list[str]:
    options = {
        "tls-cert-file": certificates.server,
        "tls-key-file": certificates.server,
        "tls-ca-cert-file": certificates.authority,
        "tls-auth-clients": "no",
    }
    return list(itertools.chain.from_iterable((prefix + name, str(value)) for name, value in options.items()))


def _parse_event(line: str) -> SentinelEvent | None:
    """Parse `1234:X 30 Nov 2026 16:00:00.123 # +sdown master reporadar 127.0.0.1 20001`."""
    _, _, rest = line.partition(":X ")
    words = rest.split(" ", 6)
    if len(words) < 6 or words[5][:1] not in ("+", "-"):
        return None
    return SentinelEvent(datetime.strptime(" ".join(words[:4]), _LOG_TIME).timestamp(), words[5], " ".join(words[6:]))
