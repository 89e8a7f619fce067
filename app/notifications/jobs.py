"""Delivers notifications over webhooks and e-mail, in a worker process or an embedded instance."""

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from app.core.config import Config
from app.core.errors import Unavailable, cause_of
from app.core.keyring import Keyring, UnknownKey
from app.core.logs import RepetitionFilter
from app.core.mail import MailError, create_mailer
from app.database.engine import Database
from app.jobs.task_record import LocalTaskRecord, TaskRecord
from app.notifications import channel_store, content
from app.notifications.channel_store import EMAIL, ChannelLease
from app.notifications.channels import Secrets
from app.notifications.service import Notification, Notifications
from app.notifications.webhook import Outcome, WebhookClient
from app.sessions.cipher import CorruptRecord

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

TASK, RECORD_INTERVAL_SECONDS = "deliver_notifications", 5.0
POLL_SECONDS = 1.0
CONCURRENT_DELIVERIES = 10
CONCURRENT_RETRIES = 4  # of these, over channels that fail: dead receivers leave room for the others
MAX_START_SECONDS = 5.0  # from the lease to the attempt
RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 20.0  # of saving an outcome
STOP_TIMEOUT_SECONDS = 15.0
UNKNOWN_KEY_DELAY = timedelta(minutes=1)


class NotificationDeliverer:
    """Takes what is due from the database and delivers it, several channels at once but each in order."""

    def __init__(
        self,
        config: Config,
        database: Database,
        notifications: Notifications,
        keyring: Keyring,
        record: TaskRecord | None = None,
    ) -> None:
        self._database = database
        self._notifications = notifications
        self._secrets = Secrets(keyring)
        self._public_url = config.public_url
        self._webhooks = WebhookClient(config.webhook_allowed_networks, config.webhook_ca_file)
        self._mailer = create_mailer(config)
        self._record = record or LocalTaskRecord()
        self._recorded_at = -math.inf
        self._errors = RepetitionFilter()
        self._stop = threading.Event()
        self._wake = threading.Event()  # a delivery has ended, so its channel may have another one
        self._slots = threading.Semaphore(CONCURRENT_DELIVERIES)
        self._retry_slots = threading.Semaphore(CONCURRENT_RETRIES)
        self._threads: set[threading.Thread] = set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()

    def run(self) -> None:
        """Deliver until `stop` is called, then wait for the deliveries that have begun."""
        self._record.start(TASK, RECORD_INTERVAL_SECONDS)
        while not self._stop.is_set():
            self._wake.clear()
            try:
                has_started = self.start_next()
                self._errors.reset()
                self._record_success()
            except Exception as error:  # must not end the thread: nothing would restart it
                self._log_error(error)
                has_started = False
            if not has_started and not self._stop.is_set():
                self._wake.wait(POLL_SECONDS)
        self.wait_until_idle(STOP_TIMEOUT_SECONDS)

    def start_next(self) -> bool:
        """Start the delivery that is due next, if any, in a thread of its own. Return whether there was one."""
        if not self._slots.acquire(timeout=POLL_SECONDS):
            return False
        may_retry = self._retry_slots.acquire(blocking=False)
        lease = None
        try:
            lease = self._database.run(channel_store.claim, failing_too=may_retry)
        finally:
            is_retry = lease is not None and lease.channel.failures > 0
            if may_retry and not is_retry:
                self._retry_slots.release()
            if lease is None:
                self._slots.release()
        if lease is None:
            return False
        thread = threading.Thread(target=self._run, args=[lease, time.monotonic()], name="delivery", daemon=True)
        self._threads.add(thread)
        thread.start()
        return True

    def wait_until_idle(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, lease: ChannelLease, leased_at: float) -> None:
        try:
            self._deliver(lease, leased_at)
        except Exception:  # the lease expires, and the delivery is repeated
            log.exception("a delivery over channel %d failed", lease.channel.id)
        finally:
            self._threads.discard(threading.current_thread())
            if lease.channel.failures > 0:
                self._retry_slots.release()
            self._slots.release()
            self._wake.set()

    def _deliver(self, lease: ChannelLease, leased_at: float) -> None:
        if time.monotonic() - leased_at > MAX_START_SECONDS:  # this process was frozen; the channel may be deleted by now
            return
        try:
            outcome = self._send(lease)
        except UnknownKey:
            log.warning("the secret of channel %d is encrypted with a key that this process does not hold", lease.channel.id)
            self._save(channel_store.release, lease, UNKNOWN_KEY_DELAY)
            return
        result = outcome.error or "accepted"
        log.info("delivery %d over channel %d, attempt %d: %s", lease.delivery_ids[0], lease.channel.id, lease.attempt, result)
        if outcome.error is None:
            self._save(channel_store.succeed, lease, outcome.status)
        elif (outcome.is_permanent or lease.is_last_attempt) and not lease.is_test:
            self._notifications.push(self._save(self._give_up, lease, outcome.status, outcome.error) or [])
        else:
            self._save(channel_store.fail, lease, outcome.status, outcome.error)

    def _send(self, lease: ChannelLease) -> Outcome:
        return self._send_mail(lease) if lease.channel.kind == EMAIL else self._post(lease)

    def _post(self, lease: ChannelLease) -> Outcome:
        channel, (item,) = lease.channel, lease.items
        try:
            secret = self._secrets.decrypt(channel.id, lease.secret or b"")
        except CorruptRecord:
            return Outcome(error="The secret of this webhook is damaged. Delete the channel and add it again.", is_permanent=True)
        kind, number = ("test", lease.delivery_ids[0]) if item.seq is None else ("msg", item.seq)
        message_id = f"{kind}_{channel.id}_{number}"
        return self._webhooks.post(channel.url or "", secret, message_id, content.webhook_body(item, self._public_url))

    def _send_mail(self, lease: ChannelLease) -> Outcome:
        if self._mailer is None or self._public_url is None or lease.recipient is None:
            return Outcome(error="This site sends no e-mail.")
        subject, text = content.mail(lease.items, self._public_url)
        message_id = f"<notifications-{lease.channel.id}-{lease.delivery_ids[0]}@{content.host(self._public_url)}>"
        try:
            self._mailer.send(lease.recipient, subject, text, message_id=message_id)
        except MailError as error:
            log.warning("mail of channel %d was not sent: %s", lease.channel.id, error)
            return Outcome(error="The mail server did not accept the mail.")
        return Outcome()

    def _give_up(self, connection: Connection, lease: ChannelLease, status: int | None, error: str) -> list[Notification]:
        """Disable the channel and notify its owner."""
        channel = lease.channel
        self._notifications.lock(connection, [channel.user_id])
        if not channel_store.give_up(connection, lease, status, error):
            return []
        name = "E-mail" if channel.kind == EMAIL else f"The webhook to {content.host(channel.url or '')}"
        title = f"{name} was disabled, because notifications could not be delivered"
        data = {"channel_id": channel.id, "kind": channel.kind, "error": error}
        return self._notifications.add(connection, [channel.user_id], "channel.disabled", title, data)

    def _save(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run a transaction, which is repeated for a while. If it fails, the lease expires, and the delivery is repeated."""
        deadline = time.monotonic() + MAX_RETRY_SECONDS
        while True:
            try:
                return self._database.run(work, *args, **kwargs)
            except Unavailable as error:
                if time.monotonic() > deadline:
                    log.warning("the outcome of a delivery is not saved, it will be repeated: %s", cause_of(error) or error)
                    return None
                time.sleep(RETRY_SECONDS)

    def _log_error(self, error: Exception) -> None:
        if not self._errors.accepts(type(error).__name__):  # the texts of one outage differ
            return
        if isinstance(error, Unavailable):
            log.warning("cannot read deliveries, retrying every %s s: %s", POLL_SECONDS, cause_of(error) or error)
        else:
            log.error("cannot read deliveries, retrying every %s s", POLL_SECONDS, exc_info=error)

    def _record_success(self) -> None:
        if time.monotonic() - self._recorded_at > RECORD_INTERVAL_SECONDS:
            self._recorded_at = time.monotonic()
            self._record.succeed(TASK, RECORD_INTERVAL_SECONDS)
