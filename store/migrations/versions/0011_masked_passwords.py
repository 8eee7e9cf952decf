"""no settings of earlier runs hold the password of a URL"""

import re
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

PASSWORD = re.compile(r"(://[^/?#\s:@]*):[^\s]*@")
PLACES = (("runs", "config"), ("events", "payload"))


def upgrade() -> None:
    connection = op.get_bind()
    for table, column in PLACES:
        rows = sa.table(table, sa.column("id"), sa.column(column, sa.JSON()))
        value = rows.c[column]
        holds = sa.cast(value, sa.Text()).like("%://%")
        found = connection.execute(sa.select(rows.c.id, value).where(holds)).all()
        for number, document in found:
            if (masked := _masked(document)) != document:
                connection.execute(
                    sa.update(rows).where(rows.c.id == number).values({column: masked})
                )


def downgrade() -> None:
    """What is hidden stays so."""


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return PASSWORD.sub(r"\1:***@", value)
    if isinstance(value, list):
        return [_masked(each) for each in value]
    if isinstance(value, dict):
        return {key: _masked(each) for key, each in value.items()}
    return value
