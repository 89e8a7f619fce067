"""The trace that a job continues."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    for table in ("analyses", "analytics_exports"):
        op.add_column(table, sa.Column("traceparent", sa.String(55)))
