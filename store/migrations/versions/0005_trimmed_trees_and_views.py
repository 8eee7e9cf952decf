"""trees that were trimmed, and views for any SQL client"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

VIEWS = {
    "readable_rounds": """
SELECT u.name AS run, r.number AS round, r.stage, r.num_problems, r.started_ts, r.ended_ts, r.error,
  (SELECT count(*) FROM searches s WHERE s.round_id = r.id AND s.status IN ('done', 'failed')) AS num_ended,
  (SELECT sum(s.num_tokens) FROM searches s WHERE s.round_id = r.id) AS num_tokens,
  (SELECT count(*) FROM searches s WHERE s.round_id = r.id AND s.is_correct) AS num_solved,
  (SELECT count(*) FROM searches s WHERE s.round_id = r.id AND s.root_rollout_correct) AS num_solved_greedily,
  (SELECT d.num_items FROM datasets d WHERE d.round_id = r.id) AS num_kept
FROM rounds r JOIN runs u ON u.id = r.run_id""",
    "readable_searches": """
SELECT s.id AS search, u.name AS run, r.number AS round, p.text AS problem, p.answer AS reference,
  s.answer, s.is_correct, s.confidence, s.root_rollout_answer AS greedy_answer,
  s.root_rollout_correct AS greedy_is_correct, s.status, s.stop_reason, s.num_simulations,
  s.num_tokens, s.num_nodes, s.policy_version, s.ended_ts, s.is_trimmed
FROM searches s JOIN rounds r ON r.id = s.round_id JOIN runs u ON u.id = r.run_id
JOIN problems p ON p.id = s.problem_id""",
    "readable_nodes": """
SELECT n.search_id AS search, n.ix, n.parent_ix, n.depth, t.text, n.visits,
  n.value_sum / nullif(n.visits, 0) AS q, n.prior, n.stop, n.prune_reason, n.num_tokens,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'value') AS value_score,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'process') AS process_score,
  (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix AND c.critic = 'outcome') AS outcome_score
FROM nodes n LEFT JOIN node_texts t ON t.search_id = n.search_id AND t.ix = n.ix""",
    "readable_trajectories": """
SELECT t.id AS trajectory, t.search_id AS search, u.name AS run, r.number AS round, p.text AS problem,
  t.text, t.answer, t.is_correct, t.is_chosen, t.is_sound, t.outcome,
  (SELECT count(*) FROM dataset_items i WHERE i.trajectory_id = t.id) AS num_datasets
FROM trajectories t JOIN searches s ON s.id = t.search_id JOIN rounds r ON r.id = s.round_id
JOIN runs u ON u.id = r.run_id JOIN problems p ON p.id = t.problem_id""",
}


def upgrade() -> None:
    with op.batch_alter_table("searches") as table:
        table.add_column(sa.Column("is_trimmed", sa.Boolean(), nullable=False, server_default="0"))
    for name, query in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query}")


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    with op.batch_alter_table("searches") as table:
        table.drop_column("is_trimmed")
