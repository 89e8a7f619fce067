from __future__ import annotations

import pytest

from app.realtime import subscriptions as module
from app.realtime.channels import Server
from app.realtime.subscriptions import Subscriptions
from app.redis.cluster import NodeAddress


@pytest.fixture
def subscriptions() -> Subscriptions:
    return Subscriptions(permanent_room="all")


@pytest.fixture
def subscribed(subscriptions: Subscriptions) -> Subscriptions:
    """Subscriptions with a member of room "a", which Redis has confirmed."""
    subscriptions.join("a")
    confirm(subscriptions)
    return subscriptions


def take(subscriptions: Subscriptions, server: Server = None) -> tuple[list[str], list[str]]:
    requests = subscriptions.take_requests(server)
    return requests.subscribe, requests.unsubscribe


def confirm(subscriptions: Subscriptions, server: Server = None) -> tuple[list[str], list[str]]:
    """Confirm all requests, as Redis does."""
    subscribe, unsubscribe, number = subscriptions.take_requests(server)
    for room in subscribe:
        subscriptions.on_subscribed(server, room)
    for room in unsubscribe:
        subscriptions.on_unsubscribed(server, room)
    subscriptions.on_answered(server, number)
    return subscribe, unsubscribe


def has_requests(subscriptions: Subscriptions, server: Server = None) -> bool:
    return bool(subscriptions._connections[server].changed.is_set())


def expire(subscriptions: Subscriptions) -> None:
    for room in subscriptions._empty_since:
        subscriptions._empty_since[room] -= module.LINGER_SECONDS


def test_permanent_room_is_requested_last(subscriptions: Subscriptions) -> None:
    for room in ("a", "b", "a", "z"):
        subscriptions.join(room)
    subscribe, unsubscribe = take(subscriptions)
    assert (sorted(subscribe[:-1]), subscribe[-1], unsubscribe) == (["a", "b", "z"], "all", [])


def test_second_member_causes_no_request(subscribed: Subscriptions) -> None:
    subscribed.join("a")
    assert not has_requests(subscribed)
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
    assert take(subscribed) == ([], ["a"])
    subscribed.join("a")
    assert take(subscribed) == ([], [])
    assert not is_subscribed(subscribed, "a")
    assert not subscribed.expect_unsubscribed("a")
    subscribed.on_unsubscribed(None, "a")
    assert has_requests(subscribed)
    assert take(subscribed) == (["a"], [])
    assert not is_subscribed(subscribed, "a")
    subscribed.on_subscribed(None, "a")
    assert is_subscribed(subscribed, "a")


def test_member_that_leaves_during_subscribe_unsubscribes_after_it(subscriptions: Subscriptions) -> None:
    subscriptions.join("a")
    assert "a" in take(subscriptions)[0]
    subscriptions.leave("a")
    expire(subscriptions)
    assert take(subscriptions) == ([], [])
    subscriptions.on_subscribed(None, "a")
    assert take(subscriptions) == ([], ["a"])


def test_new_connection_subscribes_to_all_rooms_with_members(subscribed: Subscriptions) -> None:
    for room in ("b", "c"):
        subscribed.join(room)
    confirm(subscribed)
    subscribed.leave("c")
    subscribed.on_connection_lost(None)
    assert not is_subscribed(subscribed, "a")
    assert has_requests(subscribed)
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
        subscribed._connections[None].to_check,
        set(subscribed._connections[None].unconfirmed),
        set(subscribed._waiters),
    ]
    assert entries == [{"all"}, {"all"}, set(), set(), set(), set()]


# Several servers

FIRST, SECOND = NodeAddress("a", 1), NodeAddress("b", 2)


@pytest.fixture
def carriers() -> dict[str, Server]:
    """The servers that carry the rooms; a test may change it."""
    return {"all": FIRST, "a": FIRST, "b": SECOND}


