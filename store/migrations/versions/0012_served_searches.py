"""searches that somebody asked for: a problem may be asked for twice, and each has a name"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

ONCE = "uq_searches_round_id_problem_id"
PLACE = "uq_searches_round_id_position"


def _views() -> list[tuple[str, str]]:
    """Views of SQLite, which stand in the way of writing their tables anew."""
    bind = op.get_bind()
    if bind.dialect.name != "sqlite":
        return []
    rows = bind.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))
    return [(name, sql) for name, sql in rows]


def _changed(old: str, new: str, column: str) -> None:
    views = _views()
    for name, _ in views:
        op.execute(f"DROP VIEW {name}")
    with op.batch_alter_table("searches") as table:
        table.drop_constraint(old, type_="unique")
        table.create_unique_constraint(new, ["round_id", column])
    for _, sql in views:
        op.execute(sql)


def upgrade() -> None:
    _changed(ONCE, PLACE, "position")
    op.add_column("searches", sa.Column("request_id", sa.Text(), nullable=True))
    op.create_index("ix_searches_request_id", "searches", ["request_id"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_searches_request_id", "searches")
    op.drop_column("searches", "request_id")
    _changed(PLACE, ONCE, "problem_id")
