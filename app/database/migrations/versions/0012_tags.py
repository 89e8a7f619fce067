"""The tags that a follower gives a repository."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("follows", sa.Column("tags", sa.JSON))
