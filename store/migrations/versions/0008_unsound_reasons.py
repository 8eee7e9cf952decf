"""what a tool found wrong with an option is kept under every rule of search.unsound"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

VIEW = """CREATE VIEW readable_nodes AS
SELECT n.search_id AS search, n.ix, n.parent_ix, n.depth, t.text, n.visits,
  n.value_sum / nullif(n.visits, 0) AS q, n.prior, n.stop, n.{column}, n.num_tokens,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'value') AS value_score,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'process') AS process_score,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'outcome') AS outcome_score
FROM nodes n LEFT JOIN node_texts t ON t.search_id = n.search_id AND t.ix = n.ix"""


def _rename(old: str, new: str) -> None:
    op.execute("DROP VIEW readable_nodes")
    op.execute(f"ALTER TABLE nodes RENAME COLUMN {old} TO {new}")
    op.execute(VIEW.format(column=new))


def upgrade() -> None:
    _rename("prune_reason", "unsound_reason")


def downgrade() -> None:
    _rename("unsound_reason", "prune_reason")
