"""Alembic's entry: runs the migrations on the connection that ``job_schema`` gives it."""

from alembic import context

from ingestion_engine.services.job_records import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite")
with context.begin_transaction():
    context.run_migrations()
