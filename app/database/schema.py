"""All tables. The migrations create them; a test compares both, on PostgreSQL and SQLite."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """A timestamp that is always in UTC. SQLite has no type with a time zone, so it stores the timestamp without one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, _dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Identifier = BigInteger().with_variant(Integer, "sqlite")  # SQLite generates numbers only for INTEGER keys

users = Table(
    "users",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("email", String(254), nullable=False, unique=True),
    Column("password_hash", String(255), nullable=False),
    # Counts password changes. Sessions and logins with an older version are invalid.
    Column("password_version", Integer, nullable=False, default=1),
    Column("is_admin", Boolean, nullable=False, default=False),
    Column("created_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,  # the ID of a deleted account is never reused
)

# Sessions in embedded mode; a fleet stores them in Redis. One row per field, so that writes of different fields do not conflict.
sessions = Table(
    "sessions",
    metadata,
    Column("key", String(80), primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)
session_fields = Table(
    "session_fields",
    metadata,
    Column("key", String(80), ForeignKey("sessions.key", ondelete="CASCADE"), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

# A program signs in with a token. Only its digest is stored.
api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", String(100), nullable=False),
    Column("scope", String(16), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("last_used_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    sqlite_autoincrement=True,  # the ID of a revoked token is never reused
)

# One row per link under which a user sets a new password. A link is of no use once the password has changed.
password_resets = Table(
    "password_resets",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("password_version", Integer, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# One row per address, shared by all users who follow it.
repositories = Table(
    "repositories",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("url", String(2000), nullable=False, unique=True),
    Column("name", String(255), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime, nullable=False, index=True),  # when the next periodic analysis starts
    Column("told", JSON(none_as_null=True)),  # what its followers were last told, see app/repositories/notifications.py
    sqlite_autoincrement=True,
)
follows = Table(
    "follows",
    metadata,
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("repository_id", Identifier, ForeignKey("repositories.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    # The types of notifications that are on and off for this follower, null for the user's default.
    Column("subscription", JSON(none_as_null=True)),
    # The secret part of the link under which this follower shares the report, null if they do not share it.
    Column("share_key", String(32), unique=True, index=True),
    Column("tags", JSON(none_as_null=True)),  # this follower's, sorted
)
analyses = Table(
    "analyses",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("repository_id", Identifier, ForeignKey("repositories.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("status", String(10), nullable=False),  # queued, running, succeeded, failed, cancelled
    Column("progress", Integer, nullable=False, default=0),  # percent
    Column("step", String(100), nullable=False, default=""),
    Column("attempts", Integer, nullable=False, default=0),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("dispatched_at", UtcDateTime, nullable=False),  # when it was last enqueued; overdue rows are enqueued again
    Column("finished_at", UtcDateTime),  # null while queued or running; a repository has at most one such row
    # The lease of the worker that runs it, and when the lease expires. Each change of the row requires the lease.
    Column("lease", String(32)),
    Column("leased_until", UtcDateTime),
    Column("traceparent", String(55)),  # of the request that started it, if traces are on
    Column("error", Text),
    Column("as_of", UtcDateTime),
    Column("scores", JSON(none_as_null=True)),  # copied from the report, so that lists need not load it
    Column("report", JSON(none_as_null=True)),
    Column("formula_version", Integer),  # copied from the report; reports of before there were versions have none
    # The user who requested a live analysis, null for a daily one. Without a foreign key: other followers may wait for it too.
    Column("requested_by", Identifier),
    # Requested analyses start in the order of their turns, in which users alternate. Daily ones have none and start after them.
    Column("turn", Integer),
    sqlite_autoincrement=True,
)
Index(
    "uq_analyses_live",
    analyses.c.repository_id,
    unique=True,
    postgresql_where=analyses.c.finished_at.is_(None),
    sqlite_where=analyses.c.finished_at.is_(None),
)
# The users who requested an analysis. `analyses.requested_by` has only the first of them.
analysis_requests = Table(
    "analysis_requests",
    metadata,
    Column("analysis_id", Identifier, ForeignKey("analyses.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
)

# One row per user. Numbers are assigned under the lock of this row, so that commit order equals number order.
inboxes = Table(
    "inboxes",
    metadata,
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("head", BigInteger, nullable=False, default=0),
    Column("read_up_to", BigInteger, nullable=False, default=0),
    Column("also_read", JSON(none_as_null=True)),  # the numbers after `read_up_to` that were read, in order
    Column("subscription", JSON(none_as_null=True)),  # the types of notifications that are on and off by default
)
notifications = Table(
    "notifications",
    metadata,
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("type", String(40), nullable=False),
    Column("title", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False, index=True),
)

# Where a user's notifications also go. `kind`: webhook, email or feed. At most one delivery of a channel is in progress.
channels = Table(
    "notification_channels",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("kind", String(10), nullable=False),
    Column("url", Text),  # of a webhook
    Column("secret", LargeBinary),  # of a webhook, encrypted
    Column("token_digest", String(64), unique=True),  # of the token in the address of a feed
    Column("created_at", UtcDateTime, nullable=False),
    Column("disabled_at", UtcDateTime),
    Column("disabled_reason", Text),
    Column("next_at", UtcDateTime, index=True),  # when the next delivery can start, null if none waits
    Column("not_before", UtcDateTime),  # no mail is sent before this time
    Column("failures", Integer, nullable=False, default=0),  # attempts in a row
    Column("lease", String(32)),
    Column("leased_until", UtcDateTime),
    sqlite_autoincrement=True,  # the ID is part of the IDs of webhook messages, so it is never reused
)
deliveries = Table(
    "notification_deliveries",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("channel_id", Identifier, ForeignKey("notification_channels.id", ondelete="CASCADE"), nullable=False),
    Column("seq", BigInteger),  # of the notification, null for a test
    Column("batch", Identifier),  # the first delivery of the mail that it is part of
    Column("due_at", UtcDateTime, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("first_attempt_at", UtcDateTime),
    Column("attempted_at", UtcDateTime),
    Column("status", Integer),  # of the last response
    Column("error", Text),
    Column("finished_at", UtcDateTime, index=True),
    sqlite_autoincrement=True,
)
Index("ix_notification_deliveries_channel", deliveries.c.channel_id, deliveries.c.id)
Index(
    "ix_notification_deliveries_waiting",
    deliveries.c.channel_id,
    deliveries.c.id,
    postgresql_where=deliveries.c.finished_at.is_(None),
    sqlite_where=deliveries.c.finished_at.is_(None),
)

# Heartbeats of the instances of a fleet. The registry is in Redis, so only SQL shows instances that use another Redis.
heartbeats = Table(
    "heartbeats",
    metadata,
    Column("nonce", String(32), primary_key=True),
    Column("instance_id", String(255), nullable=False),
    Column("is_ready", Boolean, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False, index=True),
)

# The persons whose events are stored: an account under a random pseudonym, or an anonymous visitor under the keyed hash of one
# day. The row also holds the opt-out; a transaction that stores an event locks it.
people = Table(
    "analytics_people",
    metadata,
    Column("pseudonym", String(32), primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), unique=True),  # null for an anonymous visitor
    Column("opted_out", Boolean, nullable=False, default=False),
    # Counts opt-out changes and erasures. Events that were accepted under an older version are not stored.
    Column("version", Integer, nullable=False, default=0),
    Column("fenced_at", UtcDateTime),  # while opted out, no event has a later time
    Column("counted_since", UtcDateTime),  # the last opt-in after an opt-out
    Column("created_at", UtcDateTime, nullable=False, index=True),
)
# The key of the visitor hash of one day (UTC). Older keys are deleted.
visitor_keys = Table(
    "analytics_visitor_keys",
    metadata,
    Column("day", String(10), primary_key=True),
    Column("key", LargeBinary, nullable=False),
)
events = Table(
    "analytics_events",
    metadata,
    Column("person", String(32), primary_key=True),  # the pseudonym
    Column("event_id", String(64), primary_key=True),  # chosen by the client, makes events idempotent
    Column("name", String(64), nullable=False),
    Column("category", String(64), nullable=False),
    Column("path", String(200), nullable=False),  # the property `path`, or empty
    Column("properties", JSON, nullable=False),
    Column("occurred_at", UtcDateTime, nullable=False, index=True),
)
# A partial index for funnels, whose steps are a small part of all events.
_steps = events.c.name.in_(["sign_up_opened", "signed_up", "repository_added", "analysis_requested", "report_viewed"])
Index(
    "ix_analytics_events_steps",
    events.c.name,
    events.c.occurred_at,
    events.c.person,
    postgresql_where=_steps,
    sqlite_where=_steps,
)

# Counts that reports read often, updated in the transaction that stores an event. `grain`: hour or day, in UTC.
rollups = Table(
    "analytics_rollups",
    metadata,
    Column("grain", String(4), primary_key=True),
    Column("start", UtcDateTime, primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("category", String(64), primary_key=True),
    Column("path", String(200), primary_key=True),
    Column("events", BigInteger, nullable=False),
)
visits = Table(  # which persons had events in a period
    "analytics_visits",
    metadata,
    Column("grain", String(4), primary_key=True),
    Column("start", UtcDateTime, primary_key=True),
    Column("person", String(32), primary_key=True, index=True),
)
visitors = Table(  # how many persons had events in a period
    "analytics_visitors",
    metadata,
    Column("grain", String(4), primary_key=True),
    Column("start", UtcDateTime, primary_key=True),
    Column("visitors", BigInteger, nullable=False),
)

# CSV files of events, requested by administrators and written by a job.
exports = Table(
    "analytics_exports",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("user_id", Identifier, ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("status", String(10), nullable=False),  # queued, running, succeeded, failed
    Column("progress", Integer, nullable=False, default=0),  # percent
    Column("rows", BigInteger, nullable=False, default=0),
    Column("error", Text),
    Column("attempts", Integer, nullable=False, default=0),
    Column("requested_at", UtcDateTime, nullable=False, index=True),
    Column("dispatched_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("lease", String(32)),
    Column("leased_until", UtcDateTime),
    Column("traceparent", String(55)),  # of the request that started it, if traces are on
    sqlite_autoincrement=True,
)
export_parts = Table(  # compressed parts, in order
    "analytics_export_parts",
    metadata,
    Column("export_id", Identifier, ForeignKey("analytics_exports.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
)
