"""The invariants of a store, each as a query that must find nothing."""

from dataclasses import dataclass

from sqlalchemy import text

from store.database import Store
from store.partitions import PARTITIONED


@dataclass(frozen=True, slots=True)
class Invariant:
    name: str
    rule: str
    """What must hold, in words."""
    violations: str
    """SQL whose rows break it."""


INVARIANTS = (
    Invariant(
        "one_search_a_problem",
        "a round searches each problem once; a service may be asked for it again",
        "SELECT round_id, problem_id FROM searches WHERE request_id IS NULL "
        "GROUP BY 1, 2 HAVING count(*) > 1",
    ),
    Invariant(
        "one_root",
        "a done search has one root, and its nodes are numbered without gaps",
        "SELECT s.id FROM searches s JOIN nodes n ON n.search_id = s.id WHERE NOT s.is_trimmed "
        "GROUP BY s.id, s.num_nodes "
        "HAVING sum(CASE WHEN n.parent_ix IS NULL THEN 1 ELSE 0 END) <> 1 "
        "OR max(n.ix) <> count(*) - 1 OR count(*) <> s.num_nodes",
    ),
    Invariant(
        "connected",
        "each node's parent is there, one level above",
        "SELECT n.search_id, n.ix FROM nodes n LEFT JOIN nodes p ON p.search_id = n.search_id "
        "AND p.ix = n.parent_ix WHERE n.parent_ix IS NOT NULL "
        "AND (p.ix IS NULL OR p.depth <> n.depth - 1)",
    ),
    Invariant(
        "visits_add_up",
        "visits of a node = own evaluations + visits of its children",
        "SELECT p.search_id, p.ix FROM nodes p LEFT JOIN nodes c ON c.search_id = p.search_id "
        "AND c.parent_ix = p.ix JOIN searches s ON s.id = p.search_id AND NOT s.is_trimmed "
        "GROUP BY p.search_id, p.ix, p.visits, p.own_evaluations "
        "HAVING p.visits <> p.own_evaluations + coalesce(sum(c.visits), 0)",
    ),
    Invariant(
        "values_add_up",
        "W of a node = own value + W of its children, within 1e-6",
        "SELECT p.search_id, p.ix FROM nodes p LEFT JOIN nodes c ON c.search_id = p.search_id "
        "AND c.parent_ix = p.ix JOIN searches s ON s.id = p.search_id AND NOT s.is_trimmed "
        "GROUP BY p.search_id, p.ix, p.value_sum, p.value "
        "HAVING abs(p.value_sum - coalesce(p.value, 0) - coalesce(sum(c.value_sum), 0)) > 1e-6",
    ),
    Invariant(
        "log_is_whole",
        "simulations are numbered without gaps, as many as their search says",
        "SELECT s.id FROM searches s JOIN simulations m ON m.search_id = s.id "
        "GROUP BY s.id, s.num_simulations "
        "HAVING max(m.seq) <> count(*) - 1 OR count(*) <> s.num_simulations",
    ),
    Invariant(
        "log_rebuilds_the_root",
        "N and W of a root are those of its log, W within 1e-6",
        "SELECT n.search_id FROM nodes n JOIN simulations m ON m.search_id = n.search_id "
        "WHERE n.parent_ix IS NULL GROUP BY n.search_id, n.visits, n.value_sum "
        "HAVING n.visits <> count(*) OR abs(n.value_sum - sum(m.value)) > 1e-6",
    ),
    Invariant(
        "evaluated_once",
        "a node is the leaf of as many simulations as it was evaluated",
        "SELECT n.search_id, n.ix FROM nodes n LEFT JOIN simulations m "
        "ON m.search_id = n.search_id AND m.leaf_ix = n.ix "
        "WHERE EXISTS (SELECT 1 FROM simulations x WHERE x.search_id = n.search_id) "
        "GROUP BY n.search_id, n.ix, n.own_evaluations HAVING n.own_evaluations <> count(m.seq)",
    ),
    Invariant(
        "rows_have_their_search",
        "nodes, texts, scores and simulations belong to a search",
        " UNION ALL ".join(
            f"SELECT DISTINCT x.search_id FROM {table} x "
            "WHERE NOT EXISTS (SELECT 1 FROM searches s WHERE s.id = x.search_id)"
            for table in PARTITIONED
        ),
    ),
    Invariant(
        "no_journal_after_the_end",
        "only a search under way has a journal",
        "SELECT DISTINCT j.search_id FROM search_journals j JOIN searches s ON s.id = j.search_id "
        "WHERE s.status IN ('done', 'failed')",
    ),
    Invariant(
        "nothing_before_the_end",
        "only an ended search has nodes or trajectories",
        "SELECT s.id FROM searches s WHERE s.status IN ('pending', 'running') AND (EXISTS "
        "(SELECT 1 FROM nodes n WHERE n.search_id = s.id) OR EXISTS "
        "(SELECT 1 FROM trajectories t WHERE t.search_id = s.id))",
    ),
    Invariant(
        "ended_round_is_whole",
        "a round that ended or went past searching has no search left",
        "SELECT r.id FROM rounds r JOIN searches s ON s.round_id = r.id "
        "WHERE r.stage IN ('selecting', 'training', 'evaluating', 'promoted', 'kept') "
        "AND s.status IN ('pending', 'running')",
    ),
    Invariant(
        "one_choice",
        "a search has at most one chosen trajectory",
        "SELECT search_id FROM trajectories WHERE is_chosen GROUP BY search_id HAVING count(*) > 1",
    ),
    Invariant(
        "fence_of_run",
        "no search carries a fence above its run's",
        "SELECT s.id FROM searches s JOIN rounds r ON r.id = s.round_id JOIN runs u "
        "ON u.id = r.run_id WHERE s.fence > u.fence",
    ),
    Invariant(
        "one_open_round",
        "a run has at most one round that has not ended",
        "SELECT run_id FROM rounds WHERE stage NOT IN ('promoted', 'kept', 'failed') "
        "GROUP BY run_id HAVING count(*) > 1",
    ),
    Invariant(
        "dataset_is_whole",
        "a dataset has as many items as it says",
        "SELECT d.id FROM datasets d LEFT JOIN dataset_items i ON i.dataset_id = d.id "
        "GROUP BY d.id, d.num_items HAVING count(i.position) <> d.num_items",
    ),
    Invariant(
        "pairs_are_siblings",
        "a preference pair holds two steps of one state, and their margin",
        "SELECT p.dataset_id, p.position FROM preference_pairs p "
        "LEFT JOIN nodes c ON c.search_id = p.search_id AND c.ix = p.chosen_ix "
        "LEFT JOIN nodes r ON r.search_id = p.search_id AND r.ix = p.rejected_ix "
        "WHERE c.ix IS NULL OR r.ix IS NULL OR c.ix = r.ix OR c.parent_ix <> p.parent_ix "
        "OR r.parent_ix <> p.parent_ix OR abs(p.margin - (CASE WHEN c.visits > 0 "
        "AND c.unsound_reason IS NULL THEN c.value_sum / c.visits ELSE 0 END) + (CASE WHEN "
        "r.visits > 0 AND r.unsound_reason IS NULL THEN r.value_sum / r.visits ELSE 0 END)) > 1e-9",
    ),
    Invariant(
        "lineage",
        "a trained checkpoint's parent is known",
        "SELECT c.id FROM checkpoints c WHERE c.parent_version IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM checkpoints p WHERE p.version = c.parent_version)",
    ),
    Invariant(
        "evaluation_is_whole",
        "an evaluation has as many items as it says",
        "SELECT e.id FROM evaluations e LEFT JOIN evaluation_items i ON i.evaluation_id = e.id "
        "GROUP BY e.id, e.n, e.num_correct HAVING count(i.problem_key) <> e.n "
        "OR coalesce(sum(CASE WHEN i.is_correct THEN 1 ELSE 0 END), 0) <> e.num_correct",
    ),
    Invariant(
        "votes_have_answers",
        "a vote compares the written answers of two contestants to one problem",
        "SELECT v.id FROM arena_votes v "
        "LEFT JOIN evaluation_items a ON a.evaluation_id = v.left_id "
        "AND a.problem_key = v.problem_key AND a.text IS NOT NULL "
        "LEFT JOIN evaluation_items b ON b.evaluation_id = v.right_id "
        "AND b.problem_key = v.problem_key AND b.text IS NOT NULL "
        "WHERE a.evaluation_id IS NULL OR b.evaluation_id IS NULL OR v.left_sha = v.right_sha",
    ),
)


def check_store(store: Store) -> dict[str, int]:
    """Number of violations by invariant; all zero for a sound store."""
    with store.session() as session:
        return {i.name: len(session.execute(text(i.violations)).all()) for i in INVARIANTS}
