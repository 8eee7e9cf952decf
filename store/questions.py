"""The questions that people ask of a store, by name, each as one SELECT that both databases answer.

They read the base tables and can be copied into any SQL client; `:run`, `:round` and the like are
parameters, bound and never pasted.
"""

from dataclasses import dataclass

ROUND = (
    "SELECT r.id FROM rounds r JOIN runs u ON u.id = r.run_id "
    "WHERE u.name = :run AND r.number = :round"
)


@dataclass(frozen=True, slots=True)
class Question:
    name: str
    asks: str
    """In words."""
    sql: str
    parameters: tuple[str, ...] = ("run", "round")


QUESTIONS = (
    Question(
        "progress",
        "Is the round moving, and how fast?",
        f"""SELECT s.status, count(*) AS searches, sum(s.num_simulations) AS simulations,
       sum(s.num_tokens) AS tokens,
       min(s.ended_ts) AS first_ended_us, max(s.ended_ts) AS last_ended_us,
       CASE WHEN max(s.ended_ts) > min(s.ended_ts)
            THEN (count(s.ended_ts) - 1) * 1000000.0 / (max(s.ended_ts) - min(s.ended_ts)) END
       AS searches_per_s
FROM searches s WHERE s.round_id = ({ROUND})
GROUP BY s.status ORDER BY s.status""",
    ),
    Question(
        "tree",
        "What did this search look at?",
        """SELECT n.ix, n.parent_ix, n.depth, n.visits,
       n.value_sum / nullif(n.visits, 0) AS q, n.prior, n.stop, n.unsound_reason, t.text
FROM nodes n LEFT JOIN node_texts t ON t.search_id = n.search_id AND t.ix = n.ix
WHERE n.search_id = :search ORDER BY n.ix""",
        ("search",),
    ),
    Question(
        "principal_variation",
        "What is the line that it visited most, and how sure is it?",
        """WITH RECURSIVE line(ix, depth) AS (
  SELECT n.ix, 0 FROM nodes n WHERE n.search_id = :search AND n.parent_ix IS NULL
  UNION ALL
  SELECT (SELECT c.ix FROM nodes c WHERE c.search_id = :search AND c.parent_ix = line.ix
            AND c.visits > 0 ORDER BY c.visits DESC, c.ix LIMIT 1), line.depth + 1
  FROM line WHERE EXISTS (SELECT 1 FROM nodes c WHERE c.search_id = :search
                            AND c.parent_ix = line.ix AND c.visits > 0)
)
SELECT n.depth, n.ix, n.visits, n.visits * 1.0 / nullif(p.visits, 0) AS share,
       n.value_sum / nullif(n.visits, 0) AS q, n.prior,
       (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix
          AND c.critic = 'value') AS value,
       (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix
          AND c.critic = 'process') AS process,
       (SELECT avg(c.score) FROM critic_scores c WHERE c.search_id = n.search_id AND c.ix = n.ix
          AND c.critic = 'outcome') AS outcome, t.text
FROM line JOIN nodes n ON n.search_id = :search AND n.ix = line.ix
LEFT JOIN nodes p ON p.search_id = n.search_id AND p.ix = n.parent_ix
LEFT JOIN node_texts t ON t.search_id = n.search_id AND t.ix = n.ix
ORDER BY n.depth""",
        ("search",),
    ),
    Question(
        "gained",
        "What did search solve that greedy decoding did not?",
        f"""SELECT s.id AS search, p.text AS problem, p.answer AS reference,
       s.root_rollout_answer AS greedy, s.answer, s.confidence, s.num_tokens
FROM searches s JOIN problems p ON p.id = s.problem_id
WHERE s.round_id = ({ROUND}) AND s.is_correct AND NOT s.root_rollout_correct
ORDER BY s.confidence, s.id""",
    ),
    Question(
        "flips",
        "Which held-out problems did the round's candidate gain and lose?",
        f"""SELECT CASE WHEN b.is_correct AND NOT a.is_correct THEN 'gained'
            WHEN a.is_correct AND NOT b.is_correct THEN 'lost'
            WHEN a.is_correct THEN 'solved by both' ELSE 'solved by neither' END AS verdict,
       ea.mode, count(*) AS problems, coalesce(min(h.text), min(a.problem_key)) AS for_example
FROM evaluations eb
JOIN evaluations ea ON ea.benchmark_sha = eb.benchmark_sha AND ea.mode = eb.mode
JOIN evaluation_items a ON a.evaluation_id = ea.id
JOIN evaluation_items b ON b.evaluation_id = eb.id AND b.problem_key = a.problem_key
LEFT JOIN held_out_problems h ON h.key = a.problem_key
WHERE eb.policy_version = (SELECT r.candidates ->> 'policy' FROM rounds r WHERE r.id = ({ROUND}))
  AND ea.policy_version IN (SELECT c.parent_version FROM checkpoints c
                              WHERE c.role = 'policy' AND c.version = eb.policy_version)
GROUP BY 1, 2 ORDER BY 2, 1""",
    ),
    Question(
        "flip_texts",
        "What did both policies write for each held-out problem that was gained or lost?",
        f"""SELECT CASE WHEN b.is_correct THEN 'gained' ELSE 'lost' END AS verdict, ea.mode,
       h.text AS problem, h.answer AS reference, a.answer AS before, b.answer AS after,
       a.text AS text_before, b.text AS text_after
FROM evaluations eb
JOIN evaluations ea ON ea.benchmark_sha = eb.benchmark_sha AND ea.mode = eb.mode
JOIN evaluation_items a ON a.evaluation_id = ea.id
JOIN evaluation_items b ON b.evaluation_id = eb.id AND b.problem_key = a.problem_key
LEFT JOIN held_out_problems h ON h.key = a.problem_key
WHERE a.is_correct <> b.is_correct
  AND eb.policy_version = (SELECT r.candidates ->> 'policy' FROM rounds r WHERE r.id = ({ROUND}))
  AND ea.policy_version IN (SELECT c.parent_version FROM checkpoints c
                              WHERE c.role = 'policy' AND c.version = eb.policy_version)
ORDER BY ea.mode, verdict, a.problem_key""",
    ),
    Question(
        "pairs",
        "Which steps taken were better than a sibling, and by how much?",
        f"""SELECT p.search_id AS search, p.parent_ix AS parent, p.chosen_ix AS chosen,
       p.rejected_ix AS rejected, p.margin, p.reason, c.visits AS visits_chosen,
       r.visits AS visits_rejected, tc.text AS chosen_text, tr.text AS rejected_text
FROM (SELECT * FROM preference_pairs
      WHERE dataset_id = (SELECT id FROM datasets WHERE round_id = ({ROUND}))
      ORDER BY margin DESC, position LIMIT 1000) p
JOIN nodes c ON c.search_id = p.search_id AND c.ix = p.chosen_ix
JOIN nodes r ON r.search_id = p.search_id AND r.ix = p.rejected_ix
JOIN node_texts tc ON tc.search_id = p.search_id AND tc.ix = p.chosen_ix
JOIN node_texts tr ON tr.search_id = p.search_id AND tr.ix = p.rejected_ix
ORDER BY p.margin DESC, p.position""",
    ),
    Question(
        "critics",
        "Which critic knew best which searches were right?",
        f"""WITH by_search AS (
  SELECT c.critic, c.search_id, avg(c.score) AS score,
         CASE WHEN s.is_correct THEN 1 ELSE 0 END AS good
  FROM searches s JOIN critic_scores c ON c.search_id = s.id
  WHERE s.round_id = ({ROUND}) AND s.is_correct IS NOT NULL AND c.score IS NOT NULL
  GROUP BY c.critic, c.search_id, s.is_correct
), ranked AS (
  SELECT critic, score, good,
         rank() OVER (PARTITION BY critic ORDER BY score)
         + (count(*) OVER (PARTITION BY critic, score) - 1) / 2.0 AS place
  FROM by_search
)
SELECT critic, count(*) AS searches, sum(good) AS solved,
       avg(CASE WHEN good = 1 THEN score END) AS mean_where_right,
       avg(CASE WHEN good = 0 THEN score END) AS mean_where_wrong,
       (sum(CASE WHEN good = 1 THEN place END) - sum(good) * (sum(good) + 1) / 2.0)
       / nullif(sum(good) * (count(*) - sum(good)), 0) AS auc,
       avg((score - good) * (score - good)) AS brier
FROM ranked GROUP BY critic ORDER BY critic""",
    ),
    Question(
        "cost",
        "What did the round cost?",
        f"""SELECT count(*) AS searches, sum(num_simulations) AS simulations,
       sum(num_tokens) AS tokens, sum(CASE WHEN is_correct THEN 1 ELSE 0 END) AS solved,
       sum(num_tokens) * 1.0 / nullif(sum(CASE WHEN is_correct THEN 1 ELSE 0 END), 0)
       AS tokens_per_solved,
       (SELECT sum(x.num_accepted) * 1.0 / nullif(sum(x.num_drafted), 0) FROM speculation x
          WHERE x.policy_version = min(s.policy_version)) AS drafts_accepted
FROM searches s WHERE s.round_id = ({ROUND}) AND s.status IN ('done', 'failed')""",
    ),
    Question(
        "shape",
        "How deep and how wide are the trees, and how much was unsound?",
        f"""SELECT n.depth, count(*) AS nodes,
       sum(CASE WHEN n.visits > 0 THEN 1 ELSE 0 END) AS visited,
       avg(n.visits) AS visits,
       sum(CASE WHEN n.unsound_reason IS NOT NULL THEN 1 ELSE 0 END) AS unsound,
       count(*) * 1.0 / (SELECT count(*) FROM searches x WHERE x.round_id = min(s.round_id))
       AS nodes_per_search
FROM searches s JOIN nodes n ON n.search_id = s.id
WHERE s.round_id = ({ROUND}) GROUP BY n.depth ORDER BY n.depth""",
    ),
    Question(
        "lineage",
        "From which models and which data did this checkpoint come?",
        """WITH RECURSIVE line(
  version, parent_version, role, round_id, dataset_id, status, steps_back) AS (
  SELECT c.version, c.parent_version, c.role, c.round_id, c.dataset_id, c.status, 0
  FROM checkpoints c WHERE c.version = :checkpoint
  UNION
  SELECT c.version, c.parent_version, c.role, c.round_id, c.dataset_id, c.status,
         line.steps_back + 1
  FROM line JOIN checkpoints c ON c.version = line.parent_version WHERE line.steps_back < 1000
)
SELECT line.steps_back, line.role, line.version, line.status, u.name AS run, r.number AS round,
       d.num_items AS trained_on, d.sha AS dataset_sha,
       (SELECT count(DISTINCT t.search_id) FROM dataset_items i
          JOIN trajectories t ON t.id = i.trajectory_id WHERE i.dataset_id = d.id) AS from_searches,
       (SELECT count(DISTINCT t.problem_id) FROM dataset_items i
          JOIN trajectories t ON t.id = i.trajectory_id WHERE i.dataset_id = d.id) AS from_problems
FROM line LEFT JOIN rounds r ON r.id = line.round_id LEFT JOIN runs u ON u.id = r.run_id
LEFT JOIN datasets d ON d.id = line.dataset_id
ORDER BY line.steps_back, line.role""",
        ("checkpoint",),
    ),
    Question(
        "failures",
        "What failed, and why?",
        f"""SELECT s.status, coalesce(s.error, s.stop_reason) AS reason, count(*) AS searches,
       min(s.id) AS for_example, sum(s.num_unscored) AS without_a_score
FROM searches s WHERE s.round_id = ({ROUND})
  AND (s.status = 'failed' OR s.error IS NOT NULL OR s.num_unscored > 0)
GROUP BY 1, 2 ORDER BY searches DESC, 2""",
    ),
    Question(
        "duplicates",
        "Is any text there twice, or any held-out problem among those searched?",
        f"""SELECT 'text kept twice' AS finding, t.sha AS of, count(*) AS times
FROM searches s JOIN trajectories t ON t.search_id = s.id
JOIN dataset_items i ON i.trajectory_id = t.id
WHERE s.round_id = ({ROUND}) GROUP BY t.sha HAVING count(*) > 1
UNION ALL
SELECT 'held-out problem searched', p.key, count(*)
FROM searches s JOIN problems p ON p.id = s.problem_id
WHERE s.round_id = ({ROUND})
  AND p.key IN (SELECT e.problem_key FROM evaluation_items e)
GROUP BY p.key ORDER BY 1, 3 DESC, 2""",
    ),
    Question(
        "budget",
        "What would fewer simulations have given? Root value by simulations spent.",
        f"""SELECT m.seq + 1 AS simulation, count(*) AS searches, avg(m.value) AS mean_value,
       avg(CASE WHEN s.is_correct THEN m.value END) AS mean_where_right,
       avg(CASE WHEN NOT s.is_correct THEN m.value END) AS mean_where_wrong,
       avg(m.num_tokens) AS tokens
FROM searches s JOIN simulations m ON m.search_id = s.id
WHERE s.round_id = ({ROUND}) GROUP BY m.seq ORDER BY m.seq""",
    ),
)
BY_NAME = {q.name: q for q in QUESTIONS}
