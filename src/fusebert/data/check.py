"""A look at a table before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusebert import plugins
from fusebert.data.columns import IGNORE, column_names, guess_columns, guess_task
from fusebert.data.dataset import Preparer
from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, RowError, UsageError
from fusebert.types import Sample

PROBLEMS_LISTED = 1000


def check_table(table: Path, target: str | None, strict: bool) -> dict[str, Any]:
    """What each column is, and every row that cannot be used, with the reason.

    Returns:
        `rows`, `bad_rows`, `columns` (column, kind, why, ambiguous; the target's kind is its task) and `problems`
        (row, column, problem; the first 1000).
    """
    rows = list(read_table(table))
    samples = [row for row in rows if isinstance(row, Sample)]
    problems = [row for row in rows if isinstance(row, RowError)]
    if not samples:
        raise problems[0] if problems else DataError(f"{table} has no rows")
    if target is not None and target not in column_names(samples):
        raise UsageError(f"the target column {target!r} does not exist; {table} has {', '.join(column_names(samples))}")
    guesses = guess_columns(samples, target, {})
    processors = {}
    for name in sorted({guess.kind for guess in guesses} - {IGNORE}):
        half = plugins.load("modalities", name, "processor")
        columns = [guess.column for guess in guesses if guess.kind == name]
        processors[name] = half.Processor.fit(half.Config(), columns, samples, None)
    if target is not None:
        targets = [sample.values[target] for sample in samples if sample.values.get(target) not in (None, "")]
        if not targets:
            raise DataError(f"{table}: no row has a value in the target column {target!r}")
        guesses.append(guess_task(target, targets))
    doubtful = [str(guess) for guess in guesses if guess.ambiguous]
    if strict and doubtful:
        raise UsageError(f"--strict: {'; '.join(doubtful)}")
    preparer = Preparer(processors)
    for sample in samples:
        made = preparer(sample)
        if isinstance(made, RowError):
            problems.append(made)
        elif target is not None and (found := _target_problem(sample, target, guesses[-1].kind)):
            problems.append(found)
    problems.sort(key=lambda problem: problem.row)
    listed = [{"row": p.row, "column": p.column, "problem": p.problem} for p in problems[:PROBLEMS_LISTED]]
    columns_found = [
        {"column": guess.column, "kind": guess.kind, "why": guess.why, "ambiguous": guess.ambiguous}
        for guess in guesses
    ]
    return {"rows": len(rows), "bad_rows": len(problems), "columns": columns_found, "problems": listed}


def _target_problem(sample: Sample, target: str, kind: str) -> RowError | None:
    raw = sample.values.get(target)
    if raw in (None, ""):
        return RowError("the target is empty", sample.table, sample.row, target)
    try:
        plugins.load("tasks", kind, "task").Task.read(raw)
    except InputError as error:
        return RowError(str(error), sample.table, sample.row, target)
    return None
