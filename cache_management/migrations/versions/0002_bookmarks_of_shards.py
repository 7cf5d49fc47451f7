"""A bookmark of each shard: where a walk through a store goes on."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in batch mode: adding a column needs no copy of the table on either database.
    op.add_column("job_shards", sa.Column("bookmark", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("job_shards", "bookmark")
