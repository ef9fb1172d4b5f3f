"""When the service ends a job by itself, how often a cluster could not run it, and a number for every leader."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("deadline_at", sa.DateTime(timezone=True)))
    op.add_column("jobs", sa.Column("put_backs", sa.Integer, nullable=False, server_default="0"))
    op.add_column("dispatchers", sa.Column("term", sa.Integer, nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("dispatchers", "term")
    op.drop_column("jobs", "put_backs")
    op.drop_column("jobs", "deadline_at")
