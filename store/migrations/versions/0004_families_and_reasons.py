"""wordings of one problem, and what a trajectory was chosen by"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("problems") as table:
        table.add_column(sa.Column("family", sa.Text(), nullable=False, server_default=""))
    with op.batch_alter_table("dataset_items") as table:
        table.add_column(sa.Column("scores", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    with op.batch_alter_table("dataset_items") as table:
        table.drop_column("scores")
    with op.batch_alter_table("problems") as table:
        table.drop_column("family")
