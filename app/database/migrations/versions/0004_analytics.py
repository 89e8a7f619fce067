"""Analytics: choices, events, what is counted of them, and files of them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

identifier = sa.BigInteger().with_variant(sa.Integer, "sqlite")
moment = sa.DateTime(timezone=True)
steps = sa.text("name IN ('sign_up_opened', 'signed_up', 'repository_added', 'analysis_requested', 'report_viewed')")


def upgrade() -> None:
    op.create_table(
        "analytics_events",
        sa.Column("person", sa.String(32), nullable=False),
        sa.Column("event_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("path", sa.String(200), nullable=False),
        sa.Column("properties", sa.JSON, nullable=False),
        sa.Column("occurred_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("person", "event_id", name="pk_analytics_events"),
    )
    op.create_index("ix_analytics_events_occurred_at", "analytics_events", ["occurred_at"])
    op.create_index(
        "ix_analytics_events_steps",
        "analytics_events",
        ["name", "occurred_at", "person"],
        postgresql_where=steps,
        sqlite_where=steps,
    )
    op.create_table(
        "analytics_rollups",
        sa.Column("grain", sa.String(4), nullable=False),
        sa.Column("start", moment, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("category", sa.String(64), nullable=False),
        sa.Column("path", sa.String(200), nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("grain", "start", "name", "category", "path", name="pk_analytics_rollups"),
    )
    op.create_table(
        "analytics_visitor_keys",
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("day", name="pk_analytics_visitor_keys"),
    )
    op.create_table(
        "analytics_visitors",
        sa.Column("grain", sa.String(4), nullable=False),
        sa.Column("start", moment, nullable=False),
        sa.Column("visitors", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("grain", "start", name="pk_analytics_visitors"),
    )
    op.create_table(
        "analytics_visits",
        sa.Column("grain", sa.String(4), nullable=False),
        sa.Column("start", moment, nullable=False),
        sa.Column("person", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("grain", "start", "person", name="pk_analytics_visits"),
    )
    op.create_index("ix_analytics_visits_person", "analytics_visits", ["person"])
    op.create_table(
        "analytics_exports",
        sa.Column("id", identifier, nullable=False),
        sa.Column("user_id", identifier, nullable=False),
        sa.Column("since", moment, nullable=False),
        sa.Column("until", moment, nullable=False),
        sa.Column("status", sa.String(10), nullable=False),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("requested_at", moment, nullable=False),
        sa.Column("dispatched_at", moment, nullable=False),
        sa.Column("finished_at", moment),
        sa.Column("lease", sa.String(32)),
        sa.Column("leased_until", moment),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_analytics_exports_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_analytics_exports"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_analytics_exports_requested_at", "analytics_exports", ["requested_at"])
    op.create_index("ix_analytics_exports_user_id", "analytics_exports", ["user_id"])
    op.create_table(
        "analytics_people",
        sa.Column("pseudonym", sa.String(32), nullable=False),
        sa.Column("user_id", identifier),
        sa.Column("opted_out", sa.Boolean, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("fenced_at", moment),
        sa.Column("counted_since", moment),
        sa.Column("created_at", moment, nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_analytics_people_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("pseudonym", name="pk_analytics_people"),
        sa.UniqueConstraint("user_id", name="uq_analytics_people_user_id"),
    )
    op.create_index("ix_analytics_people_created_at", "analytics_people", ["created_at"])
    op.create_table(
        "analytics_export_parts",
        sa.Column("export_id", identifier, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(
            ["export_id"], ["analytics_exports.id"], name="fk_analytics_export_parts_export_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("export_id", "number", name="pk_analytics_export_parts"),
    )
