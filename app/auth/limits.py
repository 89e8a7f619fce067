"""Rate limits that are exact across instances: a sliding log of what was taken, and can be given back.

A login takes its place before the password is checked and gives it back on success, so that a limit of L lets exactly L wrong
passwords through, however many come at once and wherever they come. Being refused takes nothing: whoever keeps trying does not
prolong the wait.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import redis

from app.core.config_parsers import RateLimit
from app.core.keyring import Keyring
from app.redis.client import available
from app.redis.scripts import load_script

Buckets = Mapping[str, RateLimit]  # what is counted -> how much of it is allowed


class RateLimiter(Protocol):
    def take(self, buckets: Buckets, token: str) -> int:
        """A place in all buckets, under a name of its own; or none and the whole seconds until there is one in each."""

    def give_back(self, buckets: Buckets, token: str) -> None: ...


class RedisRateLimiter:
    def __init__(self, client: redis.Redis, signing: Keyring) -> None:
        self._client = client
        self._signing = signing
        self._take = client.register_script(load_script(__file__, "take_attempt"))

    def take(self, buckets: Buckets, token: str) -> int:
        arguments: list[str | int] = [token]
        for rate in buckets.values():
            arguments += [rate.limit, rate.seconds * 1_000_000]
        with available():
            microseconds = int(self._take(keys=[self._key(name) for name in buckets], args=arguments))
        return math.ceil(microseconds / 1_000_000)

    def give_back(self, buckets: Buckets, token: str) -> None:
        with available(), self._client.pipeline(transaction=False) as pipeline:
            for name in buckets:
                pipeline.zrem(self._key(name), token)
            pipeline.execute()

    def _key(self, name: str) -> str:
        # A name holds an address or an e-mail, which are not to be read in Redis; all instances have the same active key.
        return "rate:" + hmac.digest(self._signing.active, name.encode(), hashlib.sha256).hex()


@dataclass
class _Bucket:
    seconds: int
    taken: dict[str, float] = field(default_factory=dict)  # token -> moment

    def forget_the_old(self, now: float) -> None:
        self.taken = {token: moment for token, moment in self.taken.items() if moment > now - self.seconds}


class MemoryRateLimiter:
    """The same for one instance."""

    BUCKETS_BEFORE_CLEANING = 1000

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self._clean_at = self.BUCKETS_BEFORE_CLEANING

    def take(self, buckets: Buckets, token: str) -> int:
        now = time.monotonic()
        wait = max((self._wait(name, rate, now) for name, rate in buckets.items()), default=0.0)
        if wait == 0:
            self._clean(now)
            for name, rate in buckets.items():
                self._buckets.setdefault(name, _Bucket(rate.seconds)).taken[token] = now
        return math.ceil(wait)

    def give_back(self, buckets: Buckets, token: str) -> None:
        for name in buckets:
            if bucket := self._buckets.get(name):
                bucket.taken.pop(token, None)

    def _wait(self, name: str, rate: RateLimit, now: float) -> float:
        bucket = self._buckets.get(name)
        if bucket is None:
            return 0
        bucket.forget_the_old(now)
        if len(bucket.taken) < rate.limit:
            return 0
        return max(0.001, sorted(bucket.taken.values())[-rate.limit] + rate.seconds - now)

    def _clean(self, now: float) -> None:
        """Not before there are twice as many as the last cleaning left: to look at all of them with each attempt would cost
        milliseconds where attempts come from thousands of addresses."""
        if len(self._buckets) < self._clean_at:
            return
        for name, bucket in list(self._buckets.items()):
            bucket.forget_the_old(now)
            if not bucket.taken:
                del self._buckets[name]
        self._clean_at = max(self.BUCKETS_BEFORE_CLEANING, 2 * len(self._buckets))
