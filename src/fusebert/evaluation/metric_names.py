"""Metrics and scores as a reader knows them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

METRIC_NAMES = {
    "f1_micro": "F1, micro", "f1_macro": "F1, macro", "auroc": "AUROC", "mae": "mean absolute error",
    "rmse": "root mean squared error", "r2": "R²", "pearson": "Pearson's r",
}  # fmt: skip
STANDARD_ERROR = "standard_error"
"""Beside the metrics of a variant of the ledger: of its primary metric's difference from that of the whole."""
LOWER_IS_BETTER = frozenset({"mae", "rmse", "loss", "expected_calibration_error"})


def metric_name(metric: str) -> str:
    """A metric as a reader knows it."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def direction(higher_is_better: bool) -> str:
    """What is said beside a score."""
    return "higher is better" if higher_is_better else "lower is better"


def lower_is_better(primary: str, higher_is_better: bool) -> frozenset[str]:
    """Metrics of which less is better: of its primary one a task says so itself."""
    return LOWER_IS_BETTER - {primary} if higher_is_better else LOWER_IS_BETTER | {primary}


def metric_text(value: float | None) -> str:
    """A score as it is printed; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 10:
        return f"{value:,.1f}"
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.2g}"


def decision_in_words(evaluation: Mapping[str, Any], split: str) -> str | None:
    """How a task makes answers of probabilities, and what the likeliest answers would give; None where it gives these.

    Args:
        evaluation: of a task's `evaluate`.
        split: the rows that it is of.
    """
    if (decision := evaluation.get("decision")) is None:
        return None
    metric = decision["chosen_for"]
    how = "set by hand" if metric is None else f"chosen on validation rows for {metric_name(metric)}"
    metrics = list(decision["otherwise"]) if metric is None else [metric]
    scores = [
        f"{metric_name(name)} is {metric_text(evaluation['metrics'][name])}, and would be "
        f"{metric_text(decision['otherwise'][name])} with the likeliest answers"
        for name in metrics
    ]
    return f"{decision['rule']} ({how}). On {split} {'; '.join(scores)}"


def untold(metrics: Mapping[str, float], metric: str, split: str) -> list[str]:
    """In words: the rows of that split have no such metric."""
    name = metric_name(metric)
    return [] if metric in metrics else [f"the rows of {split} are too much alike to tell {name}, so there is none"]


def primary_metric(metrics: Mapping[str, Any]) -> str:
    """The metric that stands for the others: tasks put it first."""
    return next(iter(metrics))
