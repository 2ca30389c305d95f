"""A batch says what it took of its model server, by which the next claim is sized."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Nobody knows it of the batches before this."""
    with op.batch_alter_table("batches") as batches:
        batches.add_column(sa.Column("used", sa.JSON()))