@pytest.fixture
def spread(carriers: dict[str, Server]) -> Subscriptions:
    """Confirmed subscriptions at two servers."""
    spread = Subscriptions("all", carriers.get)
    for room in ("a", "b"):
        spread.join(room)
    assert new_servers(spread) == [FIRST, SECOND]
    assert [confirm(spread, FIRST), confirm(spread, SECOND)] == [(["a", "all"], []), (["b"], [])]
    return spread


def new_servers(subscriptions: Subscriptions) -> list[Server]:
    return [subscriptions.new_servers.get_nowait() for _ in range(subscriptions.new_servers.qsize())]


def test_lost_connection_moves_its_rooms_to_the_server_that_carries_them_now(
    spread: Subscriptions, carriers: dict[str, Server]
) -> None:
    carriers |= {"all": SECOND, "a": FIRST}
    spread.on_connection_lost(FIRST)
    assert [spread.is_subscribed(room) for room in ("all", "a", "b")] == [False, False, True]
    assert [confirm(spread, FIRST), confirm(spread, SECOND)] == [(["a"], []), (["all"], [])]
    assert new_servers(spread) == []


def test_room_that_a_server_gives_up_is_requested_where_it_is_now(spread: Subscriptions, carriers: dict[str, Server]) -> None:
    third = NodeAddress("c", 3)
    carriers["b"] = third
    assert spread.expect_unsubscribed("b")
    assert not is_subscribed(spread, "b")
    spread.join("b")
    assert not has_requests(spread, SECOND)  # because it is not known yet where the room is
    spread.on_unsubscribed(SECOND, "b")
    assert not spread.needs(SECOND)
    spread.forget(SECOND)
    assert new_servers(spread) == [third]
    assert confirm(spread, third) == (["b"], [])
    carriers["b"] = SECOND
    spread.on_connection_lost(third)
    assert new_servers(spread) == [SECOND]


def test_lost_connection_changes_nothing_at_the_server_that_carries_a_room_now(
    spread: Subscriptions, carriers: dict[str, Server]
) -> None:
    carriers["c"] = FIRST
    spread.join("c")
    carriers["c"] = SECOND
    spread._check("c")  # before the first server was asked
    assert confirm(spread, SECOND) == (["c"], [])
    spread.on_connection_lost(FIRST)
    spread.on_unsubscribed(FIRST, "c")
    assert spread.is_subscribed("c")
    assert sorted(confirm(spread, FIRST)[0]) == ["a", "all"]


def test_refused_room_is_requested_where_it_is_now(spread: Subscriptions, carriers: dict[str, Server]) -> None:
    carriers["c"] = FIRST
    spread.join("c")
    refused = spread.take_requests(FIRST)
    spread.on_answered(FIRST, refused.number - 1)  # an earlier one
    assert not has_requests(spread, SECOND)
    carriers["c"] = SECOND
    spread.on_answered(FIRST, refused.number)
    assert has_requests(spread, SECOND)
    assert confirm(spread, SECOND) == (["c"], [])


def test_room_that_its_own_server_refuses_is_requested_again_after_a_pause(
    spread: Subscriptions, carriers: dict[str, Server]
) -> None:
    carriers["c"] = FIRST
    spread.join("c")
    spread.on_answered(FIRST, spread.take_requests(FIRST).number)
    assert not has_requests(spread, FIRST)  # so not before the next ping
    assert spread.needs(FIRST)
    assert confirm(spread, FIRST) == (["c"], [])


def test_room_without_a_known_server_is_requested_when_it_is_known(spread: Subscriptions, carriers: dict[str, Server]) -> None:
    spread.join("unknown")
    assert new_servers(spread) == [None]
    spread.on_connection_lost(None)
    assert spread.needs(None)
    carriers["unknown"] = SECOND
    spread.on_connection_lost(None)
    assert not spread.needs(None)
    assert confirm(spread, SECOND) == (["unknown"], [])


def is_subscribed(subscriptions: Subscriptions, room: str) -> bool:
    """Whether a waiter for the room continues."""
    subscriptions.wait_until_subscribed(room, 0)
    is_waiting = room in subscriptions._waiters
    subscriptions._waiters.pop(room, None)
    return not is_waiting
