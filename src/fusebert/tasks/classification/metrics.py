"""Scores of classifiers, by scikit-learn, and the tables behind the plots."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix, f1_score, precision_recall_fscore_support, roc_auc_score

CALIBRATION_BINS = 10


def single_label(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[Any]) -> dict[str, Any]:
    """Metrics of one-label answers.

    Args:
        probabilities: float[B, C].
        targets: int[B], -1 for a label that has no class.
    """
    predicted = probabilities.argmax(axis=1)
    classes = list(range(len(labels)))
    confidence, right = probabilities.max(axis=1), predicted == targets
    bins = _calibration(confidence, right)
    error = sum(row["rows"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / len(targets)
    seen = np.unique(targets[targets >= 0])
    scores = {
        "accuracy": float(right.mean()),
        "f1_macro": float(f1_score(targets, predicted, labels=seen, average="macro", zero_division=0)) if len(seen) else 0.0,
    }
    scores |= _auroc(probabilities[:, 1:] if len(labels) == 2 else probabilities, _one_hot(targets, len(labels)))
    scores["expected_calibration_error"] = error
    return {
        "metrics": scores,
        "per_class": _per_class(targets, predicted, classes, labels),
        "confusion": {"labels": list(labels), "counts": confusion_matrix(targets, predicted, labels=classes).tolist()}
        if len(seen)
        else None,
        "calibration": bins,
    }


def multi_label(probabilities: np.ndarray, targets: np.ndarray, labels: Sequence[Any]) -> dict[str, Any]:
    """Metrics of any-number-of-labels answers; `probabilities` and `targets` are float[B, C]."""
    predicted, wanted = probabilities >= 0.5, targets >= 0.5
    scores = {
        "f1_micro": float(f1_score(wanted, predicted, average="micro", zero_division=0)),
        "f1_macro": float(f1_score(wanted, predicted, average="macro", zero_division=0)),
        "accuracy": float((predicted == wanted).all(axis=1).mean()),
    }
    scores |= _auroc(probabilities, wanted)
    return {"metrics": scores, "per_class": _per_class(wanted, predicted, list(range(len(labels))), labels)}


def _one_hot(targets: np.ndarray, classes: int) -> np.ndarray:
    wanted = targets[:, None] == np.arange(classes)
    return wanted[:, 1:] if classes == 2 else wanted


def _auroc(scores: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve, mean over the classes that have both kinds of rows; absent when none has."""
    usable = [c for c in range(scores.shape[1]) if 0 < wanted[:, c].sum() < len(wanted)]
    if not usable:
        return {}
    return {"auroc": float(np.mean([roc_auc_score(wanted[:, c], scores[:, c]) for c in usable]))}


def _per_class(targets: np.ndarray, predicted: np.ndarray, classes: list[int], labels: Sequence[Any]) -> list[dict[str, Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = precision_recall_fscore_support(targets, predicted, labels=classes, zero_division=0)
    return [
        {"label": label, "precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for label, p, r, f, n in zip(labels, *table, strict=True)
    ]


def _calibration(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    place = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        {
            "confidence": float(confidence[place == number].mean()),
            "accuracy": float(right[place == number].mean()),
            "rows": int((place == number).sum()),
        }
        for number in range(CALIBRATION_BINS)
        if (place == number).any()
    ]
