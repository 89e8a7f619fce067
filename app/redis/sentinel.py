"""The current primary of a Redis that sentinels watch, and connections that are closed as soon as it is another server.

The rules for clients are those of https://redis.io/docs/latest/develop/reference/sentinel-clients/, except that all sentinels
are asked at once: one that hangs delays nobody for long, and one that was cut off still names the former primary.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection
from redis.retry import Retry

from app.core.config_parsers import RedisServers
from app.core.warnings import OperatorWarning
from app.redis.failover import AbortableConnection, ConnectionRegistry

log = logging.getLogger(__name__)

Address = tuple[str, int]  # host and port

ASK_SECONDS = 0.4  # for the answers of all sentinels, before a connection can be opened
SENTINEL_TIMEOUT_SECONDS = 1.0  # for the first answer, if there is none until then
WATCH_SECONDS = 1.0  # between two questions whether the primary has changed, if no sentinel announces it
LISTEN_SECONDS = 5.0  # without an announcement, after which the thread that listens looks whether it should stop
# The first comes shortly before a replica stops following the primary, the others when it is the primary itself.
PROMOTION, ANNOUNCEMENTS = "+failover-state-send-slaveof-noone", ("+promoted-slave", "+switch-master")
PROMOTION_SECONDS = 3.0  # at most; usually one. What the former primary accepts meanwhile would be lost


class SentinelClient:
    """One sentinel, asked in a thread of its own."""

    def __init__(self, address: Address, service: str, options: Mapping[str, Any]) -> None:
        host, port = address
        self.name = f"{host}:{port}"
        self.primary: Address | None = None  # the last answer; None while it is being asked
        self.epoch = -1  # of the configuration that it knows; the highest one is the newest
        self.error = ""  # why there is no answer
        self.is_late = False  # from an answer that did not come in time until one that did
        self._service = service
        self._idle = threading.Event()
        self._idle.set()
        self.client: redis.Redis = redis.Redis(host, port, **options)

    def ask(self) -> None:
        """Begin to ask, unless the last answer is still missing."""
        if self._idle.is_set():
            self._idle.clear()
            self.primary, self.error = None, "does not answer"
            threading.Thread(target=self._ask, name=f"sentinel {self.name}", daemon=True).start()

    def wait(self, timeout: float) -> None:
        self.is_late = not self._idle.wait(max(0.0, timeout))

    def listen(self, on_promotion: Callable[[], None], changed: threading.Event, stop: threading.Event) -> None:
        """Set `changed` whenever the sentinel announces a new primary. Return at most LISTEN_SECONDS after `stop` is set.

        `on_promotion` is called before a replica is made the primary.
        """
        while not stop.is_set():
            announcements: Any = self.client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
            with suppress(redis.RedisError), announcements:
                announcements.subscribe(PROMOTION, *ANNOUNCEMENTS)
                while not stop.is_set():
                    message = announcements.get_message(timeout=LISTEN_SECONDS)
                    if message and message["channel"] != PROMOTION.encode():
                        changed.set()
                    elif message and f"@ {self._service} ".encode() in message["data"]:
                        on_promotion()
            stop.wait(WATCH_SECONDS)

    def close(self) -> None:
        """Close the connections that are not in use. The thread that listens closes its own."""
        self.client.connection_pool.disconnect(inuse_connections=False)

    def _ask(self) -> None:
        try:
            pipeline: Any = self.client.pipeline(transaction=False)
            pipeline.execute_command("SENTINEL", "MASTER", self._service)
            # Last, because this names the new primary already while the sentinels tell it to the replicas.
            pipeline.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            state, address = pipeline.execute()
            self.epoch = int(dict(zip(state[::2], state[1::2], strict=True))[b"config-epoch"])
            self.primary, self.is_late = (address[0].decode(), int(address[1])), False
        except redis.AuthenticationError:
            self.error = "refuses the password (REDIS_SENTINEL_PASSWORD, or the one in REDIS_URL)"
        except redis.ResponseError as error:
            is_unknown = "No such master" in str(error)
            self.error = f"knows no service {self._service!r} (REDIS_URL)" if is_unknown else str(error)
        except redis.TimeoutError:
            pass  # `error` says so already, and callers that did not wait so long have logged it
        except Exception as error:  # must not end the thread without an answer, which callers wait for
            self.error = str(error) or type(error).__name__
        finally:
            self._idle.set()


class Sentinels:
    """Finds the primary of a service. Closes the connections to any other server, so that they are opened to the primary."""

    def __init__(self, servers: RedisServers, password: str | None, tls_options: Mapping[str, Any]) -> None:
        """`password`: of the sentinels, where it differs from that of the servers. `tls_options`: used if the URL has TLS."""
        assert servers.service is not None
        self.service = servers.service
        self._servers = servers
        password = password or servers.password
        options = {
            # With the name of the default user, a sentinel without a password accepts any.
            **({"username": "default", "password": password} if password else {}),
            **({"ssl": True, **tls_options} if servers.has_tls else {}),
            "socket_timeout": SENTINEL_TIMEOUT_SECONDS,
            "socket_connect_timeout": SENTINEL_TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        self.clients = [SentinelClient(address, self.service, options) for address in servers.addresses]
        self._lock = threading.Lock()
        self._asked_at = 0.0
        self._primary: Address | None = None
        self._error: str | None = None
        self._answering: int | None = None
        self._former: Address | None = None  # the primary that a replica is about to replace
        self._promotion_ends_at = 0.0
        self.connections = ConnectionRegistry()
        self._changed = threading.Event()
        self._stop = threading.Event()

    @property
    def connection_options(self) -> dict[str, Any]:
        """Keyword arguments of a connection pool, beside those of the network, for connections to the primary."""
        return {
            "connection_class": PrimarySSLConnection if self._servers.has_tls else PrimaryConnection,
            "sentinels": self,
            "username": self._servers.username,
            "password": self._servers.password,
            "db": self._servers.database,
        }

    def find_primary(self) -> Address:
        """Ask the sentinels. Callers that arrive meanwhile share the answer. Raises redis.ConnectionError after 1 s."""
        called_at = time.monotonic()
        with self._lock:
            if self._asked_at <= called_at:
                self._ask()
                self._asked_at = time.monotonic()
        if self._primary is None or self._error:
            raise redis.ConnectionError(self._error)
        if self._primary == self._former and time.monotonic() < self._promotion_ends_at:
            raise redis.ConnectionError("A replica is being made the primary.")
        return self._primary

    def run(self) -> None:
        """Watch the primary until `stop` is called.

        A former primary may still answer for a while, and what it takes is lost. Connections that are silent or only read would
        stay with it even longer.
        """
        for sentinel in self.clients:
            threading.Thread(
                target=sentinel.listen, args=(self._on_promotion, self._changed, self._stop), name=sentinel.name, daemon=True
            ).start()
        while not self._stop.is_set():
            with suppress(redis.ConnectionError):  # it is logged, and open connections may be fine
                self.find_primary()
            self._changed.wait(WATCH_SECONDS)
            self._changed.clear()

    def find_warning(self) -> OperatorWarning | None:
        """Return what an operator should fix before the primary fails, or None."""
        if self._answering is None or 2 * self._answering > len(self.clients):
            return None
        text = f"too few sentinels answer for a failover: {self._answering} of {len(self.clients)}"
        return OperatorWarning("sentinels_down", text)

    def find_cause(self) -> str | None:
        """Return why no connection can be opened, without addresses, or None."""
        return "no sentinel names a primary; the log says why" if self._error else None

    def stop(self) -> None:
        self._stop.set()
        self._changed.set()

    def close(self) -> None:
        self.stop()
        for sentinel in self.clients:
            sentinel.close()

    def leave(self, address: Address, reason: str) -> None:
        """Close all connections to a server. The next ones are opened to the server that the sentinels name then."""
        if self.connections.abort(lambda connection: connection.address == address):
            log.warning("closed the connections to %s:%d: %s", *address, reason)

    def _on_promotion(self) -> None:
        """Stop using the primary: it still works if the failover was ordered, but what it accepts from now on is lost."""
        if self._primary:
            self._former, self._promotion_ends_at = self._primary, time.monotonic() + PROMOTION_SECONDS
            self.leave(self._primary, "a replica is being made the primary")

    def _ask(self) -> None:
        asked_at = time.monotonic()
        for sentinel in self.clients:
            sentinel.ask()
        for sentinel in self.clients:
            if not sentinel.is_late:
                sentinel.wait(asked_at + ASK_SECONDS - time.monotonic())
        for sentinel in self.clients:
            if not any(one.primary for one in self.clients):
                sentinel.wait(asked_at + SENTINEL_TIMEOUT_SECONDS - time.monotonic())
        answers = [sentinel for sentinel in self.clients if sentinel.primary]
        self._answering = len(answers)
        if answers:
            self._on_primary(max(answers, key=lambda sentinel: sentinel.epoch).primary)
        else:
            self._on_silence()

    def _on_primary(self, primary: Address | None) -> None:
        assert primary is not None
        if primary != self._primary or self._error:
            log.info("the sentinels name %s:%d as the primary of %s", *primary, self.service)
        self._primary, self._error = primary, None
        self.connections.abort(lambda connection: connection.address != primary)

    def _on_silence(self) -> None:
        error = "no sentinel names a primary: " + "; ".join(f"{sentinel.name} {sentinel.error}" for sentinel in self.clients)
        if error != self._error:
            log.warning("%s", error)
        self._error = error


class PrimaryConnection(AbortableConnection):
    """A connection that is opened to the current primary, whatever that is at the time."""

    def __init__(self, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(sentinels.connections, **options)
        self._sentinels = sentinels

    @property
    def address(self) -> Address:
        return self.host, self.port

    def on_read_only(self) -> None:
        self._sentinels.leave(self.address, "it is no longer the primary (READONLY)")

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return super().read_response(*arguments, **options)
        except redis.exceptions.ReadOnlyError as error:
            raise redis.ConnectionError("Redis is no longer the primary.") from error

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        self.send_command("ROLE", check_health=False)  # type: ignore[no-untyped-call]
        if self.read_response()[0] != b"master":
            raise redis.ConnectionError(f"{self.host}:{self.port} is a replica, although the sentinels name it as the primary")

    def _connect(self) -> Any:
        self.host, self.port = self._sentinels.find_primary()
        return super()._connect()


class PrimarySSLConnection(PrimaryConnection, SSLConnection):
    """The same with TLS."""
