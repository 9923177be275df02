"""What each modality is worth: every score again without it, with it shuffled between rows, and with it alone."""

from __future__ import annotations

from typing import Any

from fusebert.evaluation.predictor import Predictor

Ledger = dict[str, dict[str, float]]


def ledger(predictor: Predictor, table: Any) -> Ledger:
    """Metrics by what the model may see, `all` first. Rows left with nothing to read are skipped in a variant.

    Args:
        table: path of a table, or rows as `Predictor.evaluate` takes them.

    A model with a single modality has only the shuffled variant beside `all`.
    """
    found = {"all": predictor.evaluate(table)["metrics"]}
    names = list(predictor.processors)
    for name in names:
        others = [other for other in names if other != name]
        if others:
            found[f"without {name}"] = predictor.evaluate(table, without=[name], bad_rows="skip")["metrics"]
        found[f"{name} shuffled"] = predictor.evaluate(table, shuffle=[name], bad_rows="skip")["metrics"]
        if len(others) > 1:
            found[f"{name} alone"] = predictor.evaluate(table, without=others, bad_rows="skip")["metrics"]
    return found
