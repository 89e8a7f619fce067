from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.core.keyring import Keyring
from app.core.messages import Message
from app.realtime import publisher as module
from app.realtime.envelope import EnvelopeCodec, channel_of
from app.realtime.publisher import RedisPublisher
from harness.processes import PATIENCE_SECONDS
from tests.unit.conftest import count_of

SIGNING = Keyring("signing", (b"s" * 32,))

Received = Callable[[int], list[tuple[str, list[int]]]]


@pytest.fixture
def received(redis_client: redis.Redis) -> Iterator[Received]:
    """A function that takes a number of envelopes from Redis and returns the channel of each and the numbers in it."""
    with redis_client.pubsub() as subscription:  # type: ignore[no-untyped-call]
        subscription.psubscribe(channel_of("*"))
        assert subscription.get_message(timeout=PATIENCE_SECONDS)["type"] == "psubscribe"

        def take(count: int) -> list[tuple[str, list[int]]]:
            found = [subscription.get_message(timeout=PATIENCE_SECONDS) for _ in range(count)]
            opened = [(one["channel"].decode(), EnvelopeCodec(SIGNING).open("", one["data"])) for one in found]
            return [(channel, [message.data["number"] for message in messages]) for channel, messages in opened]

        yield take


def messages(room: str, *numbers: int) -> list[Message]:
    return [Message(room, "news", {"number": number}) for number in numbers]


def test_messages_to_one_room_share_an_envelope_in_order(redis_client: redis.Redis, received: Received) -> None:
    mixed = messages("a", 1) + messages("b", 2) + messages("a", 3, 4)
    RedisPublisher(redis_client, SIGNING).publish(mixed)
    assert received(2) == [(channel_of("a"), [1, 3, 4]), (channel_of("b"), [2])]


def test_size_of_an_envelope_is_limited(redis_client: redis.Redis, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENVELOPE_MESSAGES", 2)
    RedisPublisher(redis_client, SIGNING).publish(messages("a", *range(5)))
    assert received(3) == [(channel_of("a"), [0, 1]), (channel_of("a"), [2, 3]), (channel_of("a"), [4])]


def test_empty_batch_publishes_nothing(redis_client: redis.Redis, received: Received) -> None:
    publisher = RedisPublisher(redis_client, SIGNING)
    publisher.publish([])
    publisher.publish(messages("a", 1))
    assert received(1) == [(channel_of("a"), [1])]


def test_refused_messages_are_counted_and_leave_no_reply_behind(redis_client: redis.Redis) -> None:
    dropped = count_of("reporadar_queue_messages_lost_total")
    kwargs = redis_client.connection_pool.connection_kwargs
    set_permission(redis_client, "-publish")
    with redis.Redis(host=kwargs["host"], port=kwargs["port"], username="publisher", retry=Retry(NoBackoff(), 0)) as restricted:
        publisher = RedisPublisher(restricted, SIGNING)
        publisher.publish(messages("a", 1) + messages("b", 2))
        assert count_of("reporadar_queue_messages_lost_total") - dropped == 2
        set_permission(redis_client, "+publish")
        publisher.publish(messages("a", 3))
        assert count_of("reporadar_queue_messages_lost_total") - dropped == 2
        assert restricted.ping() is True
    redis_client.acl_deluser("publisher")


def test_reply_of_another_command_counts_as_lost(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = count_of("reporadar_queue_messages_lost_total")
    publisher = RedisPublisher(redis_client, SIGNING)
    monkeypatch.setattr(redis_client.connection_pool.connection_class, "read_response", lambda *_, **__: b"OK")
    publisher.publish(messages("a", 1))
    assert count_of("reporadar_queue_messages_lost_total") - dropped == 1


def set_permission(client: redis.Redis, command: str) -> None:
    client.acl_setuser("publisher", enabled=True, nopass=True, commands=["+@all", command], channels=["*"])
