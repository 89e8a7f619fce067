"""Add subscriptions, notifications read one by one, the last state that followers were notified of, and requesters of analyses."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

identifier = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("repositories", sa.Column("told", sa.JSON))
    op.add_column("follows", sa.Column("subscription", sa.JSON))
    op.add_column("inboxes", sa.Column("also_read", sa.JSON))
    op.add_column("inboxes", sa.Column("subscription", sa.JSON))
    op.create_table(
        "analysis_requests",
        sa.Column("analysis_id", identifier, nullable=False),
        sa.Column("user_id", identifier, nullable=False),
        sa.ForeignKeyConstraint(
            ["analysis_id"], ["analyses.id"], name="fk_analysis_requests_analysis_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_analysis_requests_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("analysis_id", "user_id", name="pk_analysis_requests"),
    )
    op.create_index("ix_analysis_requests_user_id", "analysis_requests", ["user_id"])
