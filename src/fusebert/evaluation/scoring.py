"""A model's outputs on rows with targets, as they are or with modalities taken away or dealt out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, tee
from pathlib import Path
from typing import Any

import numpy as np

from fusebert.data.dataset import NO_SUCH_COLUMN, Dataset, Lost, Preparer, lost_errors, report_bad_rows, without_lost
from fusebert.data.rows import rows_of
from fusebert.data.tables import Rows
from fusebert.errors import GIVEN_TABLE, DataError, RowError, UsageError
from fusebert.evaluation.changed_examples import changed_examples
from fusebert.evaluation.changed_rows import Seen, hidden, shuffled
from fusebert.evaluation.inference import infer_all
from fusebert.evaluation.predictor import Predictor
from fusebert.evaluation.unfamiliar import Unfamiliar
from fusebert.types import Sample


def outputs(
    predictor: Predictor,
    table: Any,
    without: Any = (),
    shuffle: Any = (),
    known: Any = (),
    bad_rows: str = "refuse",
    listed_in: Path | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """What `evaluate` scores: logits and targets as the task's `evaluate` takes them, and what else it tells."""
    rows = rows_of(table)
    without, shuffle, known = map(_several, (without, shuffle, known))
    if bad_rows not in ("refuse", "skip", "blank"):
        raise UsageError(f"bad_rows={bad_rows!r} is none of 'refuse', 'skip' and 'blank'")
    _check_modalities(predictor, without, shuffle)
    if hasattr(predictor.task, "questions"):
        rows = predictor.task.questions(rows, [rows_of(one) for one in known])
    elif known:
        raise UsageError(f"only a recommender reads what is known; the task of this model is {predictor.task.name}")
    unfamiliar = Unfamiliar(predictor.processors)
    rows = unfamiliar.watch(rows)
    seen, lost = Seen(stop_at_bad=bad_rows == "refuse"), Lost() if bad_rows == "blank" else None
    if without or shuffle:
        rows = _usable(predictor, rows, seen, lost)
    rows, true = tee(rows)
    if shuffle:
        rows = shuffled(list(rows), dealt_out(predictor, shuffle))
    if without:
        rows = hidden(rows, [column for column, name in predictor.columns.items() if name in without])
    bare = bool(without or shuffle)  # of rows that were looked at above
    preparer = Preparer(
        predictor.processors, predictor.task, predictor.target, predictor.sides, bare=bare, lost=None if bare else lost
    )
    examples = seen.examples(zip(rows, true, strict=True), preparer)
    first, bad = next(examples, None), seen.bad
    if first is None:
        where = table if isinstance(table, str | Path) else GIVEN_TABLE
        if bad and all((error.column, error.problem) == (predictor.target, NO_SUCH_COLUMN) for error in bad):
            raise UsageError(
                f"{where} has no column {predictor.target!r} to compare the answers with; predict needs none"
            )
        report_bad_rows(bad, seen.rows, bad_rows, listed_in, lost)
        raise DataError(f"{where} has no rows")
    logits, targets = infer_all(predictor.model, chain([first], examples), predictor.collator, predictor.precision)
    report_bad_rows(bad, seen.rows, bad_rows, listed_in, lost)
    counts = {"bad_rows": len(bad), "lost_values": len(lost_errors(lost))}
    return logits, targets, {name: count for name, count in counts.items() if count} | unfamiliar.columns


def changed_outputs(
    predictor: Predictor, rows: Dataset, without: Sequence[str] = (), shuffle: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The logits and targets that `outputs` gives of such rows, which were checked; what is kept of them is not
    prepared again."""
    preparer = Preparer(predictor.processors, predictor.task, predictor.target, predictor.sides, bare=True)
    examples = changed_examples(rows, preparer, without, dealt_out(predictor, shuffle))
    return infer_all(predictor.model, examples, predictor.collator, predictor.precision)


def _check_modalities(predictor: Predictor, without: Sequence[str], shuffle: Sequence[str]) -> None:
    """Raises UsageError where they cannot be taken away and dealt out."""
    for name in [*without, *shuffle]:
        if not isinstance(name, str) or name not in predictor.processors:
            raise UsageError(f"{name!r:.60} is not a modality of this model; it has {', '.join(predictor.processors)}")
    if both := set(without) & set(shuffle):
        raise UsageError(f"{', '.join(sorted(both))} cannot be taken away and dealt out at once")
    if set(without) == set(predictor.processors):
        raise UsageError(f"without {', '.join(without)} the model reads nothing")


def _usable(predictor: Predictor, rows: Rows, seen: Seen, lost: Lost | None) -> Rows:
    """The rows that are scored as they are: the same ones count when something is taken away or dealt out."""
    preparer = Preparer(predictor.processors, predictor.task, predictor.target, predictor.sides, lost=lost)
    for row in rows:
        made = preparer(row)
        if isinstance(made, RowError):
            seen.add_bad(made)
        elif isinstance(row, Sample):
            yield without_lost(row, lost)


def dealt_out(predictor: Predictor, modalities: Sequence[str]) -> list[str]:
    """Their columns; of a model with two sides those of one, as both together would still belong to each other."""
    columns = [column for column, name in predictor.columns.items() if name in modalities]
    of_sides = ([column for column in columns if column in side] for side in predictor.sides)
    return next(filter(None, of_sides), columns)


def _several(given: Any) -> list[Any]:
    """A list, also where one thing stands for it."""
    if not hasattr(given, "__iter__") and not isinstance(given, Path):
        raise UsageError(f"a name, a table, or a list of them expected, found {type(given).__name__}")
    is_table = hasattr(given, "to_dict") or hasattr(given, "to_pylist")  # of pandas, polars; of pyarrow
    alone = isinstance(given, str | bytes | Path | Mapping) or is_table
    return [given] if alone else list(given)
