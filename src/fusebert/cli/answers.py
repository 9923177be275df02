"""The commands of a trained model: `evaluate`, `predict`."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from fusebert.cli.common import (
    Command,
    add_bad_rows,
    check_output,
    give_answers,
    load_model,
    nothing,
    number,
    plain,
    print_line,
    print_table,
    row_of,
    say,
    warn_of_columns,
)
from fusebert.errors import RowError, UsageError, row_in_words
from fusebert.evaluation.metric_names import decision_in_words, untold
from fusebert.storage import METRICS, read_json

MANY_WITHOUT_HISTORY = 0.2
"""Share of questions: of whole histories it is far less, since each has only one first event."""


def add_commands(command: Command) -> None:
    """Add them to the command line."""
    evaluate = command("evaluate", _evaluate, "Score a model on a table with targets.")
    evaluate.add_argument("folder", metavar="FOLDER", type=Path)
    evaluate.add_argument("table", metavar="TABLE", type=Path)
    evaluate.add_argument("--without", metavar="MODALITY", action="append", default=[], help="take a modality away")
    evaluate.add_argument(
        "--shuffle", metavar="MODALITY", action="append", default=[], help="deal a modality out to other rows"
    )
    known = "tables of events that came before, for a recommender; they are not scored"
    evaluate.add_argument("--known", metavar="TABLE", type=Path, nargs="+", default=[], help=known)
    _add_threshold(evaluate)
    add_bad_rows(evaluate, "blank")

    predict = command("predict", _predict, "Answer each row of a table, or one row given as --COLUMN VALUE.")
    predict.add_argument("folder", metavar="FOLDER", type=Path)
    options = "[--output FILE.jsonl] [--keep COLUMN] [--top K] [--among TABLE] [--threshold P] [--bad-rows skip|blank]"
    predict.usage = f"fusebert predict FOLDER (TABLE | --COLUMN VALUE ...) {options} [--json]"
    predict.add_argument(
        "--output", metavar="FILE.jsonl", type=Path, help="where the answers of a table go (default: stdout)"
    )
    predict.add_argument(
        "--keep",
        metavar="COLUMN",
        action="append",
        default=["id"],
        help="write this column of the table beside each answer, as `id` is (`answer` itself as given_answer); may be "
        "given again",
    )
    predict.add_argument("--top", metavar="K", type=int, default=1, help="list the K likeliest labels")
    among = "recommend only items of this table, such as those in stock; it names them as the training events do"
    predict.add_argument("--among", metavar="TABLE", type=Path, help=among)
    _add_threshold(predict)
    add_bad_rows(predict, "blank")

    extend = command("extend", _extend, "Let a recommender recommend items that came after its training.")
    extend.add_argument("folder", metavar="MODEL", type=Path)
    extend.add_argument("table", metavar="CATALOGUE", type=Path, help="the items, as task.catalogue describes them")
    extend.add_argument("--output", metavar="FOLDER", type=Path, required=True, help="of the new model")


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    said = "answer with the second of two labels, or with each label of lists, from this probability on"
    parser.add_argument("--threshold", metavar="P", type=float, help=f"{said} (default: what validation rows chose)")


def _loaded(options: argparse.Namespace) -> Any:
    """The model, answering from the threshold that was given, if any."""
    predictor = load_model(options.folder)
    return predictor if options.threshold is None else predictor.answering_from(options.threshold)


def _extend(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    predictor = load_model(options.folder)
    extended = predictor.with_items(options.table)
    extended.save(options.output)
    known, added = len(predictor.task.items), len(extended.task.items) - len(predictor.task.items)
    say(
        f"{added:,} items are new; the {known:,} that {options.folder} knows are as before. Written to {options.output}"
    )
    return {"added": added, "items": known + added, "output": str(options.output)}


def _among(predictor: Any, table: Path | None) -> list[str] | None:
    """The items of a table, by name."""
    if table is None:
        return None
    if not hasattr(predictor.task, "allowed"):
        raise UsageError(f"--among is for a recommender; {predictor.folder} answers with {predictor.task.name}")
    from fusebert.data.tables import read_table
    from fusebert.evaluation.catalogue import item_names

    items = item_names(read_table(table), predictor.task.config.item)
    known = set(predictor.task.items)
    if unknown := [name for name in items if name not in known]:
        more = f"{len(unknown):,} of {len(items):,} items of {table}"
        say(f"Warning: the model does not know {more}, such as {unknown[0]!r}; `fusebert extend` teaches it")
    return items


def _evaluate(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    if options.table.resolve() in [table.resolve() for table in options.known]:
        raise UsageError(f"{options.table} is what is scored; leave it out of --known")
    if len({table.resolve() for table in options.known}) < len(options.known):
        raise UsageError("--known names a table twice, whose events would count twice")
    listed_in = _list_of(options.table)
    predictor = _loaded(options)
    found: dict[str, Any] = predictor.evaluate(
        options.table,
        without=options.without,
        shuffle=options.shuffle,
        known=options.known,
        bad_rows=options.bad_rows,
        listed_in=listed_in,
    )
    print_table(f"{found['rows']} rows", {str(options.table): found["metrics"]})
    for line in untold(found["metrics"], predictor.task.primary_metric, options.table.name):
        say(f"Warning: {line}")
    if decision := decision_in_words(found, options.table.name):
        say(f"Note: {decision}")
    listed = f"listed in {listed_in}" if listed_in.exists() else f"not listed, as {listed_in} cannot be written"
    if bad := found.get("bad_rows"):
        say(f"Warning: {bad} other rows cannot be used and are skipped; they are {listed}")
    if values := found.get("lost_values"):
        say(f"Warning: {values} values cannot be read and are left out of their rows; they are {listed}")
    if (lost := found.get("without_history", 0)) > MANY_WITHOUT_HISTORY * found["rows"]:
        say(f"Note: {lost} of {found['rows']} questions have no history; name tables of events before with --known")
    if asked := found.get("queries"):
        say(f"Note: {asked:,} of {found['rows']:,} rows, drawn at random, sought their other side among all of them")
    if unseen := found.get("unseen_labels"):
        say(f"Warning: {unseen} labels do not occur in the training rows; answers to them count as wrong")
    warn_of_columns(found)
    _say_baselines(options.folder / METRICS)
    return found


def _list_of(table: Path) -> Path:
    """The file here that lists a table's bad rows: not one that lists another's of the same name, or anything else."""
    names = (f"{table.name}{f'-{number}' if number > 1 else ''}.bad_rows.jsonl" for number in count(1))
    return next(path for path in map(Path, names) if not path.exists() or _listed_table(path) == str(table))


def _listed_table(path: Path) -> str | None:
    try:
        with path.open(encoding="utf-8") as file:
            return str(json.loads(file.readline())["table"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _say_baselines(path: Path) -> None:
    """Simple ways need the training events, which a model folder does not keep; it keeps what they scored."""
    evaluations = read_json(path)["evaluations"] if path.is_file() else {}
    for name, found in list(evaluations.items())[-1:]:
        if "baselines" in found:
            metric = next(iter(found["metrics"]))
            scores = ", ".join(f"{way} {number(its[metric])}" for way, its in found["baselines"].items())
            say(f"Note: simple ways are scored in training only; their {metric} on its {name} part: {scores} ({path})")


def _predict(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    if options.top < 1:
        raise UsageError(f"--top must be at least 1, not {options.top}")
    predictor = _loaded(options)
    if not rest or rest[0].startswith("-"):  # argparse of different Pythons would take a VALUE for the TABLE
        return _answer(predictor, options, rest)
    table, *more = rest
    nothing(more)
    check_output(options.output, Path(table))
    counts: dict[str, Any] = {"rows": 0, "bad_rows": 0}
    lines = _answers(predictor, Path(table), options, counts)
    return give_answers(lines, options, counts)


def _answer(predictor: Any, options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    """Of one row, given as --COLUMN VALUE."""
    if options.keep != ["id"]:
        raise UsageError("--keep is for the columns of a table")
    if options.output is not None:
        raise UsageError("--output is for the answers of a table; that of one row goes to stdout")
    row = row_of(rest, predictor.columns)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        answer: dict[str, Any] = predictor.predict(row, options.top, _among(predictor, options.among)).to_json()
    for one in said:
        say(f"Warning: {one.message}")
    if not options.json:
        print_line(answer)
    return answer


def _answers(
    predictor: Any, table: Path, options: argparse.Namespace, counts: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Of each row of a table, in order; rows are counted as they come."""
    from fusebert.evaluation.unfamiliar import Unfamiliar

    strange, first, unfamiliar = 0, "", Unfamiliar(predictor.processors)
    keep = [*options.keep, *([predictor.task.config.user] if hasattr(predictor.task, "histories") else [])]
    kept = {*keep} - {*options.keep[1:]}
    lost: dict[Any, dict[str, RowError]] | None = {} if options.bad_rows == "blank" else None
    among = _among(predictor, options.among)
    for row, answer in predictor.answers(unfamiliar.watch(predictor.asked(table)), options.top, lost, among):
        counts["rows"] += 1
        left_out = list((lost or {}).pop((str(row.table), row.row), {}).values())
        for error in left_out:
            say(f"left out: {error}")
        place = {"row": row.row}
        if isinstance(answer, RowError):
            if options.bad_rows == "refuse":
                raise answer
            counts["bad_rows"] += 1
            say(f"skipped: {answer}")
            yield place | {"error": answer.problem}
            continue
        if unknown := predictor.unknown_items(row)[0]:
            strange, first = strange + 1, first or f"{unknown[0]!r} in {row_in_words(row.row, row.line)}"
        found = answer.to_json() | ({"left_out": [error.column for error in left_out]} if left_out else {})
        own = {name: plain(row.values[name]) for name in keep if name in row.values}
        kept.update(own)
        own = {f"given_{name}" if name in {*place, *found} else name: value for name, value in own.items()}
        yield place | own | found
    if strange:
        say(f"Warning: {strange} of {counts['rows']} rows have items that the model does not know: first {first}")
    if not counts["rows"]:
        say(f"Note: {table} has no rows")
    elif absent := [name for name in options.keep if name not in kept]:
        of_users = "; the answer for a user has only the user" if hasattr(predictor.task, "histories") else ""
        say(f"Warning: no row has {', '.join(absent)} to keep{of_users}")
    counts |= unfamiliar.columns
    warn_of_columns(counts)
