"""what speculation came to"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "speculation",
        sa.Column("policy_version", sa.Text(), nullable=False),
        sa.Column("drafter_version", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("acceptance", sa.Double(), nullable=False),
        sa.Column("accepted_length", sa.Double(), nullable=False),
        sa.Column("num_drafted", sa.BigInteger(), nullable=False),
        sa.Column("num_accepted", sa.BigInteger(), nullable=False),
        sa.Column("costs", sa.JSON(), nullable=False),
        sa.Column("selftest", sa.Text(), nullable=False),
        sa.Column("seen_ts", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "policy_version", "drafter_version", "source", "actor", name=op.f("pk_speculation")
        ),
    )


def downgrade() -> None:
    op.drop_table("speculation")
