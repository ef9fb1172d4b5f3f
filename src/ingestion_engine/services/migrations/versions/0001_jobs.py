"""Jobs and the dispatcher's lease."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("engine", sa.String(16), nullable=False),
        sa.Column("collection", sa.String(128), nullable=False),
        sa.Column("state", sa.String(24), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("retry_of", sa.String(64)),
        sa.Column("only_keys_path", sa.String(256)),
        sa.Column("spec", sa.JSON),
        sa.Column("parallelism", sa.Integer),
        sa.Column("idempotency_key", sa.String(256)),
        sa.Column("body_hash", sa.String(64), nullable=False),
        sa.Column("progress", sa.JSON),
        sa.Column("counts", sa.JSON),
        sa.Column("timings", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("note", sa.Text),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("admitted_at", _MOMENT),
        sa.Column("submitted_at", _MOMENT),
        sa.Column("attempt_started_at", _MOMENT),
        sa.Column("started_at", _MOMENT),
        sa.Column("finished_at", _MOMENT),
        sa.Column("next_look_at", _MOMENT),
        sa.Column("cancel_requested_at", _MOMENT),
        sa.Column("abort_written_at", _MOMENT),
        sa.UniqueConstraint("owner", "idempotency_key", name="uq_jobs_idempotency"),
    )
    op.create_index("ix_jobs_created", "jobs", ["created_at", "id"])
    op.create_index("ix_jobs_state", "jobs", ["state", "created_at"])
    op.create_index("ix_jobs_collection", "jobs", ["collection", "created_at"])
    op.create_table(
        "dispatchers",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("dispatchers")
    op.drop_table("jobs")
