"""What each modality is worth: every score again without it, with it shuffled between rows, and of every subset."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from fusebert.evaluation.metric_names import metric_name, metric_text, primary_metric
from fusebert.evaluation.predictor import Predictor

Ledger = dict[str, dict[str, float]]
SHUFFLED = " shuffled"
LEAST_ROWS = 50
"""Of fewer, two standard errors are so wide that nearly any score is as good as any other."""
NO_SHARE = 0.01
"""A score that is no share, such as an error, differs where it differs by this part of itself."""


def ledger(predictor: Predictor, table: Any, whole: Mapping[str, float]) -> Ledger:
    """Metrics by what the model may see, `all` first, always of the same rows: one that is left with nothing to read is
    answered from nothing.

    Args:
        table: path of a table, or rows as `Predictor.evaluate` takes them.
        whole: the metrics on these rows as they are.

    With three modalities or more, this scores every subset of them. A model with a single modality has only the
    shuffled variant beside `all`.
    """
    found = {"all": dict(whole)}
    for label, change in variants(list(predictor.processors)):
        found[label] = predictor.evaluate(table, **change)["metrics"]
    return found


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


def warnings(found: Mapping[str, Mapping[str, float]], rows: int, higher_is_better: bool) -> list[str]:
    """In words: modalities that are not used, that say what others say, that mislead, and that do as well alone as all.

    A score in [0, 1] of which more is better is taken for a share of the rows, and is worse where it is so by more than
    two standard errors.

    Args:
        found: of `ledger`.
        rows: that were scored; of fewer than LEAST_ROWS, a variant has to score no less at all.
    """
    metric = primary_metric(found["all"])
    whole = found["all"][metric]
    is_share = higher_is_better and 0 <= whole <= 1
    if is_share:
        margin = max(2 * math.sqrt(whole * (1 - whole) / rows), 1 / rows) if rows >= LEAST_ROWS else 0.0
    else:
        margin = NO_SHARE * abs(whole)
    names = [label.removesuffix(SHUFFLED) for label in found if label.endswith(SHUFFLED)]

    def as_good(label: str, by: float = -margin) -> str | None:
        """Its score, if it is better by so much, by default no worse."""
        score = found.get(label, {}).get(metric)
        if score is None or (score - whole if higher_is_better else whole - score) < by:
            return None
        return f"{metric_name(metric)} is {metric_text(score)}, {metric_text(whole)} with all"

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
        if margin and (score := as_good(f"without {name}", margin)) is not None:
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
