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
from tests.unit.conftest import count_of

SIGNING = Keyring("signing", (b"s" * 32,))

Received = Callable[[int], list[tuple[str, list[int]]]]


@pytest.fixture
def received(redis_client: redis.Redis) -> Iterator[Received]:
    """Takes so many envelopes off Redis: channel, and the numbers in it."""
    with redis_client.pubsub() as subscription:  # type: ignore[no-untyped-call]
        subscription.psubscribe(channel_of("*"))
        assert subscription.get_message(timeout=5)["type"] == "psubscribe"

        def take(count: int) -> list[tuple[str, list[int]]]:
            found = [subscription.get_message(timeout=5) for _ in range(count)]
            opened = [(one["channel"].decode(), EnvelopeCodec(SIGNING).open(one["data"]) or []) for one in found]
            return [(where, [message["number"] for _, message in contents]) for where, contents in opened]

        yield take


def messages(room: str, *numbers: int) -> list[Message]:
    return [Message(room, "news", {"number": number}) for number in numbers]


def test_what_goes_to_one_room_goes_in_one_envelope_in_its_order(redis_client: redis.Redis, received: Received) -> None:
    mixed = messages("a", 1) + messages("b", 2) + messages("a", 3, 4)
    RedisPublisher(redis_client, SIGNING).publish(mixed)
    assert received(2) == [(channel_of("a"), [1, 3, 4]), (channel_of("b"), [2])]


def test_an_envelope_has_a_size(redis_client: redis.Redis, received: Received, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IN_ENVELOPE", 2)
    RedisPublisher(redis_client, SIGNING).publish(messages("a", *range(5)))
    assert received(3) == [(channel_of("a"), [0, 1]), (channel_of("a"), [2, 3]), (channel_of("a"), [4])]


def test_nothing_is_said_where_there_is_nothing_to_say(redis_client: redis.Redis, received: Received) -> None:
    publisher = RedisPublisher(redis_client, SIGNING)
    publisher.publish([])
    publisher.publish(messages("a", 1))
    assert received(1) == [(channel_of("a"), [1])]


def test_what_redis_refuses_is_counted_and_no_answer_is_left_for_the_next(redis_client: redis.Redis) -> None:
    lost = count_of("reporadar_queue_messages_lost_total")
    kwargs = redis_client.connection_pool.connection_kwargs
    permit(redis_client, "-publish")
    with redis.Redis(host=kwargs["host"], port=kwargs["port"], username="mute", retry=Retry(NoBackoff(), 0)) as mute:
        publisher = RedisPublisher(mute, SIGNING)
        publisher.publish(messages("a", 1) + messages("b", 2))
        assert count_of("reporadar_queue_messages_lost_total") - lost == 2
        permit(redis_client, "+publish")
        publisher.publish(messages("a", 3))
        assert count_of("reporadar_queue_messages_lost_total") - lost == 2
        assert mute.ping() is True
    redis_client.acl_deluser("mute")


def permit(client: redis.Redis, command: str) -> None:
    client.acl_setuser("mute", enabled=True, nopass=True, commands=["+@all", command], channels=["*"])
