"""A look at tables before anything is trained on them: rows that cannot be used, and what else may be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusebert import plugins
from fusebert.config import Recipe
from fusebert.data.columns import IGNORE, ColumnGuess, by_side, column_names, guess_columns
from fusebert.data.tables import read_table
from fusebert.doctor import media, rows
from fusebert.doctor.events import check_events
from fusebert.doctor.finding import Finding, Splits
from fusebert.doctor.folder import find_tables
from fusebert.errors import DataError, RowError, UsageError
from fusebert.tasks.fit import fit_task, only_sides, pick_target, preparers, refuse_ambiguous, without_target
from fusebert.tasks.recommendation.config import Config as EventConfig
from fusebert.types import TEXT, Sample

PROBLEMS_LISTED = 1000
RECOMMENDATION, PRETRAINING = "recommendation", "pretraining"
EVENT_COLUMNS = {EventConfig().user, EventConfig().item}


def check(
    source: Path,
    target: str | None,
    strict: bool,
    against: Sequence[Path] = (),
    settings: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], list[Finding]]:
    """What each column is, every row that cannot be used, and what may be wrong although all can be read.

    Args:
        source: a table of rows to train on; or a folder of tables named train, val, test, or alike.
        target: the column to predict; else `data.target` of the settings.
        against: tables that are to be scored.
        settings: of a recipe, such as `data.columns.x` or `audio.max_seconds`, as training will have them; tables that
            they name are looked at as those to be scored.

    Returns:
        `notes` (how the source was read), `rows`, `bad_rows`, `target`, `columns` (column, kind, why, ambiguous; the
        target's kind is its task), `problems` (table, row, line, column, problem; the first 1000) and `findings`; and
        the findings as such.
    """
    recipe = Recipe.from_flat(dict(settings or {}) | ({} if target is None else {"data.target": target}))
    target = recipe.data.target
    if recipe.data.train is not None:
        raise UsageError(f"data.train={recipe.data.train}, and {source} is to be looked at; name one of them")
    named = [recipe.table(path) for path in (recipe.data.validation, recipe.data.test) if isinstance(path, Path)]
    given = {path.resolve() for path in against}
    tables, notes = find_tables(source, [*against, *(path for path in named if path.resolve() not in given)])
    if recipe.task.get("name") == RECOMMENDATION:
        if target is not None or recipe.data.columns:
            what = "the target" if target is not None else "data.columns"
            raise UsageError(f"{what} is given, but task.name={RECOMMENDATION} reads task.user, task.item, task.time")
        config = recipe.task_config()
        notes += [] if config.time else ["task.time is not set: events are taken in the order of the rows"]
        total, guesses, problems, findings = check_events(tables, config)
        return _told(notes, total, target, guesses, problems, findings), findings
    read = {name: list(read_table(table)) for name, table in tables.items()}
    problems = [row for found in read.values() for row in found if isinstance(row, RowError)]
    splits = {name: [row for row in found if isinstance(row, Sample)] for name, found in read.items()}
    name, samples = next(iter(splits.items()))
    own = [problem for problem in problems if problem.table == tables[name]]
    if not samples:
        raise own[0] if own else DataError(f"{tables[name]} has no rows")
    task = without_target(recipe)
    if target is not None:
        pick_target(target, samples)
    kinds = dict(recipe.data.columns)
    if target is not None and recipe.task.get("name") == PRETRAINING:  # which leaves it alone
        kinds[target], target = IGNORE, None
    guesses, settled = [], []
    try:
        guesses = guess_columns(samples, target, kinds)
        if target is not None:
            guess, task = fit_task(recipe, target, samples)
            settled = [guess]
    except DataError as error:
        raise (own[0] if own else error) from None  # rows that were lost may be the reason
    if target is None and set(column_names(samples)) >= EVENT_COLUMNS:
        notes.append(f"if each row is an event, look at it for a recommender with task.name={RECOMMENDATION}")
    if getattr(task, "sides", ()):
        guesses = only_sides(guesses, task, samples)
    modalities = {
        kind: [guess.column for guess in guesses if guess.kind == kind]
        for kind in sorted({guess.kind for guess in guesses} - {IGNORE})
    }
    trunk = _trunk(recipe, settings or {})
    processors, asked = {}, by_side(samples, getattr(task, "sides", ()))
    for kind, columns in modalities.items():
        half = plugins.load("modalities", kind, "processor")
        processors[kind] = half.Processor.fit(recipe.modality_config(kind), columns, samples, trunk)
        notes += processors[kind].doubts(asked) if hasattr(processors[kind], "doubts") else []
    if strict:
        refuse_ambiguous(guesses, settled)
    guesses += settled
    asking, learning = preparers(processors, task, target)
    made = ((learning if split == name else asking)(sample) for split, found in splits.items() for sample in found)
    problems += [one for one in made if isinstance(one, RowError)]
    order = list(tables.values())
    problems.sort(key=lambda problem: (order.index(problem.table), problem.row))
    findings = list(_examine(splits, modalities, guesses, target))
    return _told(notes, sum(map(len, read.values())), target, guesses, problems, findings), findings


def _trunk(recipe: Recipe, settings: Mapping[str, Any]) -> Path | None:
    """The folder of a trunk that is named, whose vocabulary reads the text."""
    if "model.trunk" not in settings:
        return None
    from fusebert.model.pretrained import find_trunk  # torch, which nothing else here needs

    return find_trunk(recipe.model.trunk)


def _told(
    notes: Sequence[str],
    total: int,
    target: str | None,
    guesses: Sequence[ColumnGuess],
    problems: Sequence[RowError],
    findings: Sequence[Finding],
) -> dict[str, Any]:
    columns = [
        {"column": guess.column, "kind": guess.kind, "why": guess.why, "ambiguous": guess.ambiguous}
        for guess in guesses
    ]
    return {
        "notes": list(notes),
        "rows": total,
        "bad_rows": len(problems),
        "target": target,
        "columns": columns,
        "problems": [problem.to_json() for problem in problems[:PROBLEMS_LISTED]],
        "findings": [finding.to_json() for finding in findings],
    }


def _examine(
    splits: Splits, modalities: Mapping[str, Sequence[str]], guesses: Sequence[ColumnGuess], target: str | None
) -> Iterator[Finding]:
    """Everything that may be wrong, the worst kinds first."""
    inputs = [column for columns in modalities.values() for column in columns]
    every = [guess.column for guess in guesses if guess.column != target]
    task = guesses[-1].kind if target is not None else None
    texts = modalities.get(TEXT, [])
    for column in modalities.get("image", []):
        yield from media.examine_pictures(splits, column)
    for column in modalities.get("audio", []):
        yield from media.examine_sounds(splits, column)
    if texts and not {"image", "audio", "events"} & set(modalities):  # else the same question may be asked of others
        yield from rows.copied_texts(splits, texts, text_alone=set(modalities) == {TEXT})
    told = rows.inputs_of(splits, inputs, [*modalities.get("image", []), *modalities.get("audio", [])])
    yield from rows.copied_rows(splits, inputs, told, table_alone=set(modalities) == {"table"})
    yield from rows.people_on_both_sides(splits, every)
    if target is not None:
        yield from rows.giveaways(splits, [*modalities.get("table", []), *texts], target)
        yield from rows.label_leaks(splits, texts, target)
        if task == "classification":
            yield from rows.contradictions(splits, told, target)
            yield from rows.imbalance(splits, target)
        if task == "regression":
            yield from rows.far_targets(splits, target)
    yield from rows.constant_columns(splits, inputs)
    yield from rows.running_numbers(splits, modalities.get("table", []))
    yield from rows.absent_columns(splits, inputs)
    yield from rows.repeated_ids(splits, every)
