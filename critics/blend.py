"""One value from several scores by declared weights."""

from collections.abc import Iterable, Mapping

from search.score import Score


def blend(scores: Iterable[Score], weights: Mapping[str, float]) -> float | None:
    """Weighted mean of the scores that are there; None when none is.

    AlphaLLM adds beta_v v + beta_PRM PRM + beta_ORM ORM; dividing by the weights that took part
    keeps the value in [0, 1] and lets a critic be missing without counting as zero. Several scores
    of one critic (rollouts) count as their mean.
    """
    by_critic: dict[str, list[float]] = {}
    for score in scores:
        if score.value is not None and weights.get(score.critic, 0.0) > 0:
            by_critic.setdefault(score.critic, []).append(score.value)
    total = sum(weights[name] for name in by_critic)
    if not by_critic or total <= 0:
        return None
    return sum(weights[n] * sum(v) / len(v) for n, v in by_critic.items()) / total
