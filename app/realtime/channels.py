"""The Redis servers that carry the channels of rooms, and the commands for them.

One server uses publish/subscribe. A Redis Cluster uses sharded publish/subscribe (Redis 7), because with the other kind each node
passes each message to all other nodes. There, the channel of a room has a slot, as a key has, and the master of that slot
carries it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import redis
from redis.connection import ConnectionInterface, ConnectionPool
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from app.realtime.envelope import channel_of
from app.redis.cluster import ClusterClient, NodeAddress, slot_of_key

Server = NodeAddress | None  # None: the only server there is, or a node of a cluster that is not known


class ServerChannels:
    """The channels of a single server."""

    publish, subscribe, unsubscribe = "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"
    message, subscribed, unsubscribed = b"message", b"subscribe", b"unsubscribe"  # kinds of replies
    channels_per_command = 1000

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool

    def server_of(self, room: str) -> Server:
        """Return the server that carries the room, as last read. Does not wait for Redis."""
        return None

    def find_server(self, room: str) -> Server:
        """Return the server that carries the room. Asks Redis if it is not known; does not raise."""
        return None

    def pool_of(self, server: Server) -> ConnectionPool:
        """Return the connections to a server. Raises RedisError if the server is not known."""
        return self._pool

    def refreshing_after_errors(self, server: Server) -> AbstractContextManager[None]:
        """Find out which servers carry the rooms now if the block raises because the server does not answer."""
        return nullcontext()

    def on_refused(self, server: Server, error: redis.ResponseError) -> None:
        """Learn from an error reply to a subscription. Raises the error if another attempt is useless."""
        raise error

    def on_moved(self, server: Server) -> None:
        """Find out which server carries a room now: this one has ended a subscription by itself."""

    def read_replies(self, connection: ConnectionInterface, published: Sequence[tuple[str, bytes]]) -> int:
        """Read the replies to the commands that published these pairs of channel and envelope; return the number of receivers."""
        return sum(connection.read_response() for _ in published)


class ClusterChannels:
    """The channels of a Redis Cluster."""

    publish, subscribe, unsubscribe = "SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE"
    message, subscribed, unsubscribed = b"smessage", b"ssubscribe", b"sunsubscribe"
    channels_per_command = 1  # the channels of one command must have one slot

    def __init__(self, client: ClusterClient) -> None:
        self._client = client
        self._topology = client.topology

    def server_of(self, room: str) -> Server:
        return self._topology.known_owner(slot_of_key(channel_of(room)))

    def find_server(self, room: str) -> Server:
        try:
            return self._topology.owner(slot_of_key(channel_of(room)))
        except redis.RedisError:
            return None

    def pool_of(self, server: Server) -> ConnectionPool:
        if server is None:
            self._topology.masters()  # raises the reason if no node answers
            raise redis.ConnectionError("no node of the Redis Cluster is known to carry the channel")
        return self._topology.pool(server)

    @contextmanager
    def refreshing_after_errors(self, server: Server) -> Iterator[None]:
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, ClusterDownError):
            self._topology.refresh(suspect=server)
            raise

    def on_refused(self, server: Server, error: redis.ResponseError) -> None:
        if isinstance(error, MovedError) and server:
            self._topology.move(error.slot_id, NodeAddress(error.host or server.host, error.port))
        elif isinstance(error, (AskError, TryAgainError, ClusterDownError)):
            self._topology.refresh(first=server)
        else:
            raise error

    def on_moved(self, server: Server) -> None:
        self._topology.refresh(first=server)

    def read_replies(self, connection: ConnectionInterface, published: Sequence[tuple[str, bytes]]) -> int:
        """Read the replies as for one server. Redirected envelopes were not published: publish them where the channel is now."""
        receivers, redirected = 0, []
        for channel, envelope in published:
            try:
                receivers += connection.read_response()
            except (AskError, TryAgainError):  # MovedError is an AskError
                redirected.append((channel, envelope))
        for channel, envelope in redirected:
            receivers += self._client.execute_command(self.publish, channel, envelope)
        return receivers


Channels = ServerChannels | ClusterChannels


def channels_of(client: redis.Redis) -> Channels:
    return ClusterChannels(client) if isinstance(client, ClusterClient) else ServerChannels(client)
