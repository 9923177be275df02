"""What each modality is worth: every score again without it, with it shuffled between rows, and of every subset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from fusebert.evaluation.metric_names import STANDARD_ERROR, metric_name, metric_text, primary_metric
from fusebert.evaluation.predictor import Predictor
from fusebert.tasks.base import Task

Ledger = dict[str, dict[str, float]]
SHUFFLED = " shuffled"
LEAST_ROWS = 50
"""Of fewer, two standard errors are so wide that nearly any score is as good as any other."""
GROUPS = 20
MOST_ROWS = 1000
"""Of more rows so many, spread over all, tell how far a difference is chance."""


def ledger(predictor: Predictor, table: Any, logits: np.ndarray, targets: np.ndarray) -> Ledger:
    """Metrics by what the model may see, `all` first, always of the same rows: one that is left with nothing to read is
    answered from nothing. The others also have the `standard_error` of their primary metric's difference from `all`,
    unless the rows are fewer than LEAST_ROWS.

    Args:
        table: path of a table, or rows as `Predictor.evaluate` takes them.
        logits, targets: of these rows as they are, as the task's `evaluate` takes them.

    With three modalities or more, this scores every subset of them. A model with a single modality has only the
    shuffled variant beside `all`.
    """
    task = predictor.task
    found = {"all": task.evaluate(logits, targets)["metrics"]}
    whole = _scores_without_a_group(task, logits, targets) if len(targets) >= LEAST_ROWS else None
    for label, change in variants(list(predictor.processors)):
        logits, targets, _ = predictor.outputs(table, **change)
        found[label] = task.evaluate(logits, targets)["metrics"]
        if whole is not None:
            error = _jackknife_error(_scores_without_a_group(task, logits, targets) - whole)
            if math.isfinite(error):
                found[label][STANDARD_ERROR] = error / math.sqrt(_every(targets))
    return found


def _every(targets: np.ndarray) -> int:
    """One of so many rows is taken, so that they are MOST_ROWS at most."""
    return max(1, -(-len(targets) // MOST_ROWS))


def _scores_without_a_group(task: Task, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The primary metric float[GROUPS] without each group of rows in turn; every GROUPS-th row is in one group."""
    every = _every(targets)
    logits, targets = logits[::every], targets[::every]
    group = np.arange(len(targets)) % GROUPS
    score = getattr(task, "score", lambda *rows: task.evaluate(*rows)["metrics"].get(task.primary_metric, math.nan))
    return np.array([score(logits[group != one], targets[group != one]) for one in range(GROUPS)])


def _jackknife_error(found: np.ndarray) -> float:
    """The standard error of a value from those with one group left out each (Efron & Tibshirani 1993, eq. 11.5)."""
    return float(np.sqrt((GROUPS - 1) / GROUPS * np.square(found - found.mean()).sum()))


def variants(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is scored again of modalities with these names: a label, and arguments of `Predictor.evaluate`."""
    for name in names:
        others = [other for other in names if other != name]
        if others:
            yield f"without {name}", {"without": [name]}
        yield f"{name}{SHUFFLED}", {"shuffle": [name]}
        if len(others) > 1:
            yield f"{name} alone", {"without": others}
    for size in range(2, len(names) - 1):
        for kept in combinations(names, size):
            yield " + ".join(kept), {"without": [name for name in names if name not in kept]}


def warnings(found: Mapping[str, Mapping[str, float]], higher_is_better: bool) -> list[str]:
    """In words: modalities that are not used, that say what others say, that mislead, and that do as well alone as all.

    A score is worse, or better, where it is so by more than two standard errors of the difference; one that has none,
    of few rows, is as good where it is no worse at all.

    Args:
        found: of `ledger`.
    """
    metric = primary_metric(found["all"])
    whole = found["all"][metric]
    names = [label.removesuffix(SHUFFLED) for label in found if label.endswith(SHUFFLED)]

    def lead(label: str) -> tuple[float, float] | None:
        """How much better its score is, and two standard errors of that; None where it has no score."""
        score = found.get(label, {}).get(metric)
        if score is None:
            return None
        return (score - whole if higher_is_better else whole - score), 2 * found[label].get(STANDARD_ERROR, 0.0)

    def said_of(label: str) -> str:
        return f"{metric_name(metric)} is {metric_text(found[label][metric])}, {metric_text(whole)} with all"

    def as_good(label: str) -> str | None:
        known = lead(label)
        return said_of(label) if known and known[0] >= -known[1] else None

    def better(label: str) -> str | None:
        known = lead(label)
        return said_of(label) if known and STANDARD_ERROR in found[label] and known[0] > known[1] else None

    def alone(name: str) -> str | None:
        others = [other for other in names if other != name]
        return as_good(f"without {others[0]}" if len(others) == 1 else f"{name} alone") if others else None

    unused = {name: score for name in names if (score := as_good(f"{name}{SHUFFLED}")) is not None}
    enough = {name: score for name in names if (score := alone(name)) is not None}
    said = []
    for name in names:
        if name in unused and name in enough:
            said.append(
                f"{name} is not used, as others say the same or nothing is learned: dealt out to other rows, "
                f"{unused[name]}; alone, {enough[name]}"
            )
        elif name in unused:
            said.append(f"{name} is not used: dealt out to other rows, {unused[name]}")
        if (score := better(f"without {name}")) is not None:
            said.append(f"{name} misleads: without it, {score}")
    return said + [
        f"{name} alone does as well as all together: {enough[name]}" for name in names if name in enough.keys() - unused
    ]


def beaten(evaluation: Mapping[str, Any], metric: str) -> list[str]:
    """In words: simple ways that do as well as the model; more of `metric` is better."""
    own = evaluation["metrics"][metric]
    return [
        f"{name} does as well as the model: {metric_name(metric)} is {metric_text(found[metric])}, {metric_text(own)}"
        for name, found in evaluation["baselines"].items()
        if found[metric] >= own
    ]
