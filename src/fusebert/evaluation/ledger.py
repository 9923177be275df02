"""What each modality is worth: every score again without it, with it shuffled between rows, and with it alone."""

from __future__ import annotations

from typing import Any

from fusebert.errors import DataError
from fusebert.evaluation.predictor import Predictor

Ledger = dict[str, dict[str, float]]


def ledger(predictor: Predictor, table: Any) -> Ledger:
    """Metrics by what the model may see, `all` first. Rows left with nothing to read are skipped in a variant,
    and a variant without rows is left out.

    Args:
        table: path of a table, or rows as `Predictor.evaluate` takes them.

    A model with a single modality has only the shuffled variant beside `all`.
    """
    found = {"all": predictor.evaluate(table)["metrics"]}
    names = list(predictor.processors)
    for name in names:
        others = [other for other in names if other != name]
        variants: dict[str, Any] = {}
        if others:
            variants[f"without {name}"] = {"without": [name]}
        variants[f"{name} shuffled"] = {"shuffle": [name]}
        if len(others) > 1:
            variants[f"{name} alone"] = {"without": others}
        for label, change in variants.items():
            try:
                found[label] = predictor.evaluate(table, **change, bad_rows="skip")["metrics"]
            except DataError:  # no row has anything left to read
                continue
    return found
