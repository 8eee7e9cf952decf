"""whose key asked for a search: it sees its own also after the service has started anew"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("searches", sa.Column("asked_by", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("searches", "asked_by")
