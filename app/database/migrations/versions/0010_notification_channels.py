"""Channels to which notifications are delivered, and their deliveries."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

identifier = sa.BigInteger().with_variant(sa.Integer, "sqlite")
moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "notification_channels",
        sa.Column("id", identifier, nullable=False),
        sa.Column("user_id", identifier, nullable=False),
        sa.Column("kind", sa.String(10), nullable=False),
        sa.Column("url", sa.Text),
        sa.Column("secret", sa.LargeBinary),
        sa.Column("token_digest", sa.String(64)),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("disabled_at", moment),
        sa.Column("disabled_reason", sa.Text),
        sa.Column("next_at", moment),
        sa.Column("not_before", moment),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("lease", sa.String(32)),
        sa.Column("leased_until", moment),
        sa.PrimaryKeyConstraint("id", name="pk_notification_channels"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_notification_channels_user_id", ondelete="CASCADE"),
        sa.UniqueConstraint("token_digest", name="uq_notification_channels_token_digest"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notification_channels_user_id", "notification_channels", ["user_id"])
    op.create_index("ix_notification_channels_next_at", "notification_channels", ["next_at"])
    op.create_table(
        "notification_deliveries",
        sa.Column("id", identifier, nullable=False),
        sa.Column("channel_id", identifier, nullable=False),
        sa.Column("seq", sa.BigInteger),
        sa.Column("batch", identifier),
        sa.Column("due_at", moment, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("first_attempt_at", moment),
        sa.Column("attempted_at", moment),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.Text),
        sa.Column("finished_at", moment),
        sa.PrimaryKeyConstraint("id", name="pk_notification_deliveries"),
        sa.ForeignKeyConstraint(
            ["channel_id"], ["notification_channels.id"], name="fk_notification_deliveries_channel_id", ondelete="CASCADE"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notification_deliveries_finished_at", "notification_deliveries", ["finished_at"])
    op.create_index("ix_notification_deliveries_channel", "notification_deliveries", ["channel_id", "id"])
    waiting = sa.text("finished_at IS NULL")
    op.create_index(
        "ix_notification_deliveries_waiting",
        "notification_deliveries",
        ["channel_id", "id"],
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
