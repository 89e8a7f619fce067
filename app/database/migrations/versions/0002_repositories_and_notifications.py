"""Repositories, their analyses, and notifications."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

identifier = sa.BigInteger().with_variant(sa.Integer, "sqlite")
moment = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "repositories",
        sa.Column("id", identifier, nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("due_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_repositories"),
        sa.UniqueConstraint("url", name="uq_repositories_url"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_repositories_due_at", "repositories", ["due_at"])
    op.create_table(
        "follows",
        sa.Column("user_id", identifier, nullable=False),
        sa.Column("repository_id", identifier, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "repository_id", name="pk_follows"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_follows_user_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["repository_id"], ["repositories.id"], name="fk_follows_repository_id", ondelete="CASCADE"),
    )
    op.create_index("ix_follows_repository_id", "follows", ["repository_id"])
    op.create_table(
        "analyses",
        sa.Column("id", identifier, nullable=False),
        sa.Column("repository_id", identifier, nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("step", sa.String(100), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("requested_at", moment, nullable=False),
        sa.Column("dispatched_at", moment, nullable=False),
        sa.Column("finished_at", moment),
        sa.Column("lease", sa.String(32)),
        sa.Column("leased_until", moment),
        sa.Column("error", sa.Text),
        sa.Column("as_of", moment),
        sa.Column("scores", sa.JSON),
        sa.Column("report", sa.JSON),
        sa.PrimaryKeyConstraint("id", name="pk_analyses"),
        sa.ForeignKeyConstraint(["repository_id"], ["repositories.id"], name="fk_analyses_repository_id", ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_analyses_repository_id", "analyses", ["repository_id"])
    live = sa.text("finished_at IS NULL")
    op.create_index("uq_analyses_live", "analyses", ["repository_id"], unique=True, postgresql_where=live, sqlite_where=live)
    op.create_table(
        "inboxes",
        sa.Column("user_id", identifier, nullable=False),
        sa.Column("head", sa.BigInteger, nullable=False),
        sa.Column("read_up_to", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_inboxes"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_inboxes_user_id", ondelete="CASCADE"),
    )
    op.create_table(
        "notifications",
        sa.Column("user_id", identifier, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String(40), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "seq", name="pk_notifications"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_notifications_user_id", ondelete="CASCADE"),
    )
    op.create_index("ix_notifications_created_at", "notifications", ["created_at"])
