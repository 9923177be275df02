"""Scores of rankings with one right item each."""

from __future__ import annotations

import numpy as np

from fusebert.tasks.ranking import ndcg_at, recall_at, reciprocal_rank

RECALL_AT = (10, 1, 5, 20)
"""Recall is the share of questions whose item is among the first so many."""
NEVER = 10**9
"""The rank of what cannot be an answer, beyond every cut-off; infinity is taken for a training that has diverged."""
NAMES = ("ndcg_at_10", *(f"recall_at_{most}" for most in RECALL_AT), "mrr", "new_item_share", "new_item_recall_at_20")
"""Of the metrics; the last one is there where there are new items."""


def ranking_metrics(ranks: np.ndarray, trained: np.ndarray) -> dict[str, float]:
    """NDCG, recall and mean reciprocal rank of one right item a question.

    Args:
        ranks: float[B], from 1.
        trained: bool[B], whether the training events have the right item; the others are scored apart, too.
    """
    scores = {"ndcg_at_10": ndcg_at(10, ranks)} | {f"recall_at_{most}": recall_at(most, ranks) for most in RECALL_AT}
    scores |= {"mrr": reciprocal_rank(ranks), "new_item_share": ~trained}
    if not trained.all():
        scores["new_item_recall_at_20"] = recall_at(20, ranks[~trained])
    return {name: float(of_questions.mean()) for name, of_questions in scores.items()}
