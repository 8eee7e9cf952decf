"""what a policy needs to write down worked texts is kept with its greedy evaluation"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("evaluations", sa.Column("bits_per_character", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("evaluations", "bits_per_character")
