"""Redis clients with short timeouts and no retries, and the interface of the commands that most requests need."""

import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.commands.core import Script
from redis.exceptions import NoScriptError
from redis.retry import Retry

from app.core.config import Config
from app.core.config_parsers import RedisServers, redis_servers
from app.core.errors import Unavailable
from app.redis.cluster import ClusterClient, NodeAddress, Topology, pools_of
from app.redis.failover import FailoverCheck, FailoverConnection, FailoverSSLConnection
from app.redis.sentinel import Sentinels

T = TypeVar("T")

MAX_CONNECTIONS = 50
CONNECTIONS_PER_PROCESS = 2 * MAX_CONNECTIONS + 1  # of an instance: two clients with a pool each, and the shared connection
POOL_TIMEOUT_SECONDS = 0.3  # for a free connection; with the socket timeout, an unresponsive Redis delays a request by 1.3 s
SOCKET_TIMEOUT_SECONDS = 1.0


def connect(
    config: Config, instance_id: str, *, timeout: float = SOCKET_TIMEOUT_SECONDS, sentinels: Sentinels | None = None
) -> redis.Redis:
    """Return a client that connects with its first command. It retries nothing, since a write may not be repeatable.

    The client of a Redis Cluster is a ClusterClient. `sentinels`: those of `sentinels_of`, where another part of the process
    uses them too.
    """
    assert config.redis_url is not None
    options: dict[str, Any] = {
        "client_name": instance_id,
        "max_connections": MAX_CONNECTIONS,
        "timeout": POOL_TIMEOUT_SECONDS,
        "socket_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": redis.DriverInfo(),  # otherwise each new connection reads the version of redis-py from a file
        **_network_options(config),
    }
    if "+cluster://" in config.redis_url:
        return _connect_to_cluster(redis_servers(config.redis_url), options)
    sentinels = sentinels or sentinels_of(config)
    if sentinels:
        pool = redis.BlockingConnectionPool(**sentinels.connection_options, **options)  # type: ignore[no-untyped-call]
    elif config.redis_url.startswith("unix:"):
        pool = redis.BlockingConnectionPool.from_url(config.redis_url, **options)
    else:
        connection_class = FailoverSSLConnection if config.redis_url.startswith("rediss:") else FailoverConnection
        options |= {"connection_class": connection_class, "check": FailoverCheck()}
        pool = redis.BlockingConnectionPool.from_url(config.redis_url, **options)
    return redis.Redis.from_pool(pool)  # so that closing the client closes the pool


def sentinels_of(config: Config) -> Sentinels | None:
    """Return the sentinels that REDIS_URL names, or None if it names none."""
    if "+sentinel://" not in (config.redis_url or ""):
        return None
    return Sentinels(redis_servers(config.redis_url or ""), config.redis_sentinel_password, _tls_options(config))


def _connect_to_cluster(servers: RedisServers, options: dict[str, Any]) -> ClusterClient:
    def create_pool(address: NodeAddress) -> redis.ConnectionPool:
        return redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]
            host=address.host,
            port=address.port,
            username=servers.username,
            password=servers.password,
            connection_class=redis.SSLConnection if servers.has_tls else redis.Connection,
            **options,
        )

    return ClusterClient(Topology(servers.addresses, create_pool))


def _network_options(config: Config) -> dict[str, Any]:
    url = config.redis_url or ""
    if url.startswith("unix:"):
        return {}
    options: dict[str, Any] = {"socket_connect_timeout": SOCKET_TIMEOUT_SECONDS, "socket_keepalive": True}
    if url.startswith("rediss"):
        options |= _tls_options(config)
    return options


def _tls_options(config: Config) -> dict[str, Any]:
    return {
        "ssl_cert_reqs": ssl.CERT_REQUIRED if config.redis_tls_verify else ssl.CERT_NONE,
        "ssl_check_hostname": config.redis_tls_verify,
        "ssl_ca_certs": config.redis_ca_file,
    }


def is_cluster(client: object) -> TypeGuard[ClusterClient]:
    """Return whether a client is of a Redis Cluster. There, all keys of a command or script need the same hash tag."""
    return isinstance(client, ClusterClient)


@contextmanager
def available() -> Iterator[None]:
    """Turn every error of Redis into Unavailable (503), also those of a full, read-only or loading server."""
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable("Redis does not answer. Please try again in a moment.") from error


class RedisCommands(ABC):
    """The commands of nearly every request. Replies are raw: strings are bytes, a hash is a list of alternating keys and values.

    All methods but `close` raise redis.RedisError within the client's timeout.
    """

    @abstractmethod
    def execute(self, *command: Any) -> Any: ...

    @abstractmethod
    def execute_all(self, *commands: Sequence[Any]) -> list[Any]:
        """Send all commands in one round trip. Commands of other callers may run between them."""

    @abstractmethod
    def drop(self) -> None:
        """Close the connections that are open now. Called when a reply can't be the one to its command."""

    @abstractmethod
    def close(self) -> None: ...

    def checked(self, kind: type[T], reply: Any) -> T:
        """Return a reply that has the type that its command replies with. Otherwise drop the connection and raise."""
        if isinstance(reply, kind):
            return reply
        self.drop()
        raise redis.InvalidResponse("unexpected reply from Redis")

    def run_script(self, kind: type[T], script: Script, keys: Sequence[Any], arguments: Sequence[Any]) -> T:
        command = ["EVALSHA", script.sha, len(keys), *keys, *arguments]
        try:
            reply = self.execute(*command)
        except NoScriptError:
            reply = self.execute("EVAL", script.script, *command[2:])
        return self.checked(kind, reply)


class PooledRedis(RedisCommands):
    """Uses the connection pool of redis-py: every command takes a connection of its own. For SHARED_REDIS_CONNECTION=false."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = (
            ClusterClient(client.topology) if is_cluster(client) else redis.Redis(connection_pool=client.connection_pool)
        )
        self._client.response_callbacks.clear()  # replies stay raw

    def execute(self, *command: Any) -> Any:
        return self._client.execute_command(*command)

    def execute_all(self, *commands: Sequence[Any]) -> list[Any]:
        return self._execute_pipeline(commands)

    def execute_each(self, *commands: Sequence[Any]) -> list[Any]:
        """Like `execute_all`, but a reply may be a RedisError, for example of a lost master of a cluster.

        Raises redis.RedisError if there is one server, and it does not answer.
        """
        return self._execute_pipeline(commands, raise_on_error=False)

    def _execute_pipeline(self, commands: Sequence[Sequence[Any]], *, raise_on_error: bool = True) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute(raise_on_error=raise_on_error)
        return replies

    def drop(self) -> None:
        for pool in pools_of(self._client):
            pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        self._client.close()
