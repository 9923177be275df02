"""What each modality is worth: every score again without it, with it shuffled between rows, and of every subset."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from fusebert.evaluation.metric_names import STANDARD_ERROR, metric_name, metric_text, primary_metric
from fusebert.tasks.base import Task

Ledger = dict[str, dict[str, float]]
Outputs = tuple[np.ndarray, np.ndarray]
"""Logits and targets."""
SHUFFLED, CHANCE = " shuffled", "chance_"
LEAST_ROWS = 50
"""Of fewer, two standard errors are so wide that nearly any score is as good as any other."""
GROUPS, FEWEST_GROUPS = 20, 5
"""Of rows, for the standard error; of fewer it would be chance itself."""
MOST_LOGITS = 2**25
"""About so many, of things drawn at random, tell how far a difference is chance: more would take long, and memory."""
LEFT_OUT = -1


def ledger(
    task: Task,
    logits: np.ndarray,
    targets: np.ndarray,
    changed: Iterable[tuple[str, Outputs]],
    things: Sequence[Any] | None = None,
) -> Ledger:
    """Metrics by what the model may see, `all` first, always of the same rows: one that is left with nothing to read is
    answered from nothing. The others also have the `standard_error` of their primary metric's difference from `all`,
    unless the rows are fewer than LEAST_ROWS, or about too few things.

    Args:
        logits, targets: of the rows as they are, as the task's `evaluate` takes them.
        changed: by their labels, those of each of the `variants`.
        things: what each row is about, such as its picture: rows about one thing are right or wrong together. None
            where each is about another.

    With three modalities or more, this scores every subset of them. A model with a single modality has only the
    shuffled variant beside `all`.
    """
    found = {"all": task.evaluate(logits, targets)["metrics"]}
    most = len(logits) if hasattr(task, "score_rows") else MOST_LOGITS // max(1, logits[0].size)
    group = _groups(range(len(logits)) if things is None else things, most)
    known = len(targets) >= LEAST_ROWS and group.max() + 1 >= FEWEST_GROUPS
    whole = _scores_without_a_group(task, logits, targets, group) if known else None
    share = (group != LEFT_OUT).mean()
    for label, (logits, targets) in changed:
        found[label] = task.evaluate(logits, targets)["metrics"]
        if whole is not None:
            error = _jackknife_error(_scores_without_a_group(task, logits, targets, group) - whole)
            if math.isfinite(error):
                found[label][STANDARD_ERROR] = error * math.sqrt(share)
    return found


def _groups(things: Iterable[Any], most: int) -> np.ndarray:
    """int64[B], the group of each row: things are dealt out at random to GROUPS groups, with all of their rows; those
    beyond about `most` rows are LEFT_OUT."""
    numbers: dict[Any, int] = {}
    number = np.array([numbers.setdefault(thing, len(numbers)) for thing in things], dtype=np.int64)
    place = np.random.default_rng(0).permutation(len(numbers))[number]
    return np.where(place < most / len(number) * len(numbers), place % GROUPS, LEFT_OUT)


def _scores_without_a_group(task: Task, logits: np.ndarray, targets: np.ndarray, group: np.ndarray) -> np.ndarray:
    """The primary metric float[groups] without each group of rows in turn."""
    kept = [(group != one) & (group != LEFT_OUT) for one in range(group.max() + 1)]
    if hasattr(task, "score_rows"):
        scores = task.score_rows(logits, targets)
        return np.array([np.nanmean(scores[rows]) for rows in kept])
    score = getattr(task, "score", lambda *rows: task.evaluate(*rows)["metrics"].get(task.primary_metric, math.nan))
    return np.array([score(logits[rows], targets[rows]) for rows in kept])


def _jackknife_error(found: np.ndarray) -> float:
    """The standard error of a value from those with one group left out each (Efron & Tibshirani 1993, eq. 11.5)."""
    return float(np.sqrt((len(found) - 1) / len(found) * np.square(found - found.mean()).sum()))


def variants(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is scored again of modalities with these names: a label, and arguments of `TrainedModel.evaluate`."""
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
    of few rows, is as good where it is no worse at all. Between one and two, the rows do not tell, and that is said.

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
        known_to = found[label].get(STANDARD_ERROR)
        error = f", a difference known to ±{metric_text(2 * known_to)}" if known_to else ""
        return f"{metric_name(metric)} is {metric_text(found[label][metric])}, {metric_text(whole)} with all{error}"

    def as_good(label: str) -> tuple[bool, str] | None:
        """Whether that is sure, and in words; None where it is worse."""
        known = lead(label)
        return (known[0] >= -known[1] / 2, said_of(label)) if known and known[0] >= -known[1] else None

    def better(label: str) -> str | None:
        known = lead(label)
        return said_of(label) if known and STANDARD_ERROR in found[label] and known[0] > known[1] else None

    def alone(name: str) -> tuple[bool, str] | None:
        others = [other for other in names if other != name]
        return as_good(f"without {others[0]}" if len(others) == 1 else f"{name} alone") if others else None

    unused = {name: verdict for name in names if (verdict := as_good(f"{name}{SHUFFLED}"))}
    enough = {name: verdict for name in names if (verdict := alone(name))}
    said = []
    for name in names:
        if name in unused:
            sure, score = unused[name]
            line = f"{name} is {'not used' if sure else 'not shown to be used'}"
            if name in enough:
                line += ", as others say the same or nothing is learned"
            line += f": dealt out to other rows, {score}"
            said.append(line + (f"; alone, {enough[name][1]}" if name in enough else ""))
        if misled := better(f"without {name}"):
            said.append(f"{name} misleads: without it, {misled}")
    for name in names:
        if name in enough.keys() - unused:
            sure, score = enough[name]
            said.append(f"{name} alone {'does' if sure else 'may do'} at least as well as all together: {score}")
    return said


def guessing(evaluation: Mapping[str, Any]) -> list[str]:
    """In words: a share of right answers that is within two standard errors of what chance gives, `chance_...`."""
    asked, metrics = evaluation.get("queries", evaluation["rows"]), evaluation["metrics"]
    chances = {name.removeprefix(CHANCE): chance for name, chance in metrics.items() if name.startswith(CHANCE)}
    return [
        f"no better than chance: {metric_name(name)} is {metric_text(metrics[name])}, by chance {metric_text(chance)}"
        for name, chance in chances.items()
        if metrics[name] <= chance + 2 * math.sqrt(chance * (1 - chance) / asked)
    ]


def beaten(evaluation: Mapping[str, Any], metric: str) -> list[str]:
    """In words: simple ways that do as well as the model; more of `metric` is better."""
    own = evaluation["metrics"].get(metric)
    if own is None:
        return []
    return [
        f"{name} does {'better than' if found[metric] > own else 'as well as'} the model: {metric_name(metric)} is "
        f"{metric_text(found[metric])}, the model's {metric_text(own)}"
        for name, found in evaluation["baselines"].items()
        if found[metric] >= own
    ]
