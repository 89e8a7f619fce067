"""The interface of rate limiters, tested with Redis, Redis Cluster and in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import redis
from redis.commands.core import Script

from app.auth.limits import MemoryRateLimiter, RateLimiter, RedisRateLimiter, _Bucket
from app.core.config_parsers import RateLimit
from app.core.errors import Unavailable
from app.core.keyring import Keyring
from harness.servers import RedisServer, wait_until
from tests.unit.conftest import Clock

RING = Keyring("signing", (b"s" * 32,))
HOUR = 3600

_tokens = count()


def token() -> str:
    return f"token-{next(_tokens)}"


@pytest.fixture
def redis_limiter(redis_client: redis.Redis) -> RateLimiter:
    return RedisRateLimiter(redis_client, RING)


@pytest.fixture
def cluster_limiter(cluster_client: redis.Redis) -> RateLimiter:
    return RedisRateLimiter(cluster_client, RING)


@pytest.fixture(params=["redis", "cluster", "memory"])
def limiter(request: pytest.FixtureRequest) -> RateLimiter:
    found: RateLimiter = MemoryRateLimiter() if request.param == "memory" else request.getfixturevalue(f"{request.param}_limiter")
    return found


def taken(limiter: RateLimiter, bucket: str, rate: RateLimit, attempts: int) -> int:
    """Return how many attempts succeeded."""
    return [limiter.acquire({bucket: rate}, token()) for _ in range(attempts)].count(0)


@pytest.mark.parametrize("limit", [1, 2, 10])
def test_limit_is_exact(limiter: RateLimiter, limit: int) -> None:
    assert taken(limiter, "a", RateLimit(limit, HOUR), 50) == limit
    assert taken(limiter, "b", RateLimit(limit, HOUR), 50) == limit


@pytest.mark.parametrize("connect", ["connect_redis", "connect_cluster"])
def test_limit_is_exact_across_instances(request: pytest.FixtureRequest, connect: str) -> None:
    make_client: Callable[[], redis.Redis] = request.getfixturevalue(connect)
    limiters = [RedisRateLimiter(make_client(), RING) for _ in range(8)]
    with ThreadPoolExecutor(len(limiters)) as executor:
        for bucket in map(str, range(10)):
            places = executor.map(lambda limiter, bucket=bucket: taken(limiter, bucket, RateLimit(10, HOUR), 20), limiters)
            assert sum(places) == 10


@pytest.mark.parametrize("connect", ["connect_redis", "connect_cluster"])
def test_limits_are_exact_for_attempts_that_count_twice(request: pytest.FixtureRequest, connect: str) -> None:
    """Each attempt counts for its account and for the address. Then the address has only the tokens of those that succeeded."""
    make_client: Callable[[], redis.Redis] = request.getfixturevalue(connect)
    limiters = [RedisRateLimiter(make_client(), RING) for _ in range(8)]
    account, address = RateLimit(10, HOUR), RateLimit(100, HOUR)

    def attempt(number: int) -> int:
        buckets = {f"account {number % 3}": account, "address": address}
        return limiters[number % len(limiters)].acquire(buckets, token())

    with ThreadPoolExecutor(len(limiters)) as executor:
        waits = list(executor.map(attempt, range(120)))
    assert waits.count(0) == 30
    assert taken(limiters[0], "address", address, 100) == 70


def test_rejected_attempt_does_not_count(limiter: RateLimiter) -> None:
    rate, first = {"a": RateLimit(2, HOUR)}, token()
    assert limiter.acquire(rate, first) == limiter.acquire(rate, token()) == 0
    for _ in range(20):
        assert limiter.acquire(rate, token()) > 0
    limiter.release(rate, first)
    assert limiter.acquire(rate, token()) == 0
    assert limiter.acquire(rate, token()) > 0


def test_release_is_idempotent(limiter: RateLimiter) -> None:
    rate, first = {"a": RateLimit(2, HOUR)}, token()
    limiter.acquire(rate, first)
    limiter.acquire(rate, token())
    limiter.release(rate, first)
    limiter.release(rate, first)
    limiter.release(rate, "an unknown token")
    assert taken(limiter, "a", rate["a"], 10) == 1


def test_token_is_added_to_all_buckets_or_none(limiter: RateLimiter) -> None:
    full, roomy = RateLimit(1, HOUR), RateLimit(5, HOUR)
    limiter.acquire({"full": full}, token())
    for buckets in ({"full": full, "roomy": roomy}, {"roomy": roomy, "full": full}):
        assert limiter.acquire(buckets, token()) > 0
    assert taken(limiter, "roomy", roomy, 10) == 5


def test_token_is_added_to_and_released_from_each_bucket(limiter: RateLimiter) -> None:
    rates, first = {"one": RateLimit(1, HOUR), "two": RateLimit(1, HOUR)}, token()
    assert limiter.acquire(rates, first) == 0
    assert limiter.acquire({"one": rates["one"]}, token()) > 0
    assert limiter.acquire({"two": rates["two"]}, token()) > 0
    limiter.release(rates, first)
    assert limiter.acquire(rates, token()) == 0


def test_wait_lasts_until_the_oldest_token_expires(limiter: RateLimiter) -> None:
    limiter.acquire({"a": RateLimit(1, 60)}, token())
    assert limiter.acquire({"a": RateLimit(1, 60)}, token()) in range(50, 61)


def test_wait_lasts_until_each_bucket_has_room(limiter: RateLimiter) -> None:
    short, long = RateLimit(1, 60), RateLimit(1, 600)
    limiter.acquire({"short": short, "long": long}, token())
    for both in ({"short": short, "long": long}, {"long": long, "short": short}):
        assert limiter.acquire(both, token()) in range(590, 601)
    assert limiter.acquire({"short": short}, token()) in range(50, 61)


def test_wait_is_at_least_one_second(limiter: RateLimiter) -> None:
    rate = {"a": RateLimit(1, 1)}
    limiter.acquire(rate, token())
    waits: list[int] = []

    def is_free() -> bool:
        waits.append(limiter.acquire(rate, token()))
        return waits[-1] == 0

    wait_until(is_free, what="the window to slide")
    assert waits == [1] * (len(waits) - 1) + [0]


def test_attempt_succeeds_after_the_window(limiter: RateLimiter) -> None:
    rate = {"a": RateLimit(2, 1)}
    assert limiter.acquire(rate, token()) == limiter.acquire(rate, token()) == 0
    wait_until(lambda: limiter.acquire(rate, token()) == 0, what="the window to slide")


def test_window_slides(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limiter, rate = Clock(), MemoryRateLimiter(), {"a": RateLimit(2, 10)}
    monkeypatch.setattr("app.auth.limits.time", clock)
    waits = []
    for _ in range(14):
        waits.append(limiter.acquire(rate, token()))
        clock.now += 2
    # Places at 0 and 2 s; the first is free again at 10 s, the second at 12 s.
    assert waits == [0, 0, 6, 4, 2, 0, 0, 6, 4, 2, 0, 0, 6, 4]


def test_lowered_limit_counts_earlier_tokens(limiter: RateLimiter) -> None:
    assert taken(limiter, "a", RateLimit(5, HOUR), 5) == 5
    assert limiter.acquire({"a": RateLimit(2, HOUR)}, token()) > 0
    assert taken(limiter, "a", RateLimit(6, HOUR), 5) == 1


def test_wait_under_a_lowered_limit_lasts_until_enough_tokens_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limiter = Clock(), MemoryRateLimiter()
    monkeypatch.setattr("app.auth.limits.time", clock)
    limiter.acquire({"a": RateLimit(2, 60)}, token())
    clock.now += 30
    limiter.acquire({"a": RateLimit(2, 60)}, token())
    assert limiter.acquire({"a": RateLimit(2, 60)}, token()) == 30
    assert limiter.acquire({"a": RateLimit(1, 60)}, token()) == 60


def test_wait_under_a_lowered_limit_in_redis(redis_limiter: RateLimiter, redis_client: redis.Redis) -> None:
    first = token()
    redis_limiter.acquire({"a": RateLimit(2, 60)}, first)
    (key,) = redis_client.scan_iter()
    redis_client.zincrby(key, -30_000_000, first)  # half a minute ago
    redis_limiter.acquire({"a": RateLimit(2, 60)}, token())
    assert redis_limiter.acquire({"a": RateLimit(2, 60)}, token()) in range(20, 31)
    assert redis_limiter.acquire({"a": RateLimit(1, 60)}, token()) in range(50, 61)


def test_memory_limiter_removes_only_expired_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, limiter = Clock(), MemoryRateLimiter()
    monkeypatch.setattr("app.auth.limits.time", clock)
    limiter.acquire({"long": RateLimit(1, 10 * HOUR)}, token())
    for number in range(5000):
        clock.now += 1
        assert limiter.acquire({str(number): RateLimit(1, 60)}, token()) == 0
    assert len(limiter._buckets) <= MemoryRateLimiter.MIN_BUCKETS_BEFORE_CLEANUP
    assert limiter.acquire({"long": RateLimit(1, 10 * HOUR)}, token()) > 0
    assert limiter.acquire({"4999": RateLimit(1, 60)}, token()) > 0


def test_cleanup_cost_per_attempt_is_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look = count(), _Bucket.remove_expired
    monkeypatch.setattr(_Bucket, "remove_expired", lambda bucket, now: (next(looks), look(bucket, now)))
    limiter = MemoryRateLimiter()
    for number in range(10_000):
        assert limiter.acquire({str(number): RateLimit(1, HOUR)}, token()) == 0
    assert next(looks) < 3 * 10_000


def test_redis_bucket_expires_after_its_window(redis_limiter: RateLimiter, redis_client: redis.Redis) -> None:
    redis_limiter.acquire({"a": RateLimit(1, 60)}, token())
    (key,) = redis_client.scan_iter()
    assert 0 < redis_client.pttl(key) <= 60_000


def test_bucket_names_are_not_readable_in_redis(redis_limiter: RateLimiter, redis_server: RedisServer) -> None:
    rate = {"login:account:grace@example.org": RateLimit(1, HOUR)}
    redis_limiter.acquire(rate, token())
    redis_limiter.release(rate, token())
    assert b"grace@example.org" not in redis_server.dump()


@pytest.mark.parametrize("call", ["run_script", "execute_all"])
def test_attempt_whose_reply_is_lost_does_not_count(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A frozen Redis carries out the commands that it has received, after the requests have been answered with 503."""
    limiter, limit = RedisRateLimiter(redis_client, RING), {"a": RateLimit(5, HOUR)}
    send = getattr(limiter._commands, call)

    def lose_reply(*arguments: object) -> None:
        if call == "run_script":
            send(*arguments)
        raise redis.TimeoutError

    monkeypatch.setattr(limiter._commands, call, lose_reply)

    def attempt() -> None:
        one = token()
        limiter.acquire(limit, one)
        limiter.release(limit, one)

    for _ in range(20):
        with pytest.raises(Unavailable):
            attempt()
    monkeypatch.undo()
    assert taken(limiter, "a", limit["a"], 10) == 5
    assert not limiter._unanswered


