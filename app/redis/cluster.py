"""A client of Redis Cluster with the methods of redis-py's client of one server.

redis-py's own RedisCluster does not fit: it connects when it is created, although an instance must start while Redis is down; it
reports some outages by errors that are no RedisError; after each lost connection it reads the slots again, however many callers
fail at the same time, and closes connections of other nodes. Its client of one server does the work for each node here.

A command that a node redirects (MOVED, ASK) or postpones (TRYAGAIN) was not executed and is sent again. A command whose outcome
is unknown, because its connection was lost or it took too long, is never sent again.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, TypeVar

import redis
from redis.client import Pipeline
from redis.commands.core import Script
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterCrossSlotError, ClusterDownError, MovedError, NoScriptError, TryAgainError

T = TypeVar("T")

SLOTS = 16_384  # https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
MAX_REDIRECTS = 16
PAUSE_SECONDS = 0.01  # before a command is sent again that is not simply held by another node
REFRESH_SECONDS = 0.5  # for one node to tell who holds the slots; after this time no further node is asked
REFRESH_INTERVAL_SECONDS = 0.1
AVOID_SECONDS = 5.0  # how long a command that any master can execute avoids one that did not answer

_KEYLESS = {
    *("ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "DBSIZE", "ECHO", "INFO"),
    *("PING", "PUBLISH", "ROLE", "SCAN", "SCRIPT", "TIME", "WAIT"),
}
_SCRIPTS = {"EVAL", "EVALSHA"}
_STREAM_READERS = {"XREAD", "XREADGROUP"}
_WITH_SUBCOMMAND = {"MEMORY", "OBJECT", "XGROUP", "XINFO"}
REDIRECTS = (AskError, TryAgainError)  # MovedError is an AskError


class NodeAddress(NamedTuple):
    host: str
    port: int


def slot_of_key(key: str | bytes) -> int:
    return key_slot(key.encode() if isinstance(key, str) else key)


def slot_of(command: Sequence[Any]) -> int | None:
    """Return the slot of a command's first key, or None if the command has no key. Redis rejects keys of several slots."""
    name, _, subcommand = command[0].upper().partition(" ")
    if name in _KEYLESS:
        return None
    if name in _SCRIPTS:
        return slot_of_key(command[3]) if int(command[2]) else None
    if name in _STREAM_READERS:
        return slot_of_key(command[1 + command.index("STREAMS" if "STREAMS" in command else b"STREAMS")])
    return slot_of_key(command[2 if name in _WITH_SUBCOMMAND and not subcommand else 1])


