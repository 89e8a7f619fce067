"""The version of the formulas behind the scores of an analysis. Only scores of the same version are compared."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("analyses", sa.Column("formula_version", sa.Integer))