def test_outage_of_one_bucket_does_not_concern_others(cluster_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """One master of a cluster does not answer: attempts are rejected only if they need it."""
    limiter, rate = RedisRateLimiter(cluster_client, RING), RateLimit(5, HOUR)
    run_script, execute_all = limiter._commands.run_script, limiter._commands.execute_all

    def fail_to_run(kind: type[int], script: Script, keys: list[str], arguments: list[object]) -> int:
        if keys == [limiter._key("lost")]:
            raise redis.ConnectionError
        return run_script(kind, script, keys, arguments)

    def fail_to_execute(*commands: tuple[str, ...]) -> list[object]:
        if any(command[1] == limiter._key("lost") for command in commands):
            raise redis.ConnectionError
        return execute_all(*commands)

    monkeypatch.setattr(limiter._commands, "run_script", fail_to_run)
    monkeypatch.setattr(limiter._commands, "execute_all", fail_to_execute)
    for _ in range(20):
        with pytest.raises(Unavailable):
            limiter.acquire({"lost": rate, "other": rate}, token())
        with pytest.raises(Unavailable):
            limiter.acquire({"other": rate, "lost": rate}, token())
    assert taken(limiter, "other", rate, 10) == 5
    monkeypatch.undo()
    assert taken(limiter, "lost", rate, 10) == 5
    assert not limiter._unanswered
