"""Log-outs at the OpenID Connect provider: whose sessions they end, and which were received."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("console_sessions", sa.Column("provider_subject", sa.String(64)))
    op.add_column("console_sessions", sa.Column("provider_session", sa.String(64)))
    op.create_index("ix_console_sessions_subject", "console_sessions", ["provider_subject"])
    op.create_index("ix_console_sessions_session", "console_sessions", ["provider_session"])
    op.create_table(
        "provider_log_outs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("subject", sa.String(64)),
        sa.Column("session", sa.String(64)),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("provider_log_outs")
    op.drop_index("ix_console_sessions_session", "console_sessions")
    op.drop_index("ix_console_sessions_subject", "console_sessions")
    op.drop_column("console_sessions", "provider_session")
    op.drop_column("console_sessions", "provider_subject")
