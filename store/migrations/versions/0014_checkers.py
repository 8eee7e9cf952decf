"""a sixth role: checkers, which work out in writing what steps claim"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

BEFORE = ("policy", "drafter", "value", "process", "outcome")


def _views() -> list[tuple[str, str]]:
    """Views of SQLite, which stand in the way of writing their tables anew."""
    bind = op.get_bind()
    if bind.dialect.name != "sqlite":
        return []
    rows = bind.execute(sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))
    return [(name, sql) for name, sql in rows]


def _allowed(roles: tuple[str, ...]) -> None:
    views = _views()
    for name, _ in views:
        op.execute(f"DROP VIEW {name}")
    with op.batch_alter_table("checkpoints") as table:
        table.drop_constraint(op.f("ck_checkpoints_role"), type_="check")
        listed = ", ".join(f"'{role}'" for role in roles)
        table.create_check_constraint(op.f("ck_checkpoints_role"), f"role IN ({listed})")
    for _, sql in views:
        op.execute(sql)


def upgrade() -> None:
    _allowed((*BEFORE, "checker"))


def downgrade() -> None:
    op.execute("DELETE FROM checkpoints WHERE role = 'checker'")
    _allowed(BEFORE)
