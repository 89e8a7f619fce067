"""The secret part of the link under which a follower shares the report of a repository."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("follows", sa.Column("share_key", sa.String(32)))
    op.create_index("ix_follows_share_key", "follows", ["share_key"], unique=True)
