from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import gevent
import pytest

from app.core.errors import Unavailable
from app.notifications import delivery
from app.notifications.delivery import NotificationDelivery
from app.notifications.store import Notification, Page

NOW = datetime.now(UTC)
PAGE = 10


def item(seq: int) -> Notification:
    return Notification(1, seq, "message", f"number {seq}", {}, NOW)


class Inbox:
    """Of one user, in memory; and a socket that writes down what it is sent."""

    def __init__(self, head: int = 0, kept_from: int = 1) -> None:
        self.head = head
        self.kept_from = kept_from
        self.sent: list[tuple[str, Any]] = []
        self.reads: list[int] = []
        self.congested = False
        self.failures = 0

    def store(self) -> Notification:
        self.head += 1
        return item(self.head)

    def read(self, after: int) -> Page:
        self.reads.append(after)
        gevent.sleep(0)  # as a database would
        if self.failures:
            self.failures -= 1
            raise Unavailable("The database does not answer.")
        if after > self.head or after + 1 < self.kept_from:
            return Page([], self.head, recovered=False)
        items = [item(seq) for seq in range(after + 1, self.head + 1)][:PAGE]
        return Page(items, self.head, recovered=True)

    def emit(self, event: str, data: dict[str, Any]) -> None:
        self.sent.append((event, data["seq"] if event == "notification" else (data["head"], data["recovered"])))

    def delivery(self, after: int | None) -> NotificationDelivery:
        return NotificationDelivery(self.read, after, self.emit, lambda: self.congested, {})

    @property
    def seqs(self) -> list[int]:
        return [data for event, data in self.sent if event == "notification"]


def until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0.001)


def settle() -> None:
    """Lets every greenlet go on until it waits for something."""
    for _ in range(100):
        gevent.sleep(0)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "CONGESTION_SECONDS", 0.001)
    monkeypatch.setattr(delivery, "RETRY_SECONDS", 0.001)


def started(inbox: Inbox, after: int | None = None) -> NotificationDelivery:
    delivery = inbox.delivery(after)
    delivery.start()
    until(lambda: inbox.sent and inbox.sent[-1][0] == "ready")
    return delivery


def test_first_comes_what_was_missed_and_then_ready() -> None:
    inbox = Inbox(head=25)
    started(inbox, after=3)
    assert inbox.sent == [("notification", seq) for seq in range(4, 26)] + [("ready", (25, True))]


def test_who_names_no_number_begins_now() -> None:
    inbox = Inbox(head=7)
    delivery = started(inbox)
    assert inbox.sent == [("ready", (7, True))]
    delivery.deliver(inbox.store().payload())
    assert inbox.seqs == [8]


@pytest.mark.parametrize("after", [2, 30])
def test_too_large_a_gap_is_told_and_not_filled(after: int) -> None:
    inbox = Inbox(head=20, kept_from=10)
    delivery = started(inbox, after=after)
    assert inbox.sent == [("ready", (20, False))]
    delivery.deliver(inbox.store().payload())
    assert inbox.seqs == [21]


def test_the_next_number_is_passed_on_without_reading() -> None:
    inbox = Inbox()
    delivery = started(inbox)
    reads = len(inbox.reads)
    for _ in range(5):
        delivery.deliver(inbox.store().payload())
    assert inbox.seqs == [1, 2, 3, 4, 5]
    assert len(inbox.reads) == reads


def test_one_out_of_turn_makes_it_read_what_is_between() -> None:
    inbox = Inbox()
    delivery = started(inbox)
    pushed = [inbox.store().payload() for _ in range(4)]
    for index in (2, 0, 3, 1):
        delivery.deliver(pushed[index])
        settle()
    assert inbox.seqs == [1, 2, 3, 4]


def test_what_was_sent_is_not_sent_again() -> None:
    inbox = Inbox()
    delivery = started(inbox)
    first, second = (inbox.store().payload() for _ in range(2))
    for pushed in (first, first, second, first, second):
        delivery.deliver(pushed)
        settle()
    assert inbox.seqs == [1, 2]


def test_what_is_pushed_while_it_reads_is_not_lost() -> None:
    inbox = Inbox(head=40)
    delivery = inbox.delivery(0)
    delivery.start()
    for number in range(100):  # faster than it reads
        delivery.deliver(inbox.store().payload())
        if number % (2 * PAGE) == 0:
            gevent.sleep(0)
    assert len(inbox.seqs) < inbox.head  # it was still reading
    until(lambda: len(inbox.seqs) == inbox.head)
    assert inbox.seqs == list(range(1, inbox.head + 1))


def test_a_lost_push_is_found_by_its_number() -> None:
    inbox = Inbox()
    delivery = started(inbox)
    inbox.store()
    delivery.catch_up(inbox.head)
    until(lambda: inbox.seqs == [1])
    delivery.catch_up(inbox.head)
    settle()
    assert inbox.seqs == [1]


def test_a_promise_that_nothing_is_behind_does_not_keep_it_busy() -> None:
    inbox = Inbox(head=3)
    delivery = started(inbox)
    delivery.catch_up(99)
    settle()
    reads = len(inbox.reads)
    settle()
    assert len(inbox.reads) == reads
    delivery.deliver(inbox.store().payload())
    assert inbox.seqs == [4]


def test_a_client_that_does_not_read_is_waited_for() -> None:
    inbox = Inbox()
    delivery = started(inbox)
    inbox.congested = True
    for _ in range(25):
        delivery.deliver(inbox.store().payload())
    settle()
    assert inbox.seqs == []
    inbox.congested = False
    until(lambda: len(inbox.seqs) == 25)
    assert inbox.seqs == list(range(1, 26))


def test_a_database_that_fails_is_asked_again() -> None:
    inbox = Inbox(head=3)
    inbox.failures = 3
    started(inbox, after=0)
    assert inbox.seqs == [1, 2, 3]
    assert inbox.failures == 0


def test_what_was_deleted_before_a_slow_client_had_it_is_told() -> None:
    inbox = Inbox()
    delivery = started(inbox)
    inbox.congested = True
    for _ in range(5):
        delivery.deliver(inbox.store().payload())
    inbox.kept_from, inbox.congested = 4, False
    until(lambda: inbox.sent[-1] == ("ready", (5, False)))
    assert inbox.seqs == []


def test_after_the_end_nothing_is_sent() -> None:
    inbox = Inbox()
    delivery = started(inbox)
    inbox.congested = True
    delivery.deliver(inbox.store().payload())
    settle()
    delivery.close()
    inbox.congested = False
    settle()
    gevent.sleep(0.01)
    assert inbox.seqs == []
