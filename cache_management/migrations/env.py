"""Runs migrations on the connection that `models/store/schema.py` hands over."""

from __future__ import annotations

from alembic import context

from cache_management.models.base import Base

# No logging set-up here: the program that upgrades has its own.
connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("run `cache-cli db upgrade`: migrations need the connection it opens")

context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
