"""pictures that problems come with, by digest"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("problems", sa.Column("pictures", sa.Text(), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("problems", "pictures")
