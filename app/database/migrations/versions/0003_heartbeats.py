"""Heartbeats of instances."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "heartbeats",
        sa.Column("nonce", sa.String(32), nullable=False),
        sa.Column("instance_id", sa.String(255), nullable=False),
        sa.Column("is_ready", sa.Boolean(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("nonce", name="pk_heartbeats"),
    )
    op.create_index("ix_heartbeats_seen_at", "heartbeats", ["seen_at"])
