"""on PostgreSQL one partition a round of the large tables, without a look at searches a row"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEYS = {
    "nodes": "search_id, ix",
    "node_texts": "search_id, ix",
    "critic_scores": "search_id, ix, critic, seq",
    "simulations": "search_id, seq",
}
VIEW = """CREATE VIEW readable_nodes AS
SELECT n.search_id AS search, n.ix, n.parent_ix, n.depth, t.text, n.visits,
  n.value_sum / nullif(n.visits, 0) AS q, n.prior, n.stop, n.prune_reason, n.num_tokens,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'value') AS value_score,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'process') AS process_score,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'outcome') AS outcome_score
FROM nodes n LEFT JOIN node_texts t ON t.search_id = n.search_id AND t.ix = n.ix"""


def _constrain(table: str, key: str) -> None:
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT pk_{table} PRIMARY KEY ({key})")
    if table == "nodes":
        op.execute("CREATE INDEX ix_nodes_parent ON nodes (search_id, parent_ix)")


def upgrade() -> None:
    """What is there becomes the default partition; nothing is copied."""
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("DROP VIEW readable_nodes")
    for table, key in KEYS.items():
        rest = f"{table}_default"
        op.execute(f"ALTER TABLE {table} RENAME TO {rest}")
        op.execute(f"ALTER TABLE {rest} RENAME CONSTRAINT pk_{table} TO pk_{table}_default")
        op.execute(f"ALTER TABLE {rest} DROP CONSTRAINT fk_{table}_search_id_searches")
        if table == "nodes":
            op.execute("ALTER INDEX ix_nodes_parent RENAME TO ix_nodes_parent_default")
        op.execute(
            f"CREATE TABLE {table} (LIKE {rest} INCLUDING DEFAULTS) PARTITION BY RANGE (search_id)"
        )
        _constrain(table, key)
        op.execute(f"ALTER TABLE {table} ATTACH PARTITION {rest} DEFAULT")
    op.execute(VIEW)


def downgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("DROP VIEW readable_nodes")
    for table, key in KEYS.items():
        op.execute(f"CREATE TABLE {table}_whole (LIKE {table} INCLUDING DEFAULTS)")
        op.execute(f"INSERT INTO {table}_whole SELECT * FROM {table}")
        op.execute(f"DROP TABLE {table}")
        op.execute(f"ALTER TABLE {table}_whole RENAME TO {table}")
        _constrain(table, key)
        op.execute(
            f"ALTER TABLE {table} ADD CONSTRAINT fk_{table}_search_id_searches "
            "FOREIGN KEY (search_id) REFERENCES searches (id)"
        )
    op.execute(VIEW)