class Topology:
    """The masters of a Redis Cluster: which slots each holds, and a connection pool for each. Connects when it is used."""

    def __init__(self, seeds: Sequence[tuple[str, int]], create_pool: Callable[[NodeAddress], redis.ConnectionPool]) -> None:
        """`seeds`: hosts and ports of the nodes that are asked first. `create_pool` makes the connection pool of a node."""
        self._seeds = [NodeAddress(*seed) for seed in seeds]
        self._create_pool = create_pool
        self._pools: dict[NodeAddress, redis.ConnectionPool] = {}
        self._owners: list[NodeAddress | None] = []  # by slot; empty until the first node has answered
        self._nodes: list[NodeAddress] = []
        self._lock = threading.Lock()  # at most one refresh at a time
        self._attempted_at = -math.inf
        self._failed_at: dict[NodeAddress, float] = {}
        self._redirect_seconds = self.seed_pool().connection_kwargs["socket_timeout"] / 2

    def pool(self, address: NodeAddress) -> redis.ConnectionPool:
        """Return the pool of a node. It is kept when the node leaves the cluster, because commands may be in flight."""
        if address not in self._pools:
            self._pools[address] = self._create_pool(address)
        return self._pools[address]

    def seed_pool(self) -> redis.ConnectionPool:
        return self.pool(self._seeds[0])

    def pools(self) -> list[redis.ConnectionPool]:
        return list(self._pools.values())

    def masters(self) -> list[NodeAddress]:
        """Return the masters that hold slots, as last read. Raises RedisError if no node has ever answered."""
        self._ensure_read()
        return list(dict.fromkeys(owner for owner in self._owners if owner))

    def owner(self, slot: int | None) -> NodeAddress:
        """Return the master of a slot, as last read. If `slot` is None: any master, but none that has just failed."""
        if slot is None:
            masters, now = self.masters(), time.monotonic()
            answering = [address for address in masters if now - self._failed_at.get(address, -math.inf) > AVOID_SECONDS]
            return random.choice(answering or masters)  # noqa: S311 - spreads load
        self._ensure_read()
        owner = self._owners[slot]
        if owner is None:
            self.refresh()
            raise ClusterDownError("no master holds this slot")
        return owner

    def known_owner(self, slot: int) -> NodeAddress | None:
        """Return the master of a slot, as last read, or None. Does not connect."""
        return self._owners[slot] if self._owners else None

    def run(self, slot: int | None, send: Callable[[NodeAddress, bool], T]) -> T:
        """Return `send(address, asking)` for the master of a slot; follow redirections for half of the socket timeout.

        `asking`: the command must directly follow ASKING on its connection. Raises the RedisError of the last attempt.
        """
        deadline = time.monotonic() + self._redirect_seconds
        address, asking, redirects = self.owner(slot), False, 0
        while True:
            try:
                with self.refreshing_after_errors(address):
                    return send(address, asking)
            except TryAgainError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE_SECONDS)
            except AskError as error:
                address, asking = NodeAddress(error.host or address.host, error.port), not isinstance(error, MovedError)
                if not asking and slot is not None:
                    self.move(slot, address)  # also if this caller gives up: the next one asks the right node at once
                redirects += 1
                if redirects > MAX_REDIRECTS or time.monotonic() > deadline:
                    raise
                if redirects > 2:  # the nodes do not agree yet
                    time.sleep(PAUSE_SECONDS)

    @contextmanager
    def refreshing_after_errors(self, address: NodeAddress) -> Iterator[None]:
        """Refresh the map if the block fails because a node does not answer or holds nothing: a replica may have taken over."""
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, ClusterDownError):
            self.refresh(suspect=address)
            raise

    def move(self, slot: int, owner: NodeAddress) -> None:
        """Remember what a MOVED error says, and read the rest of the map from the node that it names."""
        self._owners[slot] = owner
        self.refresh(first=owner)

    def refresh(self, *, suspect: NodeAddress | None = None, first: NodeAddress | None = None) -> None:
        """Read the map of slots again, unless that is under way or was just done. A failure leaves the map as it is.

        `suspect`: a node that did not answer, which is asked last.
        """
        if suspect:
            self._failed_at[suspect] = time.monotonic()
        if time.monotonic() - self._attempted_at < REFRESH_INTERVAL_SECONDS or not self._lock.acquire(blocking=False):
            return
        try:
            with suppress(redis.RedisError):
                self._read(suspect, first)
        finally:
            self._lock.release()

    def _ensure_read(self) -> None:
        if self._owners:
            return
        arrived_at = time.monotonic()
        # The limit is for callers that wait while another one resolves the name of a seed, which may take long.
        if not self._lock.acquire(timeout=2 * REFRESH_SECONDS):
            raise redis.TimeoutError("the slots of the Redis Cluster are still being read")
        try:
            if self._owners:
                return
            if self._attempted_at > arrived_at:
                raise redis.ConnectionError("no node of the Redis Cluster answers")
            self._read()
        finally:
            self._lock.release()

    def _read(self, suspect: NodeAddress | None = None, first: NodeAddress | None = None) -> None:
        others = list({*self._nodes, *self._seeds} - {first, suspect})
        random.shuffle(others)
        deadline = time.monotonic() + REFRESH_SECONDS
        error: redis.RedisError = redis.ConnectionError("no node of the Redis Cluster answers")
        try:
            for address in [first, *others, suspect]:
                if address is None:
                    continue
                try:
                    ranges = self._ask(address)
                except redis.RedisError as reason:
                    error = reason
                else:
                    if ranges:
                        self._apply(ranges, address)
                        return
                if time.monotonic() > deadline:
                    break
            raise error
        finally:
            self._attempted_at = time.monotonic()

    def _ask(self, address: NodeAddress) -> list[Any]:
        """Ask a node on a connection of its own, with a short timeout. The reply to CLUSTER SLOTS lists ranges of slots."""
        pool = self.pool(address)
        timeouts = {"socket_timeout": REFRESH_SECONDS, "socket_connect_timeout": REFRESH_SECONDS}
        connection: Any = pool.connection_class(**pool.connection_kwargs | timeouts)
        try:
            connection.connect()
            connection.send_command("CLUSTER", "SLOTS")
            reply: list[Any] = connection.read_response()
            return reply
        finally:
            connection.disconnect()

    def _apply(self, ranges: list[Any], asked: NodeAddress) -> None:
        owners: list[NodeAddress | None] = [None] * SLOTS
        nodes: dict[NodeAddress, None] = {}
        for first, last, *servers in ranges:
            addresses = [_address(server, asked) for server in servers]
            owners[first : last + 1] = [addresses[0]] * (last + 1 - first)
            nodes.update(dict.fromkeys(addresses))
        for address in set(self._owners) - set(owners):
            if address in self._pools:
                self._pools[address].disconnect(inuse_connections=False)
        self._owners, self._nodes = owners, list(nodes)


