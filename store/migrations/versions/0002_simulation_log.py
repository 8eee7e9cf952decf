"""simulation log and journals of searches under way"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "simulations",
        sa.Column("search_id", _ID, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("leaf_ix", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("num_tokens", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_simulations_search_id_searches")
        ),
        sa.PrimaryKeyConstraint("search_id", "seq", name=op.f("pk_simulations")),
    )
    op.create_table(
        "search_journals",
        sa.Column("search_id", _ID, nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("entry", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_search_journals_search_id_searches")
        ),
        sa.PrimaryKeyConstraint("search_id", "seq", name=op.f("pk_search_journals")),
    )


def downgrade() -> None:
    op.drop_table("search_journals")
    op.drop_table("simulations")
