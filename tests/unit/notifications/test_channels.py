"""Channels and their deliveries, with a clock that tests set forward. The receivers are fake."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, update

from app.auth import store as accounts
from app.core import config
from app.core.callbacks import do_nothing
from app.core.errors import Conflict, Invalid, NotFound
from app.core.keyring import Keyring
from app.core.mail import MailError
from app.database.engine import SQL_TIMEOUT_SECONDS, Database, DatabaseUnavailable
from app.database.schema import channels as table
from app.database.schema import deliveries
from app.notifications import channel_store, channels, jobs, store, webhook
from app.notifications.channel_store import HOLD, MAIL_INTERVAL, PAUSES, Channel, ChannelDelivery
from app.notifications.channels import Channels
from app.notifications.jobs import CONCURRENT_DELIVERIES, CONCURRENT_RETRIES, MAX_START_SECONDS, NotificationDeliverer
from app.notifications.service import Notifications
from app.notifications.webhook import Outcome
from harness.scale import FULL
from tests.unit.repositories.conftest import new_user

URL, OTHER = "https://hooks.example.org/1", "https://other.example.org/2"
ACCEPTED, BROKEN = Outcome(200), Outcome(500, "The server responded with an error (500).")
KEY, NEW_KEY = b"k" * 32, b"n" * 32


class FakeReceivers:
    """Replaces the client of webhooks and the mail server."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}  # by URL; others accept
        self.posted: list[tuple[str, str]] = []  # URL and message ID
        self.secrets: set[str] = set()
        self.mails: list[tuple[str, str, str | None]] = []  # subject, text and message ID
        self.mail_error: str | None = None
        self.on_post: Callable[[str], object] = do_nothing

    def post(self, url: str, secret: str, message_id: str, body: bytes) -> Outcome:
        self.posted.append((url, message_id))
        self.secrets.add(secret)
        assert b'"text":' in body
        self.on_post(url)
        return self.outcomes.get(url, ACCEPTED)

    def send(self, recipient: str, subject: str, text: str, *, message_id: str | None = None) -> None:
        assert recipient == "ada@example.org"
        self.mails.append((subject, text, message_id))
        if self.mail_error:
            raise MailError(self.mail_error)

    def ids(self, url: str = URL) -> list[str]:
        return [message_id.rpartition("_")[2] for posted, message_id in self.posted if posted == url]


class Scene:
    def __init__(self, database: Database, environment: dict[str, str]) -> None:
        self.database = database
        self.config = config.load(
            {**environment, "PUBLIC_URL": "https://radar.example.org", "SMTP_URL": "smtps://mail.example.org"}
        )
        self.receivers = FakeReceivers()
        self.notifications = Notifications(database, do_nothing)
        self.keyring = Keyring("encryption", (KEY,))
        self.channels = Channels(self.config, database, self.keyring)
        self.deliverer = self.new_worker()
        self.ada = new_user(database)

    def new_worker(self, keyring: Keyring | None = None) -> NotificationDeliverer:
        found = NotificationDeliverer(self.config, self.database, self.notifications, keyring or self.keyring)
        found._webhooks = found._mailer = self.receivers  # type: ignore[assignment]
        return found

    def add(self, kind: str = "webhook", url: str = URL) -> Channel:
        return self.channels.create(self.ada, kind, url).channel

    def notify(self, count: int = 1) -> None:
        for _ in range(count):
            self.notifications.send(self.ada, "message", "Hello", {})

    def work(self) -> None:
        """Deliver what is due, one after the other."""
        while self.deliverer.start_next():
            self.deliverer.wait_until_idle(5)

    def wait(self, passed: timedelta) -> None:
        """Move all times of channels and deliveries into the past."""

        def move(connection: Connection) -> None:
            for moved in (table, deliveries):
                names = [column.name for column in moved.c if column.name.endswith(("_at", "_until", "_before"))]
                for row in connection.execute(select(moved)).mappings().all():
                    earlier = {name: row[name] - passed for name in names if row[name] is not None}
                    connection.execute(update(moved).where(moved.c.id == row["id"]).values(earlier))

        self.database.run(move)

    def wait_and_work(self, passed: timedelta) -> None:
        self.wait(passed)
        self.work()

    def deliveries(self, channel: Channel) -> Sequence[ChannelDelivery]:
        """Return the oldest deliveries first."""
        return self.channels.deliveries(self.ada, channel.id)[::-1]

    def get(self, channel: Channel) -> Channel:
        (found,) = (one for one in self.channels.list(self.ada) if one.id == channel.id)
        return found

    def count(self) -> int:
        return self.database.run(lambda connection: connection.execute(select(func.count()).select_from(deliveries)).scalar_one())

    def types(self) -> list[str]:
        return [item.type for item in self.notifications.after(self.ada, 0).items]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(channels, "POLL_SECONDS", 0.001)
    monkeypatch.setattr(webhook, "refuse_private", do_nothing)


