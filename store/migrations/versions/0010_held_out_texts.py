"""held-out problems and the texts that were written for them can be read"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "held_out_problems",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_held_out_problems"),
    )
    op.add_column("evaluation_items", sa.Column("text", sa.Text(), nullable=True))
    op.add_column("evaluations", sa.Column("num_cut", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("evaluations", "num_cut")
    op.drop_column("evaluation_items", "text")
    op.drop_table("held_out_problems")
