"""What a job waits for as a code, and an index from which the numbers of jobs are counted without reading rows."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("waits_for", sa.String(32)))
    op.create_index("ix_jobs_numbers", "jobs", ["removing_at", "engine", "state"])


def downgrade() -> None:
    op.drop_index("ix_jobs_numbers", "jobs")
    op.drop_column("jobs", "waits_for")
