from __future__ import annotations

import pytest

from app.realtime import subscriptions as module
from app.realtime.subscriptions import Subscriptions


@pytest.fixture
def subscriptions() -> Subscriptions:
    return Subscriptions(permanent_room="all")


@pytest.fixture
def subscribed(subscriptions: Subscriptions) -> Subscriptions:
    """Subscriptions with a member of room "a", which Redis has confirmed."""
    subscriptions.join("a")
    confirm(subscriptions)
    return subscriptions


def confirm(subscriptions: Subscriptions) -> tuple[list[str], list[str]]:
    """Confirm all requests, as Redis does."""
    subscribe, unsubscribe = subscriptions.take_requests()
    for room in subscribe:
        subscriptions.on_subscribed(room)
    for room in unsubscribe:
        subscriptions.on_unsubscribed(room)
    return subscribe, unsubscribe


def expire(subscriptions: Subscriptions) -> None:
    for room in subscriptions._empty_since:
        subscriptions._empty_since[room] -= module.LINGER_SECONDS


def test_permanent_room_is_requested_last(subscriptions: Subscriptions) -> None:
    for room in ("a", "b", "a", "z"):
        subscriptions.join(room)
    subscribe, unsubscribe = subscriptions.take_requests()
    assert (sorted(subscribe[:-1]), subscribe[-1], unsubscribe) == (["a", "b", "z"], "all", [])


def test_second_member_causes_no_request(subscribed: Subscriptions) -> None:
    subscribed.join("a")
    assert not subscribed.changed.is_set()
    assert confirm(subscribed) == ([], [])


def test_room_is_unsubscribed_some_time_after_its_last_member(subscribed: Subscriptions) -> None:
    subscribed.join("a")
    subscribed.leave("a")
    subscribed.leave("a")
    assert not subscribed.has_members("a")
    assert confirm(subscribed) == ([], [])
    expire(subscribed)
    assert confirm(subscribed) == ([], ["a"])


def test_member_that_returns_in_time_finds_the_subscription(subscribed: Subscriptions) -> None:
    subscribed.leave("a")
    subscribed.join("a")
    expire(subscribed)
    assert confirm(subscribed) == ([], [])
    subscribed.leave("a")
    expire(subscribed)
    assert confirm(subscribed) == ([], ["a"])


def test_member_that_returns_during_unsubscribe_subscribes_after_it(subscribed: Subscriptions) -> None:
    subscribed.leave("a")
    expire(subscribed)
    assert subscribed.take_requests() == ([], ["a"])
    subscribed.join("a")
    assert subscribed.take_requests() == ([], [])
    assert not is_subscribed(subscribed, "a")
    subscribed.on_unsubscribed("a")
    assert subscribed.changed.is_set()
    assert subscribed.take_requests() == (["a"], [])
    assert not is_subscribed(subscribed, "a")
    subscribed.on_subscribed("a")
    assert is_subscribed(subscribed, "a")


def test_member_that_leaves_during_subscribe_unsubscribes_after_it(subscriptions: Subscriptions) -> None:
    subscriptions.join("a")
    assert "a" in subscriptions.take_requests()[0]
    subscriptions.leave("a")
    expire(subscriptions)
    assert subscriptions.take_requests() == ([], [])
    subscriptions.on_subscribed("a")
    assert subscriptions.take_requests() == ([], ["a"])


def test_new_connection_subscribes_to_all_rooms_with_members(subscribed: Subscriptions) -> None:
    for room in ("b", "c"):
        subscribed.join(room)
    confirm(subscribed)
    subscribed.leave("c")
    subscribed.on_connection_lost()
    assert not is_subscribed(subscribed, "a")
    assert subscribed.changed.is_set()
    subscribe, unsubscribe = confirm(subscribed)
    assert (sorted(subscribe), unsubscribe) == (["a", "all", "b"], [])
    assert is_subscribed(subscribed, "a")


def test_rooms_without_members_leave_no_entries(subscribed: Subscriptions) -> None:
    subscribed.join("late")
    subscribed.wait_until_subscribed("late", 0)
    for room in ("a", "late"):
        subscribed.leave(room)
    expire(subscribed)
    confirm(subscribed)
    confirm(subscribed)
    entries = [
        set(subscribed._members),
        set(subscribed._state),
        set(subscribed._empty_since),
        subscribed._to_check,
        set(subscribed._waiters),
    ]
    assert entries == [{"all"}, {"all"}, set(), set(), set()]


def is_subscribed(subscriptions: Subscriptions, room: str) -> bool:
    """Whether a waiter for the room continues."""
    subscriptions.wait_until_subscribed(room, 0)
    is_waiting = room in subscriptions._waiters
    subscriptions._waiters.pop(room, None)
    return not is_waiting
