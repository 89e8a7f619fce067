from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import gevent
import pytest

from app.core.errors import Unavailable
from app.notifications import delivery
from app.notifications.delivery import NotificationDelivery
from app.notifications.store import Notification, Page
from harness.greenlets import until

NOW = datetime.now(UTC)
PAGE = 10


def notification(seq: int) -> Notification:
    return Notification(1, seq, "message", f"number {seq}", {}, NOW)


class FakeInbox:
    """The stored notifications of one user, in memory, and the events that the socket was sent."""

    def __init__(self, head: int = 0, oldest: int = 1) -> None:
        self.head = head
        self.oldest = oldest
        self.sent: list[tuple[str, Any]] = []
        self.reads: list[int] = []
        self.is_congested = False
        self.failures = 0

    def store(self) -> Notification:
        self.head += 1
        return notification(self.head)

    def read(self, after: int) -> Page:
        self.reads.append(after)
        gevent.sleep(0)  # yield as a query does
        if self.failures:
            self.failures -= 1
            raise Unavailable("The database does not answer.")
        if after > self.head or after + 1 < self.oldest:
            return Page([], self.head, recovered=False)
        items = [notification(seq) for seq in range(after + 1, self.head + 1)][:PAGE]
        return Page(items, self.head, recovered=True)

    def emit(self, event: str, data: dict[str, Any]) -> None:
        self.sent.append((event, data["seq"] if event == "notification" else (data["head"], data["recovered"])))

    def delivery(self, after: int | None) -> NotificationDelivery:
        return NotificationDelivery(self.read, after, self.emit, lambda: self.is_congested, {})

    @property
    def seqs(self) -> list[int]:
        return [data for event, data in self.sent if event == "notification"]


def settle() -> None:
    """Let every greenlet run until it waits for something."""
    for _ in range(100):
        gevent.sleep(0)


@pytest.fixture(autouse=True)
def short_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "CONGESTION_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(delivery, "DATABASE_RETRY_SECONDS", 0.001)


def started(inbox: FakeInbox, after: int | None = None) -> NotificationDelivery:
    delivery = inbox.delivery(after)
    delivery.start()
    until(lambda: inbox.sent and inbox.sent[-1][0] == "ready")
    return delivery


def test_missed_notifications_are_sent_before_ready() -> None:
    inbox = FakeInbox(head=25)
    started(inbox, after=3)
    assert inbox.sent == [("notification", seq) for seq in range(4, 26)] + [("ready", (25, True))]


def test_client_without_a_number_receives_only_new_notifications() -> None:
    inbox = FakeInbox(head=7)
    delivery = started(inbox)
    assert inbox.sent == [("ready", (7, True))]
    delivery.deliver(inbox.store().payload())
    assert inbox.seqs == [8]


@pytest.mark.parametrize("after", [2, 30])
def test_gap_that_cannot_be_filled_is_reported(after: int) -> None:
    inbox = FakeInbox(head=20, oldest=10)
    delivery = started(inbox, after=after)
    assert inbox.sent == [("ready", (20, False))]
    delivery.deliver(inbox.store().payload())
    assert inbox.seqs == [21]


def test_next_number_is_sent_without_reading_the_database() -> None:
    inbox = FakeInbox()
    delivery = started(inbox)
    reads = len(inbox.reads)
    for _ in range(5):
        delivery.deliver(inbox.store().payload())
    assert inbox.seqs == [1, 2, 3, 4, 5]
    assert len(inbox.reads) == reads


def test_number_out_of_order_reads_the_missing_notifications() -> None:
    inbox = FakeInbox()
    delivery = started(inbox)
    pushed = [inbox.store().payload() for _ in range(4)]
    for index in (2, 0, 3, 1):
        delivery.deliver(pushed[index])
        settle()
    assert inbox.seqs == [1, 2, 3, 4]


def test_duplicate_push_is_ignored() -> None:
    inbox = FakeInbox()
    delivery = started(inbox)
    first, second = (inbox.store().payload() for _ in range(2))
    for pushed in (first, first, second, first, second):
        delivery.deliver(pushed)
        settle()
    assert inbox.seqs == [1, 2]


def test_push_during_a_read_is_not_lost() -> None:
    inbox = FakeInbox(head=40)
    delivery = inbox.delivery(0)
    delivery.start()
    for number in range(100):  # faster than it reads
        delivery.deliver(inbox.store().payload())
        if number % (2 * PAGE) == 0:
            gevent.sleep(0)
    assert len(inbox.seqs) < inbox.head  # it was still reading
    until(lambda: len(inbox.seqs) == inbox.head)
    assert inbox.seqs == list(range(1, inbox.head + 1))


def test_lost_push_is_found_by_the_head() -> None:
    inbox = FakeInbox()
    delivery = started(inbox)
    inbox.store()
    delivery.catch_up(inbox.head)
    until(lambda: inbox.seqs == [1])
    delivery.catch_up(inbox.head)
    settle()
    assert inbox.seqs == [1]


def test_head_beyond_the_stored_notifications_causes_no_busy_loop() -> None:
    inbox = FakeInbox(head=3)
    delivery = started(inbox)
    delivery.catch_up(99)
    settle()
    reads = len(inbox.reads)
    settle()
    assert len(inbox.reads) == reads
    delivery.deliver(inbox.store().payload())
    assert inbox.seqs == [4]


def test_delivery_waits_for_a_congested_client() -> None:
    inbox = FakeInbox()
    delivery = started(inbox)
    inbox.is_congested = True
    for _ in range(25):
        delivery.deliver(inbox.store().payload())
    settle()
    assert inbox.seqs == []
    inbox.is_congested = False
    until(lambda: len(inbox.seqs) == 25)
    assert inbox.seqs == list(range(1, 26))


def test_failed_read_is_retried() -> None:
    inbox = FakeInbox(head=3)
    inbox.failures = 3
    started(inbox, after=0)
    assert inbox.seqs == [1, 2, 3]
    assert inbox.failures == 0


def test_purge_before_a_slow_client_catches_up_is_reported() -> None:
    inbox = FakeInbox()
    delivery = started(inbox)
    inbox.is_congested = True
    for _ in range(5):
        delivery.deliver(inbox.store().payload())
    inbox.oldest, inbox.is_congested = 4, False
    until(lambda: inbox.sent[-1] == ("ready", (5, False)))
    assert inbox.seqs == []


def test_closed_delivery_sends_nothing() -> None:
    inbox = FakeInbox()
    delivery = started(inbox)
    inbox.is_congested = True
    delivery.deliver(inbox.store().payload())
    settle()
    delivery.close()
    inbox.is_congested = False
    settle()
    gevent.sleep(0.01)
    assert inbox.seqs == []
