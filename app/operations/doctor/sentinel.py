"""Sentinels: whether they answer, agree on the primary, and are enough for a failover."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any

import redis

from app.operations.doctor.findings import Finding, describe_error, fail, ok, warn
from app.redis.sentinel import SENTINEL_TIMEOUT_SECONDS, SentinelClient, Sentinels

ENOUGH_SENTINELS = 3

_ADVICE = {  # by the first word of the error
    "refuses": "Set REDIS_SENTINEL_PASSWORD to requirepass of the sentinels",
    "knows": "The path of REDIS_URL must be the name that `sentinel monitor` gives the primary: redis+sentinel://HOST:PORT/NAME",
}


def examine(sentinels: Sentinels) -> Generator[Finding, None, bool]:
    """Ask every sentinel. Return whether one of them names a primary."""
    with suppress(redis.ConnectionError):
        sentinels.find_primary()
    for sentinel in sentinels.clients:
        sentinel.wait(SENTINEL_TIMEOUT_SECONDS)
    answering = [sentinel for sentinel in sentinels.clients if sentinel.primary]
    for sentinel in sentinels.clients:
        yield _answer(sentinel, sentinels.service, is_needed=not answering)
    if answering:
        yield from _agreement(answering)
        yield from _quorum(answering[0], sentinels)
    return bool(answering)


def _answer(sentinel: SentinelClient, service: str, *, is_needed: bool) -> Finding:
    if sentinel.primary:
        host, port = sentinel.primary
        return ok(f"sentinel {sentinel.name}: names {host}:{port} as the primary of {service}")
    text = f"sentinel {sentinel.name}: {sentinel.error}"
    advice = _ADVICE.get(
        sentinel.error.partition(" ")[0], "Check that it runs and can be reached: redis-cli -h HOST -p PORT ping"
    )
    return fail(text, advice) if is_needed else warn(text, advice)


def _agreement(answering: Sequence[SentinelClient]) -> Iterator[Finding]:
    if len({sentinel.primary for sentinel in answering}) > 1:
        yield warn(
            "sentinels: they name different primaries",
            "A failover may be under way: run the doctor again in a moment. Otherwise one is cut off from the others",
        )


def _quorum(sentinel: SentinelClient, sentinels: Sentinels) -> Iterator[Finding]:
    client: Any = sentinel.client
    try:
        state = client.execute_command("SENTINEL", "MASTER", sentinels.service)
        client.execute_command("SENTINEL", "CKQUORUM", sentinels.service)
    except redis.ResponseError as error:
        yield fail(f"sentinels: no failover is possible: {describe_error(error)}", "Start the sentinels that are down")
        return
    except redis.RedisError as error:
        yield warn(f"sentinels: the quorum is unknown: {describe_error(error)}", "Run the doctor again")
        return
    known = 1 + int(dict(zip(state[::2], state[1::2], strict=True))[b"num-other-sentinels"])
    if known < ENOUGH_SENTINELS:
        yield warn(f"sentinels: there are only {known}", "Run three on different machines: a failover needs a majority of them")
    else:
        yield ok(f"sentinels: {known} know each other, and enough of them answer for a failover")
    if len(sentinels.clients) == 1 < known:
        yield warn(
            f"sentinels: REDIS_URL names one of {known}", "Name all of them: an instance can't connect while this one is down"
        )
