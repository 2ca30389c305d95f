"""What Alembic runs around a migration: the connection is always handed in by `state.engine`."""

from alembic import context

from agent_pipelines.state.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
# `state.engine` owns the transaction, so that a migration is applied whole or not at all.
context.run_migrations()