@pytest.fixture(params=["postgresql", "sqlite"] if FULL else ["postgresql"])
def both(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with the schema. In `make test` only PostgreSQL, as these tests are many."""
    if request.param == "sqlite":
        yield request.getfixturevalue("database")
        return
    url = request.getfixturevalue("database_url").replace("postgresql:", "postgresql+psycopg2:")
    with closing(Database(url, 10, "test")) as database:
        yield database


@pytest.fixture
def scene(both: Database, embedded: dict[str, str]) -> Scene:
    return Scene(both, embedded)


def test_each_notification_is_delivered_once_and_in_order(scene: Scene) -> None:
    scene.notify()  # before there is a channel
    channel = scene.add()
    scene.notify(3)
    assert [delivery.attempts for delivery in scene.deliveries(channel)] == [0, 0, 0]
    scene.work()
    scene.work()
    assert scene.receivers.posted == [(URL, f"msg_{channel.id}_{seq}") for seq in (2, 3, 4)]
    found = scene.deliveries(channel)
    assert [(one.seq, one.attempts, one.status, one.error) for one in found] == [(seq, 1, 200, None) for seq in (2, 3, 4)]
    assert all(one.attempted_at and one.finished_at for one in found)


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)  # only greenlets share a SQLite database
def test_deliveries_of_a_channel_follow_each_other_without_a_pause(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "POLL_SECONDS", 60.0)
    scene.add()
    scene.notify(5)
    thread = threading.Thread(target=scene.deliverer.run)
    thread.start()
    deadline = time.monotonic() + 10
    while len(scene.receivers.posted) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    scene.deliverer.stop()
    thread.join(10)
    assert (scene.receivers.ids(), thread.is_alive()) == (["1", "2", "3", "4", "5"], False)


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)
@pytest.mark.parametrize("error", [DatabaseUnavailable(), RuntimeError("a defect")], ids=["outage", "defect"])
def test_error_of_reading_deliveries_is_logged_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    outcomes: Iterator[Exception | None] = iter([error, error, error, None, error, error])

    def start_next() -> bool:
        try:
            outcome = next(outcomes)
        except StopIteration:
            scene.deliverer.stop()
            return False
        if outcome:
            raise outcome
        return False

    monkeypatch.setattr(scene.deliverer, "start_next", start_next)
    scene.deliverer.run()
    assert [message.partition(" s")[0] for message in caplog.messages] == ["cannot read deliveries, retrying every 0.01"] * 2


def test_secret_is_shown_once_and_stored_encrypted(scene: Scene) -> None:
    created = scene.channels.create(scene.ada, "webhook", URL)
    assert created.secret
    scene.notify()
    scene.work()
    assert scene.receivers.secrets == {created.secret}
    ((_, encrypted),) = scene.database.run(channel_store.secrets_after, 0, 10)
    assert created.secret.encode() not in encrypted


def test_delivery_exists_exactly_if_its_notification_does(scene: Scene) -> None:
    scene.add()

    def roll_back(connection: Connection) -> None:
        store.add(connection, [scene.ada], "message", "Hello", {})
        raise LookupError

    with pytest.raises(LookupError):
        scene.database.run(roll_back)
    assert scene.count() == 0
    scene.notify()
    assert scene.count() == 1


def test_killed_worker_loses_no_delivery_and_repeats_it_with_the_same_id(scene: Scene) -> None:
    channel = scene.add()
    scene.notify(2)
    killed = scene.database.run(channel_store.claim, failing_too=True)
    assert killed
    scene.deliverer._post(killed)  # and then it is killed
    scene.work()
    assert scene.receivers.ids() == ["1"]
    scene.wait_and_work(timedelta(minutes=1))
    assert scene.receivers.ids() == ["1", "1", "2"]
    for late in (channel_store.fail, channel_store.give_up):  # it was only frozen: its lease is lost
        scene.database.run(late, killed, 500, "late")
    assert [(one.attempts, one.status, one.error) for one in scene.deliveries(channel)] == [(1, 200, None)] * 2
    assert scene.get(channel).disabled_at is None


def test_outcome_is_saved_after_an_outage(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    channel, failures = scene.add(), [DatabaseUnavailable(), DatabaseUnavailable()]
    scene.notify()
    succeed = channel_store.succeed

    def fail_first(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        succeed(*arguments)

    monkeypatch.setattr(channel_store, "succeed", fail_first)
    scene.work()
    assert (scene.receivers.ids(), scene.deliveries(channel)[0].status) == (["1"], 200)


def test_failed_delivery_is_retried_for_a_day_and_then_the_channel_is_disabled(scene: Scene) -> None:
    broken, other = scene.add(), scene.add(url=OTHER)
    scene.receivers.outcomes[URL] = BROKEN
    scene.notify()
    scene.work()
    for number, pause in enumerate(PAUSES, 1):
        scene.wait_and_work(pause - timedelta(seconds=2))
        assert scene.receivers.ids().count("1") == number
        scene.wait_and_work(timedelta(seconds=3))
        assert scene.receivers.ids().count("1") == number + 1
    assert timedelta(hours=23) < sum(PAUSES, timedelta()) < timedelta(hours=25)
    found = scene.get(broken)
    assert (found.disabled_at is not None, found.disabled_reason) == (True, BROKEN.error)
    assert scene.types() == ["message", "channel.disabled"]
    item = scene.notifications.after(scene.ada, 1).items[0]
    assert item.title == "The webhook to hooks.example.org was disabled, because notifications could not be delivered"
    assert item.data == {"channel_id": broken.id, "kind": "webhook", "error": BROKEN.error}
    scene.notify()
    scene.work()
    assert scene.receivers.ids(OTHER) == ["1", "2", "3"]
    assert scene.receivers.ids() == ["1"] * (len(PAUSES) + 1)
    assert [one.error for one in scene.deliveries(broken)] == [BROKEN.error]
    assert scene.get(other).disabled_at is None
    with pytest.raises(Conflict):
        scene.channels.test(scene.ada, broken.id)


def test_waiting_deliveries_end_with_their_channel(scene: Scene) -> None:
    channel = scene.add()
    scene.receivers.outcomes[URL] = Outcome(410, "The server wants no more messages (410).", is_permanent=True)
    scene.notify(3)
    scene.work()
    assert scene.receivers.ids() == ["1"]
    assert [one.error for one in scene.deliveries(channel)][1:] == ["The channel was disabled."] * 2
    assert scene.types()[3:] == ["channel.disabled"]


def test_failing_delivery_holds_back_its_channel_for_an_hour(scene: Scene) -> None:
    channel = scene.add()
    scene.receivers.outcomes[URL] = BROKEN
    scene.notify(2)
    scene.work()
    for _ in range(5):
        scene.wait_and_work(timedelta(minutes=11))
    assert set(scene.receivers.ids()) == {"1"}
    scene.receivers.outcomes.clear()
    scene.wait_and_work(HOLD - timedelta(minutes=50))
    assert scene.receivers.ids()[-1] == "2"  # the retry of the first one is not due yet
    scene.wait_and_work(PAUSES[5])
    assert scene.receivers.ids()[-1] == "1"
    assert [one.status for one in scene.deliveries(channel)] == [200, 200]


def test_recovered_receiver_gets_everything_in_order(scene: Scene) -> None:
    scene.add()
    scene.receivers.outcomes[URL] = BROKEN
    scene.notify(3)
    scene.work()
    scene.receivers.outcomes.clear()
    scene.wait_and_work(PAUSES[0])
    assert scene.receivers.ids() == ["1", "1", "2", "3"]


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)  # only greenlets share a SQLite database
def test_dead_receivers_do_not_delay_others(scene: Scene) -> None:
    dead = CONCURRENT_DELIVERIES + 5
    users = [new_user(scene.database, f"{number}@example.org") for number in range(dead)]
    for user_id in users:
        scene.channels.create(user_id, "webhook", URL)
    scene.add(url=OTHER)
    scene.receivers.outcomes[URL] = BROKEN
    scene.database.run(store.add, users, "message", "Hello", {})
    scene.work()
    scene.wait(PAUSES[0])
    released = threading.Event()
    scene.receivers.on_post = lambda url: url == URL and released.wait(10)
    scene.receivers.posted.clear()
    scene.notify()
    while scene.deliverer.start_next():
        pass
    for thread in list(scene.deliverer._threads):
        thread.join(0.05)
    assert (len(scene.receivers.ids()), scene.receivers.ids(OTHER)) == (CONCURRENT_RETRIES, ["1"])
    released.set()
    scene.deliverer.wait_until_idle(10)
    scene.work()
    assert len(scene.receivers.ids()) == dead


def test_one_delivery_of_a_channel_is_in_progress_at_a_time(scene: Scene) -> None:
    scene.add()
    scene.notify(2)
    assert scene.database.run(channel_store.claim, failing_too=True)
    assert scene.database.run(channel_store.claim, failing_too=True) is None


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)  # only greenlets share a SQLite database
def test_nothing_is_delivered_after_a_channel_was_deleted(scene: Scene) -> None:
    channel = scene.add()
    scene.notify(2)
    begun, go_on, deleted = threading.Event(), threading.Event(), threading.Event()

    def wait(_: str) -> None:
        begun.set()
        assert go_on.wait(10)
        assert not deleted.is_set()

    def delete() -> None:
        scene.channels.delete(scene.ada, channel.id)
        deleted.set()

    scene.receivers.on_post = wait
    assert scene.deliverer.start_next()
    assert begun.wait(10)
    thread = threading.Thread(target=delete)
    thread.start()
    thread.join(0.2)
    assert not deleted.is_set()
    go_on.set()
    thread.join(10)
    assert deleted.is_set()
    scene.notify()
    scene.work()
    assert (scene.receivers.ids(), scene.channels.list(scene.ada), scene.count()) == (["1"], [], 0)
    with pytest.raises(NotFound):
        scene.channels.deliveries(scene.ada, channel.id)


def test_deletion_waits_for_the_longest_attempt() -> None:
    longest = SQL_TIMEOUT_SECONDS + MAX_START_SECONDS + webhook.RESOLVE_TIMEOUT_SECONDS + webhook.TIME_LIMIT_SECONDS
    assert timedelta(seconds=longest) < channel_store.MAX_ATTEMPT_DURATION < channel_store.LEASE_DURATIONS[channel_store.WEBHOOK]


def test_delivery_does_not_begin_long_after_its_lease(scene: Scene) -> None:
    scene.add()
    scene.notify()
    lease = scene.database.run(channel_store.claim, failing_too=True)
    assert lease
    scene.deliverer._deliver(lease, leased_at=time.monotonic() - 60)
    assert scene.receivers.posted == []


def test_channels_of_others_do_not_exist(scene: Scene) -> None:
    channel, bob = scene.add(), new_user(scene.database, "bob@example.org")
    for method in (scene.channels.delete, scene.channels.test, scene.channels.deliveries):
        with pytest.raises(NotFound):
            method(bob, channel.id)
    assert scene.channels.list(bob) == []


def test_channels_are_limited_and_distinct(scene: Scene) -> None:
    for _ in range(3):
        scene.add("feed")
    scene.add("email")
    for number in range(channels.MAX_CHANNELS - 4):
        scene.add(url=f"{URL}/{number}")
    for kind, url in (("webhook", f"{URL}/0"), ("email", ""), ("feed", "")):
        with pytest.raises(Conflict):
            scene.add(kind, url)


def test_email_needs_a_mail_server(both: Database, embedded: dict[str, str]) -> None:
    without = Channels(config.load(embedded), both, Keyring("encryption", (KEY,)))
    assert not without.has_email
    with pytest.raises(Invalid):
        without.create(new_user(both), "email")


def test_account_is_deleted_with_its_channels(scene: Scene) -> None:
    scene.add()
    scene.notify()
    scene.database.run(accounts.remove, scene.ada)
    assert scene.count() == 0


# Tests of a channel.


def test_test_is_sent_once_and_at_once(scene: Scene) -> None:
    channel = scene.add()
    scene.receivers.outcomes[URL] = BROKEN
    scene.notify()
    scene.work()
    first = scene.channels.test(scene.ada, channel.id)
    assert scene.channels.test(scene.ada, channel.id) == first
    scene.work()
    assert [message_id for _, message_id in scene.receivers.posted] == [f"msg_{channel.id}_1", f"test_{channel.id}_{first.id}"]
    _, test = scene.deliveries(channel)
    assert (test.seq, test.attempts, test.status, test.finished_at is not None) == (None, 1, 500, True)
    scene.wait_and_work(PAUSES[0])
    assert scene.receivers.ids() == ["1", str(first.id), "1"]
    assert scene.get(channel).failures == 2


def test_successful_test_does_not_hide_that_deliveries_fail(scene: Scene) -> None:
    channel = scene.add()
    scene.channels.test(scene.ada, channel.id)
    scene.work()
    assert scene.deliveries(channel)[0].status == 200
    with pytest.raises(Conflict):
        scene.channels.test(scene.ada, scene.add("feed").id)


# E-mail.


def test_mails_are_ten_minutes_apart_and_list_everything_since_the_last(scene: Scene) -> None:
    scene.add("email")
    scene.notify()
    scene.work()
    scene.notify(2)
    scene.wait_and_work(MAIL_INTERVAL - timedelta(seconds=5))
    scene.notify()
    scene.work()
    assert [subject for subject, *_ in scene.receivers.mails] == ["Hello"]
    scene.wait_and_work(timedelta(seconds=6))
    assert [subject for subject, *_ in scene.receivers.mails] == ["Hello", "3 notifications from RepoRadar"]
    assert scene.receivers.mails[1][1].count("Hello\nhttps://radar.example.org/notifications\n") == 3
    scene.wait_and_work(MAIL_INTERVAL)
    assert len(scene.receivers.mails) == 2


def test_tests_count_towards_the_interval_of_mails(scene: Scene) -> None:
    channel = scene.add("email")
    for _ in range(3):
        scene.channels.test(scene.ada, channel.id)
        scene.notify()
        scene.work()
    assert len(scene.receivers.mails) == 1
    scene.wait_and_work(MAIL_INTERVAL)
    scene.wait_and_work(MAIL_INTERVAL)
    assert [subject for subject, *_ in scene.receivers.mails][1:] == [
        scene.receivers.mails[0][0],
        "3 notifications from RepoRadar",
    ]


def test_mail_that_is_sent_again_is_the_same(scene: Scene) -> None:
    channel = scene.add("email")
    scene.receivers.mail_error = "the mail server does not answer in time"
    scene.notify(2)
    scene.work()
    scene.notify()
    scene.receivers.mail_error = None
    scene.wait_and_work(PAUSES[0])
    scene.wait_and_work(MAIL_INTERVAL)
    first, again, later = scene.receivers.mails
    assert first == again
    assert (later[0], later[2] != first[2]) == ("Hello", True)
    assert [one.attempts for one in scene.deliveries(channel)] == [2, 2, 1]
    assert str(first[2]).endswith("@radar.example.org>")


def test_mail_server_that_stays_broken_disables_the_channel(scene: Scene) -> None:
    channel = scene.add("email")
    scene.receivers.mail_error = "refused"
    scene.notify()
    scene.work()
    for pause in PAUSES:
        scene.wait_and_work(pause)
    assert scene.get(channel).disabled_reason == "The mail server did not accept the mail."
    assert scene.types() == ["message", "channel.disabled"]


# Keys and retention.


def test_secret_of_an_unknown_key_delays_the_delivery_without_an_attempt(scene: Scene) -> None:
    channel = scene.add()
    scene.notify()
    scene.deliverer = scene.new_worker(Keyring("encryption", (NEW_KEY,)))
    scene.work()
    assert (scene.receivers.posted, scene.deliveries(channel)[0].attempts) == ([], 0)
    scene.deliverer = scene.new_worker()
    scene.wait_and_work(jobs.UNKNOWN_KEY_DELAY)
    assert scene.receivers.ids() == ["1"]


def test_secrets_are_renewed_with_the_newest_key(scene: Scene) -> None:
    created = scene.channels.create(scene.ada, "webhook", URL)
    rotated = Keyring("encryption", (NEW_KEY, KEY))
    assert Channels(scene.config, scene.database, rotated).renew_secrets() is False
    scene.notify()
    scene.deliverer = scene.new_worker(Keyring("encryption", (NEW_KEY,)))
    scene.work()
    assert scene.receivers.secrets == {created.secret}


def test_damaged_secret_disables_the_channel(scene: Scene) -> None:
    channel = scene.add()
    scene.database.run(channel_store.save_secret, channel.id, b"\x01" + bytes(60))
    scene.notify()
    scene.deliverer = scene.new_worker(Keyring("encryption", (KEY,)))
    scene.database.run(channel_store.save_secret, channel.id, b"damaged")
    scene.work()
    assert (scene.receivers.posted, scene.types()) == ([], ["message", "channel.disabled"])


def test_deliveries_are_deleted_after_a_week(scene: Scene) -> None:
    scene.add()
    scene.notify(2)
    scene.work()
    scene.wait(timedelta(days=6))
    scene.notify()
    assert (scene.channels.purge(), scene.count()) == (False, 3)
    scene.wait(timedelta(days=2))
    assert (scene.channels.purge(), scene.count()) == (False, 1)
