"""Channels: where a user's notifications also go, besides the site: webhooks, e-mail and a private feed."""

import hashlib
import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from app.core.config import Config
from app.core.errors import Conflict, Invalid, NotFound
from app.core.keyring import Keyring, UnknownKey
from app.database.batches import run_batches
from app.database.engine import Database
from app.database.locks import lock_user
from app.notifications import channel_store, store, webhook
from app.notifications.channel_store import EMAIL, FEED, WEBHOOK, Channel, ChannelDelivery, Item
from app.sessions.cipher import CorruptRecord, RecordCipher, encryption_key_id

log = logging.getLogger(__name__)

MAX_CHANNELS = 10  # of a user
FEED_LENGTH = 50
POLL_SECONDS = 0.1
BATCH = 500
MAX_SEQ = 2**63 - 1


@dataclass(frozen=True)
class CreatedChannel:
    channel: Channel
    secret: str | None = None  # of a webhook; it is not shown again
    token: str | None = None  # in the address of a feed; it is not shown again


@dataclass(frozen=True)
class Feed:
    channel: Channel
    items: list[Item]  # newest first


class Secrets:
    """Encrypts the secrets of webhooks with the keys of sessions."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def encrypt(self, channel_id: int, secret: str) -> bytes:
        return self._cipher(channel_id).encrypt("secret", secret.encode())

    def decrypt(self, channel_id: int, encrypted: bytes) -> str:
        """Return the secret of a webhook. Raises CorruptRecord, or UnknownKey if this process does not hold the key."""
        return self._cipher(channel_id).decrypt("secret", encrypted).decode()

    def renew(self, channel_id: int, encrypted: bytes) -> bytes:
        """Encrypt with the active key. Return the same bytes if they are, or if this process does not hold their key."""
        try:
            if encryption_key_id(encrypted) != self._keyring.active_id:
                return self.encrypt(channel_id, self.decrypt(channel_id, encrypted))
        except (UnknownKey, CorruptRecord) as error:
            log.warning("the secret of channel %d cannot be read: %s", channel_id, type(error).__name__)
        return encrypted

    def _cipher(self, channel_id: int) -> RecordCipher:
        return RecordCipher(self._keyring, f"channel:{channel_id}")


class Channels:
    """All methods with a channel raise NotFound for channels of other users."""

    def __init__(self, config: Config, database: Database, keyring: Keyring) -> None:
        self._allowed_networks = config.webhook_allowed_networks
        self._database = database
        self._secrets = Secrets(keyring)
        self._renewed_up_to = 0  # the ID of a channel
        self.has_email = config.smtp_url is not None

    def list(self, user_id: int) -> list[Channel]:
        return self._database.run(channel_store.list_by_user, user_id)

    def create(self, user_id: int, kind: str, url: str = "") -> CreatedChannel:
        """Add a channel. Raises Invalid, and Conflict if the user has too many channels or the same one already."""
        if kind == WEBHOOK:
            return self._create_webhook(user_id, url)
        if kind == EMAIL and not self.has_email:
            raise Invalid.field("kind", "This site sends no e-mail.")
        token = secrets.token_urlsafe(32) if kind == FEED else None
        channel = self._database.run(_add, user_id, kind, token_digest=token and _digest(token))
        return CreatedChannel(channel, token=token)

    def delete(self, user_id: int, channel_id: int) -> None:
        """Delete a channel. Nothing is delivered after this has returned: it waits for a delivery that has begun."""
        channel = self._get(user_id, channel_id)
        if channel.kind != FEED:
            self._database.run(channel_store.disable, user_id, channel_id, "It was deleted.")
            while self._database.run(channel_store.is_delivering, channel):
                time.sleep(POLL_SECONDS)
        self._database.run(channel_store.delete_channel, channel_id)

    def test(self, user_id: int, channel_id: int) -> ChannelDelivery:
        """Request the delivery of a test message. Raises Conflict for a feed and for a disabled channel."""
        channel = self._get(user_id, channel_id)
        if channel.kind == FEED:
            raise Conflict("Nothing is sent to a feed: readers fetch it.")
        if channel.disabled_at:
            raise Conflict("This channel is disabled. Delete it and add it again.")
        return self._database.run(channel_store.add_test, channel_id)

    def deliveries(self, user_id: int, channel_id: int) -> Sequence[ChannelDelivery]:
        """Return the newest deliveries first."""
        self._get(user_id, channel_id)
        return self._database.run(channel_store.list_deliveries, channel_id)

    def feed(self, token: str) -> Feed:
        """Return the newest notifications for the reader of a feed. Raises NotFound."""
        return self._database.run(_feed, _digest(token))

    def purge(self) -> bool:
        """Delete old deliveries for a while. Return whether the next call has to continue."""
        return run_batches(lambda: self._database.run(channel_store.purge, BATCH) == BATCH)

    def renew_secrets(self) -> bool:
        """Encrypt secrets with the active key for a while, so that older keys can be removed. Return whether there are more."""
        return run_batches(lambda: self._database.run(self._renew_batch))

    def _create_webhook(self, user_id: int, url: str) -> CreatedChannel:
        address = webhook.parse(url)
        webhook.refuse_private(address, self._allowed_networks)
        secret = webhook.create_secret()

        def add(connection: Connection) -> Channel:
            channel = _add(connection, user_id, WEBHOOK, url=address.url)
            channel_store.save_secret(connection, channel.id, self._secrets.encrypt(channel.id, secret))
            return channel

        return CreatedChannel(self._database.run(add), secret=secret)

    def _get(self, user_id: int, channel_id: int) -> Channel:
        channel = self._database.run(channel_store.find, user_id, channel_id)
        if channel is None:
            raise NotFound("You have no such channel.")
        return channel

    def _renew_batch(self, connection: Connection) -> bool:
        found = channel_store.secrets_after(connection, self._renewed_up_to, BATCH)
        for channel_id, old in found:
            if (new := self._secrets.renew(channel_id, old)) != old:
                channel_store.replace_secret(connection, channel_id, old, new)
        self._renewed_up_to = found[-1][0] if len(found) == BATCH else 0
        return len(found) == BATCH


def _add(connection: Connection, user_id: int, kind: str, *, url: str | None = None, token_digest: str | None = None) -> Channel:
    lock_user(connection, user_id)
    existing = channel_store.list_by_user(connection, user_id)
    if len(existing) >= MAX_CHANNELS:
        raise Conflict(f"You have {MAX_CHANNELS} channels, the maximum. Delete one first.")
    if kind != FEED and any((one.kind, one.url) == (kind, url) and not one.disabled_at for one in existing):
        raise Conflict("You have this channel already.")
    return channel_store.add(connection, user_id, kind, url=url, token_digest=token_digest)


def _feed(connection: Connection, token_digest: str) -> Feed:
    channel = channel_store.find_feed(connection, token_digest)
    if channel is None:
        raise NotFound("There is no such feed. Its address may have been revoked.")
    found = store.before(connection, channel.user_id, MAX_SEQ, FEED_LENGTH)
    return Feed(channel, [Item(one.seq, one.type, one.title, one.data, one.created_at) for one in found])


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
