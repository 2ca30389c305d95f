"""An answer names the calls that were made and may not be repeated."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Of earlier answers nobody knows: they name none."""
    with op.batch_alter_table("answers") as answers:
        answers.add_column(sa.Column("calls_done", sa.JSON(), nullable=False, server_default="[]"))
