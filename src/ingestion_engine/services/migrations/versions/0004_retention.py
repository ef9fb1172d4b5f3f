"""Which ended jobs are being removed, and whether jobs wait because the service is drained."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("jobs", sa.Column("removing_at", _MOMENT))
    op.create_index("ix_jobs_finished", "jobs", ["finished_at", "id"])
    op.create_table(
        "drains",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("since", _MOMENT, nullable=False),
        sa.Column("refuses", sa.Boolean, nullable=False),
        sa.Column("requested_by", sa.String(128), nullable=False),
        sa.Column("reason", sa.Text),
    )


def downgrade() -> None:
    # A release that does not know the mark would show these jobs again, with what is left of their ledgers.
    op.execute("DELETE FROM jobs WHERE removing_at IS NOT NULL")
    op.drop_table("drains")
    op.drop_index("ix_jobs_finished", "jobs")
    op.drop_column("jobs", "removing_at")
