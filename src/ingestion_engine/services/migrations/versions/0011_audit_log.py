"""The audit log. The database itself refuses to change an entry, and to remove one that is younger than a day."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_REFUSAL = "audit_log is append-only"

_AGE = "strftime('%Y-%m-%d %H:%M:%f000', 'now', '-1 day')"
_ABORT = f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
_SQLITE = (
    f"CREATE TRIGGER audit_log_unchanged BEFORE UPDATE ON audit_log {_ABORT}",
    f"CREATE TRIGGER audit_log_kept BEFORE DELETE ON audit_log WHEN OLD.at > {_AGE} {_ABORT}",
)

_YOUNG = "OLD.at > clock_timestamp() - interval '1 day'"
_CALL = "EXECUTE FUNCTION audit_log_refuse()"
_FUNCTION = "CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS"
_POSTGRES = (
    f"{_FUNCTION} $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
    f"CREATE TRIGGER audit_log_unchanged BEFORE UPDATE ON audit_log FOR EACH ROW {_CALL}",
    f"CREATE TRIGGER audit_log_kept BEFORE DELETE ON audit_log FOR EACH ROW WHEN ({_YOUNG}) {_CALL}",
    f"CREATE TRIGGER audit_log_whole BEFORE TRUNCATE ON audit_log FOR EACH STATEMENT {_CALL}",
)


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("operation", sa.String(128), nullable=False),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("key_id", sa.String(128)),
        sa.Column("address", sa.String(128)),
        sa.Column("method", sa.String(16)),
        sa.Column("status", sa.Integer),
        sa.Column("code", sa.String(128)),
        sa.Column("request_id", sa.String(128)),
        sa.Column("subject", sa.String(128)),
        sa.Column("job_id", sa.String(128)),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("begun", sa.String(32)),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True)),
    )
    op.create_index("ix_audit_begun", "audit_log", ["begun"])
    op.create_index("ix_audit_who", "audit_log", ["who", "id"])
    op.create_index("ix_audit_operation", "audit_log", ["operation", "id"])
    op.create_index("ix_audit_outcome", "audit_log", ["outcome", "id"])
    op.create_index("ix_audit_subject", "audit_log", ["subject", "id"])
    op.create_index("ix_audit_job", "audit_log", ["job_id", "id"])
    for statement in _SQLITE if op.get_bind().dialect.name == "sqlite" else _POSTGRES:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("audit_log")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_log_refuse()")
