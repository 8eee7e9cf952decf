"""votes on pairs of answers: what people and judges say, where right and wrong do not decide"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "arena_votes",
        sa.Column("id", _ID, nullable=False),
        sa.Column("ts", sa.BigInteger(), nullable=False),
        sa.Column("problem_key", sa.Text(), nullable=False),
        sa.Column("left_id", _ID, nullable=False),
        sa.Column("right_id", _ID, nullable=False),
        sa.Column("pair", sa.Text(), nullable=False),
        sa.Column("left_sha", sa.Text(), nullable=False),
        sa.Column("right_sha", sa.Text(), nullable=False),
        sa.Column("choice", sa.Text(), nullable=False),
        sa.Column("strength", sa.SmallInteger(), nullable=False),
        sa.Column("judge", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("chance", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "choice IN ('left', 'right', 'tie', 'bad')", name=op.f("ck_arena_votes_choice")
        ),
        sa.ForeignKeyConstraint(
            ["left_id"], ["evaluations.id"], name=op.f("fk_arena_votes_left_id_evaluations")
        ),
        sa.ForeignKeyConstraint(
            ["right_id"], ["evaluations.id"], name=op.f("fk_arena_votes_right_id_evaluations")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_arena_votes")),
        sa.UniqueConstraint(
            "judge", "problem_key", "pair", name=op.f("uq_arena_votes_judge_problem_key_pair")
        ),
    )
    op.create_index("ix_arena_votes_problem_key", "arena_votes", ["problem_key"])


def downgrade() -> None:
    op.drop_table("arena_votes")
