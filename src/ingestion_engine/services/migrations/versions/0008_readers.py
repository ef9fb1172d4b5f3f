"""Which releases can use the schema, so that one can be taken back without restoring the database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A later migration that an earlier release cannot work with sets `oldest` to its own version.
    readers = op.create_table("schema_readers", sa.Column("oldest", sa.String(32), nullable=False))
    op.bulk_insert(readers, [{"oldest": "0008"}])


def downgrade() -> None:
    op.drop_table("schema_readers")
