"""What a listing takes is known, so that a look which has no time for it leaves it to a run."""

import sqlalchemy as sa
from alembic import op

from agent_pipelines.state.tables import UtcDateTime

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Of listings until now nobody knows; the next look will."""
    with op.batch_alter_table("listings") as listings:
        listings.add_column(sa.Column("seconds", sa.Float(), nullable=False, server_default="0"))
        listings.add_column(sa.Column("begun_at", UtcDateTime()))
