"""Rate limits that are exact across instances: sliding logs of attempts.

A login acquires its attempt before the password is checked and releases it on success. So a limit of L allows exactly L wrong
passwords, however many requests arrive at once and on whichever instance. A rejected attempt does not count and does not prolong
the wait.

Each bucket is a Redis key and a script call of its own, because all keys of a call have to be on one node of a Redis Cluster. An
attempt that finds a full bucket releases its tokens in the buckets before. For that moment they may reject another attempt.
"""

import hashlib
import hmac
import math
import re
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Protocol

import redis

from app.core.config_parsers import RateLimit
from app.core.errors import Unavailable
from app.core.keyring import Keyring
from app.redis.client import PooledRedis, available
from app.redis.scripts import load_script

MAX_UNANSWERED = 2000  # tokens of attempts whose outcome Redis did not tell; kept until their bucket is used again

Buckets = Mapping[str, RateLimit]  # name, such as "login:account:ada@example.org" -> limit


class RateLimiter(Protocol):
    def acquire(self, buckets: Buckets, token: str) -> int:
        """Add a unique token to all buckets and return 0. If a bucket is full, add nothing and return the seconds to wait."""

    def release(self, buckets: Buckets, token: str) -> None: ...


class RedisRateLimiter:
    def __init__(self, client: redis.Redis, signing: Keyring) -> None:
        self._commands = PooledRedis(client)
        self._signing = signing
        self._acquire = client.register_script(load_script(__file__, "acquire_rate_limit"))
        self._unanswered: deque[tuple[str, str]] = deque(maxlen=MAX_UNANSWERED)  # name of the bucket, token

    def acquire(self, buckets: Buckets, token: str) -> int:
        self._release_unanswered(buckets)
        wait = 0
        acquired: dict[str, RateLimit] = {}
        try:
            for name, limit in buckets.items():
                seconds = self._acquire_one(name, limit, "" if wait else token)
                wait = max(wait, seconds)
                if not wait:
                    acquired[name] = limit
        except Unavailable:
            self._unanswered.extend((name, token) for name in buckets)
            raise
        if wait and acquired:
            self.release(acquired, token)
        return wait

    def _acquire_one(self, name: str, limit: RateLimit, token: str) -> int:
        """Add a token to a bucket, unless it is "". Return the seconds until the bucket has room, or 0."""
        arguments = [token, limit.limit, limit.seconds * 1_000_000]
        with available():
            microseconds = self._commands.run_script(int, self._acquire, [self._key(name)], arguments)
        return math.ceil(microseconds / 1_000_000)

    def release(self, buckets: Buckets, token: str) -> None:
        tokens = [(name, token) for name in buckets]
        try:
            self._remove(tokens)
        except Unavailable:
            self._unanswered.extend(tokens)
            raise

    def _release_unanswered(self, buckets: Buckets) -> None:
        """Release the tokens of an outage in these buckets: a frozen Redis carries out later what it has received.

        Other buckets may be on a master of a cluster that still does not answer.
        """
        unanswered = [one for one in self._unanswered if one[0] in buckets]
        if not unanswered:
            return
        self._remove(unanswered)
        for one in unanswered:
            with suppress(ValueError):  # a concurrent request has removed it
                self._unanswered.remove(one)

    def _remove(self, tokens: Sequence[tuple[str, str]]) -> None:
        with available():
            self._commands.execute_all(*[("ZREM", self._key(name), token) for name, token in tokens])

    def _key(self, name: str) -> str:
        # Hashed, because a name contains an IP or e-mail address. All instances have the same active key.
        return "rate:" + hmac.digest(self._signing.active, name.encode(), hashlib.sha256).hex()


@dataclass
class _Bucket:
    seconds: int
    tokens: dict[str, float] = field(default_factory=dict)  # token -> time.monotonic() when it was acquired

    def remove_expired(self, now: float) -> None:
        self.tokens = {token: acquired_at for token, acquired_at in self.tokens.items() if acquired_at > now - self.seconds}


class MemoryRateLimiter:
    """Rate limits of a single instance, in memory."""

    MIN_BUCKETS_BEFORE_CLEANUP = 1000

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._cleanup_size = self.MIN_BUCKETS_BEFORE_CLEANUP

    def acquire(self, buckets: Buckets, token: str) -> int:
        now = time.monotonic()
        wait = max((self._seconds_to_wait(name, limit, now) for name, limit in buckets.items()), default=0.0)
        if wait == 0:
            self._clean_up(now)
            for name, limit in buckets.items():
                self._buckets.setdefault(name, _Bucket(limit.seconds)).tokens[token] = now
        return math.ceil(wait)

    def release(self, buckets: Buckets, token: str) -> None:
        for name in buckets:
            if bucket := self._buckets.get(name):
                bucket.tokens.pop(token, None)

    def _seconds_to_wait(self, name: str, limit: RateLimit, now: float) -> float:
        bucket = self._buckets.get(name)
        if bucket is None:
            return 0
        bucket.remove_expired(now)
        if len(bucket.tokens) < limit.limit:
            return 0
        return max(0.001, sorted(bucket.tokens.values())[-limit.limit] + limit.seconds - now)

    def _clean_up(self, now: float) -> None:
        """Remove empty buckets once their number has doubled. To scan thousands on each attempt would take milliseconds."""
        if len(self._buckets) < self._cleanup_size:
            return
        for name, bucket in list(self._buckets.items()):
            bucket.remove_expired(now)
            if not bucket.tokens:
                del self._buckets[name]
        self._cleanup_size = max(self.MIN_BUCKETS_BEFORE_CLEANUP, 2 * len(self._buckets))


def network_of(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or an IPv6 /64. A port that a proxy added is removed."""
    host = re.sub(r"^\[(.*)\](:\d+)?$|^([^:]*):\d+$", r"\1\3", address)
    try:
        parsed = ip_address(host)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
