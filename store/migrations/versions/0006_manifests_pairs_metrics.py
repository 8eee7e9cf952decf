"""digests of manifests, leases by time since boot, frozen preference pairs, training curves"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # Not in batches: these would put a copy in the table's place, which views on SQLite forbid.
    op.add_column(
        "checkpoints", sa.Column("manifest_sha", sa.Text(), nullable=False, server_default="")
    )
    op.add_column(
        "runs", sa.Column("lease_until_boot", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.create_table(
        "preference_pairs",
        sa.Column("dataset_id", _ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("search_id", _ID, nullable=False),
        sa.Column("parent_ix", sa.Integer(), nullable=False),
        sa.Column("chosen_ix", sa.Integer(), nullable=False),
        sa.Column("rejected_ix", sa.Integer(), nullable=False),
        sa.Column("margin", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_preference_pairs_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["search_id"], ["searches.id"], name=op.f("fk_preference_pairs_search_id_searches")
        ),
        sa.PrimaryKeyConstraint("dataset_id", "position", name=op.f("pk_preference_pairs")),
    )
    op.create_index("ix_preference_pairs_margin", "preference_pairs", ["dataset_id", "margin"])
    op.create_table(
        "train_metrics",
        sa.Column("checkpoint_id", _ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["checkpoints.id"],
            name=op.f("fk_train_metrics_checkpoint_id_checkpoints"),
        ),
        sa.PrimaryKeyConstraint("checkpoint_id", "name", "step", name=op.f("pk_train_metrics")),
    )


def downgrade() -> None:
    op.drop_table("train_metrics")
    op.drop_index("ix_preference_pairs_margin", "preference_pairs")
    op.drop_table("preference_pairs")
    op.drop_column("runs", "lease_until_boot")
    op.drop_column("checkpoints", "manifest_sha")
