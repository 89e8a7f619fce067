"""The user who requested an analysis, and the order in which requested analyses start."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("analyses", sa.Column("requested_by", sa.BigInteger().with_variant(sa.Integer, "sqlite")))
    op.add_column("analyses", sa.Column("turn", sa.Integer))
