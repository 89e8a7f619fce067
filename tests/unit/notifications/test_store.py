from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, delete, func, insert, select, update

from app.auth import store as accounts
from app.core.callbacks import do_nothing
from app.database.engine import Database
from app.database.schema import inboxes, notifications
from app.notifications import service, store
from app.notifications.service import Notifications
from app.notifications.store import Inbox


def new_user(database: Database, email: str = "ada@example.org") -> int:
    return database.run(accounts.add, email, "hash").id


def add(database: Database, *user_ids: int, title: str = "hello") -> list[int]:
    return [added.seq for added in database.run(store.add, user_ids, "message", title, {})]


def test_notifications_of_a_user_are_numbered_without_gaps(both: Database) -> None:
    ada, bob = new_user(both), new_user(both, "bob@example.org")
    assert add(both, ada) == [1]
    assert add(both, bob, ada) == [2, 1]
    assert add(both, ada, ada) == [3]
    assert [item.seq for item in both.run(store.after, ada, 0, 10)] == [1, 2, 3]
    assert both.run(store.heads, [ada, bob, 99]) == {ada: 3, bob: 1}


def test_number_of_a_failed_transaction_is_reused(both: Database) -> None:
    ada = new_user(both)

    def fail(connection: Connection) -> None:
        store.add(connection, [ada], "message", "never", {})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        both.run(fail)
    assert add(both, ada) == [1]


def test_unknown_user_is_not_notified(both: Database) -> None:
    ada = new_user(both)
    assert add(both, ada, 12345) == [1]
    assert add(both) == []
    assert both.run(store.inbox, 12345) == Inbox()


def test_pages_continue_after_the_last_number(both: Database) -> None:
    ada = new_user(both)
    for _ in range(5):
        add(both, ada)
    page = both.run(store.page, ada, 1, 3)
    assert ([item.seq for item in page.items], page.head, page.recovered) == ([2, 3, 4], 5, True)
    end = both.run(store.page, ada, 5, 3)
    assert (end.items, end.head, end.recovered) == ([], 5, True)
    assert [item.seq for item in both.run(store.before, ada, 4, 2)] == [3, 2]


@pytest.mark.parametrize("after", [4, 10**12])
def test_page_after_a_number_beyond_the_head_is_not_recovered(both: Database, after: int) -> None:
    ada = new_user(both)
    for _ in range(3):
        add(both, ada)
    page = both.run(store.page, ada, after, 10)
    assert (page.items, page.head, page.recovered) == ([], 3, False)


def test_read_mark_moves_forward_up_to_the_head(both: Database) -> None:
    ada = new_user(both)
    both.run(store.mark_read, ada, 5)
    for _ in range(3):
        add(both, ada)
    for up_to, expected in ((0, 0), (2, 2), (1, 2), (100, 3)):
        both.run(store.mark_read, ada, up_to)
        assert both.run(store.inbox, ada) == Inbox(head=3, read_up_to=expected)
    assert both.run(store.inbox, ada).unread == 0


def read(head: int, up_to: int, *also_read: int) -> Inbox:
    return Inbox(head, up_to, also_read)


@pytest.mark.parametrize(
    ("before", "up_to", "opened", "after"),
    [
        (read(9, 2), 0, [5], read(9, 2, 5)),
        (read(9, 2, 5), 0, [7, 5], read(9, 2, 5, 7)),
        (read(9, 2, 5), 0, [3, 4], read(9, 5)),
        (read(9, 2, 4, 5, 7), 0, [3], read(9, 5, 7)),
        (read(9, 2, 5, 7), 6, [], read(9, 7)),
        (read(9, 2, 5), 99, [], read(9, 9)),
        (read(9, 2), 0, [1, 10], read(9, 2)),
    ],
)
def test_single_notifications_can_be_read(before: Inbox, up_to: int, opened: list[int], after: Inbox) -> None:
    assert before.read(up_to, opened) == after
    assert after.unread == sum(not after.has_read(seq) for seq in range(1, 10))


def test_number_of_single_read_notifications_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_ALSO_READ", 3)
    assert read(99, 0).read(0, [10, 20, 30, 40, 50]) == read(99, 20, 30, 40, 50)


def test_notifications_about_something_are_found_until_they_are_read(both: Database) -> None:
    ada = new_user(both)
    for data in ({"repository_id": 7}, {"repository_id": 77}, {}, {"repository_id": 7, "x": 1}, {"export_id": 7}):
        both.run(store.add, [ada], "message", "news", data)
    assert both.run(store.find_unread, ada, "repository_id", 7) == [1, 4]
    assert both.run(store.mark_read, ada, 0, [1, 4]) == Inbox(5, 1, (4,)) == both.run(store.inbox, ada)
    assert both.run(store.mark_read, ada, 0, [1, 4]) is None
    assert both.run(store.find_unread, ada, "repository_id", 7) == []
    assert both.run(store.find_unread, ada, "export_id", 7) == both.run(store.find_unread, ada, "export_id", None) == [5]
    assert both.run(store.find_unread, ada, "channel_id", None) == []