def _address(server: Sequence[Any], asked: NodeAddress) -> NodeAddress:
    """Return the address of a node in the reply to CLUSTER SLOTS. The host is empty, NULL or `?` if the node does not know it."""
    host = (server[0] or b"").decode()
    return NodeAddress(asked.host if host in ("", "?") else host, server[1])


class ClusterClient(redis.Redis):
    """Sends each command to the master of its first key. A command without a key goes to any master.

    A pipeline without transaction may use any keys; a transaction, a script or a command only keys of one slot.
    """

    def __init__(self, topology: Topology) -> None:
        super().__init__(connection_pool=topology.seed_pool())
        self.topology = topology
        self._nodes: dict[NodeAddress, redis.Redis] = {}

    def node(self, address: NodeAddress) -> redis.Redis:
        """Return a client of one node. It does not follow redirections."""
        if address not in self._nodes:
            node = redis.Redis(connection_pool=self.topology.pool(address))
            node.response_callbacks = self.response_callbacks
            self._nodes[address] = node
        return self._nodes[address]

    def masters(self) -> list[redis.Redis]:
        """Return a client of each master, as last read."""
        return [self.node(address) for address in self.topology.masters()]

    def master_of(self, key: str | bytes) -> redis.Redis:
        """Return a client of the master of a key, as last read."""
        return self.node(self.topology.owner(slot_of_key(key)))

    def execute_command(self, *command: Any, **options: Any) -> Any:
        def send(address: NodeAddress, asking: bool) -> Any:
            node: Any = self.node(address)
            return _ask_and_execute(node, command, options) if asking else node.execute_command(*command, **options)

        return self.topology.run(slot_of(command), send)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> ClusterPipeline:
        return ClusterPipeline(self, transaction)

    def register_script(self, script: Any) -> ClusterScript:
        return ClusterScript(self, script)

    def scan_iter(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        """Iterate over the keys of all masters, one after the other.

        Raises RedisError, at the end at the latest, if a slot moves meanwhile: its keys may have been missed.
        """
        before = self._slots_of_masters()
        for address in before:
            yield from self.node(address).scan_iter(*arguments, **options)
        if self._slots_of_masters() != before:
            raise redis.RedisError("slots have moved, so the scan may have missed keys")

    def _slots_of_masters(self) -> dict[NodeAddress, set[int]]:
        """Return the slots that each master says it holds. Raises RedisError if a slot moves or no known one holds it."""
        found: dict[NodeAddress, set[int]] = {}
        for address in self.topology.masters():
            node: Any = self.node(address)
            nodes = node.execute_command("CLUSTER NODES")
            own = next(one for one in nodes.values() if "myself" in one["flags"])
            if own["migrations"]:
                raise redis.RedisError("a slot is moving")
            found[address] = {slot for held in own["slots"] for slot in range(int(held[0]), int(held[-1]) + 1)}
        if len(set().union(*found.values())) < SLOTS:
            self.topology.refresh()  # another master may hold it now
            raise redis.RedisError("no known master holds a slot")
        return found

    def close(self) -> None:
        for pool in self.topology.pools():
            pool.disconnect()

    def __del__(self) -> None:
        """Leave the connections open: other clients may share the cluster's pools."""


def pools_of(client: redis.Redis) -> list[redis.ConnectionPool]:
    """Return the connection pools of a client: one, or one for each node of a cluster."""
    return client.topology.pools() if isinstance(client, ClusterClient) else [client.connection_pool]


def _ask_and_execute(node: redis.Redis, command: Sequence[Any], options: dict[str, Any]) -> Any:
    pipeline = node.pipeline(transaction=False)
    pipeline.command_stack = [(("ASKING",), {}), (command, options)]
    reply = pipeline.execute(raise_on_error=False)[1]
    if isinstance(reply, Exception):
        raise reply
    return reply


class ClusterScript(Script):
    """Sends its source to a node that does not know it, instead of loading it on one that another client chose."""

    def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        words = [len(keys or ()), *(keys or ()), *(args or ())]
        client = client or self.registered_client
        try:
            return client.evalsha(self.sha, *words)
        except NoScriptError:
            return client.eval(self.script, *words)


class ClusterPipeline(Pipeline):
    """A pipeline over several nodes, or a transaction on one."""

    def __init__(self, client: ClusterClient, transaction: bool) -> None:
        super().__init__(client.connection_pool, client.response_callbacks, transaction, None)
        self._client = client
        self._is_transaction = transaction

    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands, self.command_stack = self.command_stack, []
        replies = self._execute_transaction_on_one(commands) if self._is_transaction else self._execute_on_all(commands)
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    def _execute_transaction_on_one(self, commands: list[Any]) -> list[Any]:
        slots = {slot_of(command) for command, _ in commands} - {None}
        if len(slots) > 1:
            raise ClusterCrossSlotError("keys of a transaction must have one slot")

        def send(address: NodeAddress, _: bool) -> list[Any]:
            try:
                return self._execute_on(address, commands, transaction=True)
            except AskError as error:
                if isinstance(error, MovedError):
                    raise
                raise TryAgainError("the slot is being moved") from None  # ASKING is valid for one command only

        replies: list[Any] = self._client.topology.run(slots.pop() if slots else None, send)
        return replies

    def _execute_on_all(self, commands: list[Any]) -> list[Any]:
        numbers = defaultdict(list)
        for number, (command, _) in enumerate(commands):
            numbers[self._client.topology.owner(slot_of(command))].append(number)
        replies: list[Any] = [None] * len(commands)
        for address, own in numbers.items():
            try:
                own_replies = self._execute_on(address, [commands[number] for number in own])
            except redis.RedisError as error:  # a lost node does not keep the others from answering
                own_replies = [error] * len(own)
            for number, reply in zip(own, own_replies, strict=True):
                replies[number] = self._follow(commands[number], reply)
        return replies

    def _follow(self, command: Any, reply: Any) -> Any:
        if not isinstance(reply, REDIRECTS):
            return reply
        words, options = command
        try:
            return self._client.execute_command(*words, **options)
        except redis.RedisError as error:
            return error

    def _execute_on(self, address: NodeAddress, commands: list[Any], transaction: bool = False) -> list[Any]:
        pipeline = self._client.node(address).pipeline(transaction=transaction)
        pipeline.command_stack = list(commands)
        with self._client.topology.refreshing_after_errors(address):
            return pipeline.execute(raise_on_error=False)
