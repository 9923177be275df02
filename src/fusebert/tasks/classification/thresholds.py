"""How large a probability has to be for its label to be the answer: what the F1 of validation rows says."""

from __future__ import annotations

import numpy as np

TRUSTED_ROWS = 500
"""The probabilities themselves count for so many rows: by few rows alone a threshold would be chance."""
PREFERENCES = np.linspace(0, 1, 11)
"""How far rare labels are preferred: 0 is the likeliest label, 1 the one that is likelier than usual by most."""
LEAST = 1e-6


def answers(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """int[B], the label whose probability is largest beside its threshold, from float[B, C] and float[C]."""
    return np.asarray((probabilities / thresholds).argmax(axis=1))


def of_lists(probabilities: np.ndarray, targets: np.ndarray, metric: str) -> np.ndarray:
    """float[C] thresholds of labels that a row has or has not.

    Micro-F1 is highest with one for all, and the mean of the labels' F1 with one for each (Lipton et al. 2014).

    Args:
        probabilities: float[B, C].
        targets: bool[B, C].
        metric: f1_micro or f1_macro.
    """
    shares = _blended(probabilities, targets)
    if metric == "f1_micro":
        return np.full(probabilities.shape[1], _best(probabilities.ravel(), shares.ravel()))
    return np.array([_best(*columns) for columns in zip(probabilities.T, shares.T, strict=True)])


def of_labels(probabilities: np.ndarray, targets: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """float[C] thresholds of labels of which a row has one; they sum up to one, and only their ratios count.

    Of two labels any threshold is tried; of more, powers of their frequencies: a number for each label overfits.

    Args:
        probabilities: float[B, C].
        targets: int[B].
        frequencies: float[C], of the training rows.
    """
    if len(frequencies) == 2:
        if len(np.unique(targets)) < 2:  # rows that lack a label say nothing of where it begins
            return np.array([0.5, 0.5])
        second = _best(probabilities[:, 1], _blended(probabilities[:, 1], targets == 1), both=True)
        return np.array([1 - second, second])
    tried = [frequencies**power / (frequencies**power).sum() for power in PREFERENCES]
    return max(tried, key=lambda thresholds: _expected_f1(probabilities, targets, thresholds))


def _expected_f1(probabilities: np.ndarray, targets: np.ndarray, thresholds: np.ndarray) -> float:
    """Mean over labels, with targets blended as by `_blended`."""
    labels, trust = len(thresholds), TRUSTED_ROWS / (TRUSTED_ROWS + len(targets))
    given = answers(probabilities, thresholds)
    chosen = np.take_along_axis(probabilities, given[:, None], axis=1)[:, 0]
    right = trust * chosen + (1 - trust) * (given == targets)
    wanted = trust * probabilities.sum(axis=0) + (1 - trust) * np.bincount(targets, minlength=labels)
    found = np.bincount(given, minlength=labels)
    return float((2 * np.bincount(given, right, minlength=labels) / np.maximum(found + wanted, LEAST)).mean())


def _blended(probabilities: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What is right, as a share: of few rows mostly what the model says, of many mostly the targets."""
    trust = TRUSTED_ROWS / (TRUSTED_ROWS + len(targets))
    return np.asarray(trust * probabilities + (1 - trust) * targets)


def _best(probabilities: np.ndarray, shares: np.ndarray, both: bool = False) -> float:
    """The threshold of the highest F1, halfway between two probabilities.

    Args:
        probabilities: float[N].
        shares: float[N], how far each is right.
        both: the mean of the F1 of yes and of no.
    """
    order = np.argsort(-probabilities, kind="stable")
    ordered, right = probabilities[order], np.cumsum(shares[order])
    said = np.arange(1, len(ordered) + 1)  # yes to so many
    score = 2 * right / (said + right[-1])
    if both:
        rest = len(ordered) - said
        wrong = rest - (right[-1] - right)
        score = score + 2 * wrong / np.maximum(rest + len(ordered) - right[-1], LEAST)
    below = np.append(ordered[1:], 0.0)
    place = int(np.where(ordered > below, score, -1).argmax())
    return float(np.clip((ordered[place] + below[place]) / 2, LEAST, 1 - LEAST))