def test_read_mark_that_an_earlier_version_moved_is_understood(both: Database) -> None:
    ada = new_user(both)
    for _ in range(5):
        add(both, ada)
    both.run(store.mark_read, ada, 0, [3, 5])
    both.run(lambda connection: connection.execute(update(inboxes).values(read_up_to=4)))
    assert both.run(store.inbox, ada) == Inbox(5, 5)


def test_purge_keeps_the_last_thousand_and_recent_notifications(both: Database) -> None:
    ada = new_user(both)
    expired, recent = datetime.now(UTC) - timedelta(days=8), datetime.now(UTC) - timedelta(days=6)

    def fill(connection: Connection) -> None:
        store.add(connection, [ada], "message", "first", {})
        text = {"user_id": ada, "type": "message", "title": "", "data": {}}
        rows = [{**text, "seq": seq, "created_at": recent if seq == 7 else expired} for seq in range(2, 1011)]
        connection.execute(insert(notifications), rows)
        connection.execute(update(inboxes).values(head=1010))
        connection.execute(update(notifications).where(notifications.c.seq == 1).values(created_at=expired))

    both.run(fill)
    assert both.run(store.purge, 4) == 4
    assert both.run(store.purge, 100) == 5
    assert both.run(store.purge, 100) == 0

    def remaining(connection: Connection) -> list[int]:
        return list(connection.execute(select(notifications.c.seq).order_by(notifications.c.seq)).scalars())

    assert both.run(remaining) == [7, *range(11, 1011)]
    assert both.run(store.page, ada, 3, 10).recovered is False
    assert both.run(store.page, ada, 10, 10).recovered is True


def test_purge_continues_with_the_next_users(both: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "PURGED_USERS", 2)
    monkeypatch.setattr(service, "PURGE_BATCH", 3)
    users = [new_user(both, f"{number}@example.org") for number in range(5)]
    expired = {"type": "message", "title": "", "data": {}, "created_at": datetime.now(UTC) - timedelta(days=8)}

    def fill(connection: Connection) -> None:
        for user in users:
            connection.execute(insert(inboxes).values(user_id=user, head=1004, read_up_to=0))
            connection.execute(insert(notifications), [{"user_id": user, "seq": seq, **expired} for seq in range(1, 1005)])

    def count(connection: Connection) -> list[int]:
        counts = (
            select(func.count()).select_from(notifications).group_by(notifications.c.user_id).order_by(notifications.c.user_id)
        )
        return list(connection.execute(counts).scalars())

    both.run_within(10, fill)
    purger = Notifications(both, do_nothing)
    assert [purger._purge_batch() for _ in range(2)] == [True, True]
    assert both.run(count) == [1000, 1002, 1004, 1004, 1004]
    assert purger.purge() is False
    assert both.run(count) == [1000] * 5
    assert purger.purge() is False  # it has started over


def test_deleting_the_account_deletes_its_notifications(both: Database) -> None:
    ada = new_user(both)
    add(both, ada)
    both.run(accounts.remove, ada)
    assert both.run(store.after, ada, 0, 10) == []
    assert both.run(store.inbox, ada) == Inbox()


def test_pages_of_several_users_are_read_together(both: Database) -> None:
    ada, bob = new_user(both), new_user(both, "bob@example.org")
    for _ in range(5):
        add(both, ada)
    add(both, bob)
    both.run(lambda connection: connection.execute(delete(notifications).where(notifications.c.seq == 1)))
    asked = [(ada, 2), (ada, 3), (ada, 5), (ada, 9), (ada, 0), (bob, 1), (12345, 0)]
    pages = both.run(store.pages, asked, 2)
    assert [([item.seq for item in page.items], page.head, page.recovered) for page in pages] == [
        ([3, 4], 5, True),
        ([4, 5], 5, True),
        ([], 5, True),
        ([], 5, False),  # a number that was never given
        ([], 5, False),  # the next one has been purged
        ([], 1, True),
        ([], 0, True),
    ]
    del asked[4], pages[4]
    assert pages == [both.run(store.page, *pair, 2) for pair in asked]


def test_pages_of_many_users_are_short(both: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_READ_TOGETHER", 4)
    users = [new_user(both, f"{number}@example.org") for number in range(3)]
    for _ in range(3):
        add(both, *users)
    pages = both.run(store.pages, [(user, 0) for user in users], 100)
    assert [[item.seq for item in page.items] for page in pages] == [[1]] * 3
    assert both.run(store.pages, [(user, 2) for user in users], 100)[0].recovered
