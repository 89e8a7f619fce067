from __future__ import annotations

import pytest

from app.realtime import subscriptions as module
from app.realtime.subscriptions import Subscriptions


@pytest.fixture
def rooms() -> Subscriptions:
    return Subscriptions(always="all")


@pytest.fixture
def heard(rooms: Subscriptions) -> Subscriptions:
    """With a member of room "a", and Redis has confirmed it."""
    rooms.join("a")
    answer(rooms)
    return rooms


def answer(rooms: Subscriptions) -> tuple[list[str], list[str]]:
    """As Redis does to all that is asked."""
    subscribe, unsubscribe = rooms.take_requests()
    for room in subscribe:
        rooms.on_subscribed(room)
    for room in unsubscribe:
        rooms.on_unsubscribed(room)
    return subscribe, unsubscribe


def long_ago(rooms: Subscriptions) -> None:
    for room in rooms._left:
        rooms._left[room] -= module.LINGER_SECONDS


def test_what_is_always_heard_is_asked_for_last(rooms: Subscriptions) -> None:
    for room in ("a", "b", "a", "z"):
        rooms.join(room)
    subscribe, unsubscribe = rooms.take_requests()
    assert (sorted(subscribe[:-1]), subscribe[-1], unsubscribe) == (["a", "b", "z"], "all", [])


def test_the_second_member_asks_for_nothing(heard: Subscriptions) -> None:
    heard.join("a")
    assert not heard.changed.is_set()
    assert answer(heard) == ([], [])


def test_a_room_is_given_up_a_while_after_its_last_member(heard: Subscriptions) -> None:
    heard.join("a")
    heard.leave("a")
    heard.leave("a")
    assert not heard.has_members("a")
    assert answer(heard) == ([], [])
    long_ago(heard)
    assert answer(heard) == ([], ["a"])


def test_who_comes_back_in_time_finds_it_as_it_was(heard: Subscriptions) -> None:
    heard.leave("a")
    heard.join("a")
    long_ago(heard)
    assert answer(heard) == ([], [])
    heard.leave("a")
    long_ago(heard)
    assert answer(heard) == ([], ["a"])


def test_who_comes_back_while_it_is_given_up_asks_when_that_is_done(heard: Subscriptions) -> None:
    heard.leave("a")
    long_ago(heard)
    assert heard.take_requests() == ([], ["a"])
    heard.join("a")
    assert heard.take_requests() == ([], [])
    assert not is_heard(heard, "a")
    heard.on_unsubscribed("a")
    assert heard.changed.is_set()
    assert heard.take_requests() == (["a"], [])
    assert not is_heard(heard, "a")
    heard.on_subscribed("a")
    assert is_heard(heard, "a")


def test_who_left_before_it_was_heard_gives_it_up_when_that_is_done(rooms: Subscriptions) -> None:
    rooms.join("a")
    assert "a" in rooms.take_requests()[0]
    rooms.leave("a")
    long_ago(rooms)
    assert rooms.take_requests() == ([], [])
    rooms.on_subscribed("a")
    assert rooms.take_requests() == ([], ["a"])


def test_on_a_new_connection_all_that_has_members_is_asked_for_again(heard: Subscriptions) -> None:
    for room in ("b", "c"):
        heard.join(room)
    answer(heard)
    heard.leave("c")
    heard.restart()
    assert not is_heard(heard, "a")
    assert heard.changed.is_set()
    subscribe, unsubscribe = answer(heard)
    assert (sorted(subscribe), unsubscribe) == (["a", "all", "b"], [])
    assert is_heard(heard, "a")


def test_nobody_is_kept_in_mind_for_ever(heard: Subscriptions) -> None:
    heard.join("late")
    heard.wait_until_subscribed("late", 0)
    for room in ("a", "late"):
        heard.leave(room)
    long_ago(heard)
    answer(heard)
    answer(heard)
    kept = [set(heard._members), set(heard._state), set(heard._left), heard._unsettled, set(heard._awaited)]
    assert kept == [{"all"}, {"all"}, set(), set(), set()]


def is_heard(rooms: Subscriptions, room: str) -> bool:
    """Whether who waits for it goes on."""
    rooms.wait_until_subscribed(room, 0)
    waits = room in rooms._awaited
    rooms._awaited.pop(room, None)
    return not waits
