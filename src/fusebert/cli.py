"""The command line: thin, no machine learning in it. Heavy imports stand inside the commands, so `--help` is quick."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fusebert import __version__, cli_corpus, cli_vectors
from fusebert.errors import FusebertError, RowError, UsageError, row_in_words
from fusebert.storage import check_finished

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong use. With --json, stdout holds one JSON object; messages go to stderr."

MANY_WITHOUT_HISTORY = 0.2
"""Share of questions: of whole histories it is far less, since each has only one first event."""
MOST_BESIDE = 4
"""Columns of a table, so that their names can be read on a narrow screen."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every foreseeable failure is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = build_parser()
    options, rest = parser.parse_known_args(given)
    try:
        result = options.run(options, rest)
        if options.json:
            _print(result)
        if "error" in result:
            return _fail(result["error"], 1, as_json=False)
    except FusebertError as error:
        return _fail(str(error), error.exit_code, options.json)
    except KeyboardInterrupt:
        return _fail("interrupted", 1, options.json)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 1, options.json)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    parser = argparse.ArgumentParser(prog="fusebert", description="Multimodal models built on BERT.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"fusebert {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    groups: dict[str, Any] = {"": commands}

    def command(name: str, run: Callable[..., Any], summary: str) -> argparse.ArgumentParser:
        group, _, last = name.rpartition(" ")
        if group not in groups:
            parent = commands.add_parser(group, help=f"see `fusebert {group} --help`", epilog=EPILOG)
            groups[group] = parent.add_subparsers(title="commands", required=True, metavar="COMMAND")
        made = groups[group].add_parser(last, help=summary, description=summary, epilog=EPILOG, allow_abbrev=False)
        made.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        made.set_defaults(run=run)
        return made  # type: ignore[no-any-return]

    train = command("train", _train, "Train a model from a recipe or straight from a table.")
    train.add_argument("source", metavar="RECIPE|TABLE", type=Path, help="a recipe (.yaml), or a table of rows")
    train.add_argument("--target", metavar="COLUMN", help="column to predict")
    train.add_argument("--output", metavar="FOLDER", type=Path, help="model folder to write (default: runs/NAME)")
    train.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in the folder")
    train.add_argument("--strict", action="store_true", help="refuse columns whose kind is ambiguous")
    train.add_argument("--time-limit", metavar="TIME", help='stop cleanly on time, such as "90s" or "10m"')

    evaluate = command("evaluate", _evaluate, "Score a model on a table with targets.")
    evaluate.add_argument("folder", metavar="FOLDER", type=Path)
    evaluate.add_argument("table", metavar="TABLE", type=Path)
    evaluate.add_argument("--without", metavar="MODALITY", action="append", default=[], help="take a modality away")
    evaluate.add_argument(
        "--shuffle", metavar="MODALITY", action="append", default=[], help="deal a modality out to other rows"
    )
    known = "tables of events that came before, for a recommender; they are not scored"
    evaluate.add_argument("--known", metavar="TABLE", type=Path, nargs="+", default=[], help=known)
    _bad_rows(evaluate)

    predict = command("predict", _predict, "Answer each row of a table, or one row given as --COLUMN VALUE.")
    predict.add_argument("folder", metavar="FOLDER", type=Path)
    predict.usage = "fusebert predict FOLDER (TABLE | --COLUMN VALUE ...) [--output FILE.jsonl] [--top K] [--json]"
    predict.add_argument(
        "--output", metavar="FILE.jsonl", type=Path, help="where the answers of a table go (default: stdout)"
    )
    predict.add_argument("--top", metavar="K", type=int, default=1, help="list the K likeliest labels")
    _bad_rows(predict)

    check = command("check", _check, "Look at tables: what columns are, which rows cannot be used, what may be wrong.")
    check.add_argument("source", metavar="TABLE|FOLDER", type=Path, help="a table, or a folder of train, val, test")
    check.add_argument("--target", metavar="COLUMN")
    check.add_argument("--against", metavar="TABLE", type=Path, nargs="+", default=[], help="tables to be scored")
    check.add_argument("--strict", action="store_true", help="refuse columns whose kind is ambiguous")

    compare = command("compare", _compare, "Train a recipe with each fusion and several seeds; one table of all.")
    compare.add_argument("source", metavar="RECIPE", type=Path, help="further settings are KEY=VALUE, as in recipes")
    compare.add_argument("--fusion", default="all", help="some of one_stream,concat,two_stream (default: all)")
    compare.add_argument("--seeds", metavar="N", type=int, default=3)
    compare.add_argument("--metric", metavar="NAME", help="to show (default: the task's primary one)")
    compare.add_argument("--time-limit", metavar="TIME", help='of each training, such as "90s" or "10m"')
    compare.add_argument("--output", metavar="FOLDER", type=Path, help="of all models (default: runs/NAME-compare)")

    cli_corpus.add_commands(command, _say)
    cli_vectors.add_commands(command, _say, _row, _print)

    demo = command("demo", _demo, "Generate a small world, train on it, and show what the model learnt.")
    demo.add_argument("--output", metavar="FOLDER", type=Path, default=Path("demo"))
    return parser


def _bad_rows(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bad-rows", choices=("refuse", "skip"), default="refuse", help="what to do with rows that cannot be read"
    )


def _train(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.config import parse_overrides, read_recipe

    overrides = parse_overrides(_no_flags(rest))
    if options.target:
        if overrides.get("data.target", options.target) != options.target:
            raise UsageError(f"--target {options.target} and data.target={overrides['data.target']}: which of them?")
        overrides["data.target"] = options.target
    if options.time_limit:
        overrides["training.time_limit"] = options.time_limit
    recipe = read_recipe(options.source, overrides)
    recipe.check_tables()
    output = options.output or Path("runs") / options.source.name.split(".")[0]
    from fusebert.training.progress import Terminal
    from fusebert.training.run import train

    predictor = train(recipe, output, resume=options.resume, strict=options.strict, progress=Terminal())
    metrics = json.loads((predictor.folder / "metrics.json").read_text())
    scores = {name: found["metrics"] for name, found in metrics["evaluations"].items()}
    _table("Scores", scores)
    for name, found in metrics["evaluations"].items():
        if "baselines" in found:
            _table(f"Baselines, {name}", found["baselines"])
    for warning in metrics["warnings"]:
        _say(f"Warning: {warning}")
    _say(f"The weights of step {metrics['training']['best_step']} are kept: the best on validation.")
    _say(f"The model is in {output}; its report is {output / 'report.html'}")
    return {"folder": str(output), "evaluations": scores, "training": metrics["training"]}


def _evaluate(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    _nothing(rest)
    if options.table.resolve() in [table.resolve() for table in options.known]:
        raise UsageError(f"{options.table} is what is scored; leave it out of --known")
    found: dict[str, Any] = _load(options.folder).evaluate(
        options.table,
        without=options.without,
        shuffle=options.shuffle,
        known=options.known,
        bad_rows=options.bad_rows,
        listed_in=Path("bad_rows.jsonl"),
    )
    _table(f"{found['rows']} rows", {str(options.table): found["metrics"]})
    if (lost := found.get("without_history", 0)) > MANY_WITHOUT_HISTORY * found["rows"]:
        _say(f"Note: {lost} of {found['rows']} questions have no history; name tables of events before with --known")
    _warn_of_absent(found)
    _say_baselines(options.folder / "metrics.json")
    return found


def _warn_of_absent(found: dict[str, Any]) -> None:
    from fusebert.evaluation.predictor import no_such_columns

    if absent := found.get("absent_columns"):
        _say(f"Warning: {no_such_columns(absent)}")


def _say_baselines(path: Path) -> None:
    """Simple ways need the training events, which a model folder does not keep; it keeps what they scored."""
    evaluations = json.loads(path.read_text())["evaluations"] if path.is_file() else {}
    for name, found in list(evaluations.items())[-1:]:
        if "baselines" in found:
            metric = next(iter(found["metrics"]))
            scores = ", ".join(f"{way} {_number(its[metric])}" for way, its in found["baselines"].items())
            _say(f"Note: simple ways are scored in training only; their {metric} on its {name} part: {scores} ({path})")


def _predict(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.data.tables import read_table, strike_off

    if options.top < 1:
        raise UsageError(f"--top must be at least 1, not {options.top}")
    predictor = _load(options.folder)
    if not rest or rest[0].startswith("-"):  # argparse of different Pythons would take a VALUE for the TABLE
        row = _row(rest, predictor.columns)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            answer = predictor.predict(row, top=options.top).to_json()
        for one in said:
            _say(f"Warning: {one.message}")
        if not options.json:
            _print(answer)
        return answer  # type: ignore[no-any-return]
    _nothing(rest[1:])
    if options.output is not None and options.output.resolve() == Path(rest[0]).resolve():
        raise UsageError(f"--output {options.output} is the table itself; choose another file")
    absent = set(predictor.columns)
    if options.output is not None and options.output.is_dir():
        raise UsageError(f"--output {options.output} is a folder; name a file in it")
    if options.output is not None and options.output.suffix in (".csv", ".tsv", ".parquet"):
        raise UsageError(f"--output {options.output}: answers are lines of JSON; name a file that ends in .jsonl")
    source = strike_off(read_table(Path(rest[0])), absent)
    counts: dict[str, Any] = {"rows": 0, "bad_rows": 0}

    def lines() -> Any:
        strange, first = 0, ""
        for row, answer in predictor.answers(source, options.top):
            counts["rows"] += 1
            number = {"row": row.row}
            if isinstance(answer, RowError):
                if options.bad_rows == "refuse":
                    raise answer
                counts["bad_rows"] += 1
                _say(f"skipped: {answer}")
                yield number | {"error": answer.problem}
            else:
                if unknown := predictor.unknown_items(row)[0]:
                    strange, first = strange + 1, first or f"{unknown[0]!r} in {row_in_words(row.row, row.line)}"
                own = {"id": _plain(row.values["id"])} if "id" in row.values else {}
                yield number | own | answer.to_json()
        if strange:
            _say(f"Warning: {strange} of {counts['rows']} rows have items that the model does not know: first {first}")
        if absent:
            counts["absent_columns"] = sorted(absent)
            _warn_of_absent(counts)

    if options.output is None:
        if options.json:
            return {"answers": list(lines())} | counts
        for line in lines():
            _print(line)
        return counts
    from fusebert.storage import write_lines

    write_lines(options.output, (json.dumps(line, ensure_ascii=False) for line in lines()))
    _say(f"{counts['rows']} answers are in {options.output}")
    return counts | {"output": str(options.output)}


def _check(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.config import parse_overrides
    from fusebert.doctor.check import check

    given = [str(path) for path in options.against if "=" in str(path) and not path.exists()]  # --against takes several
    against = [path for path in options.against if str(path) not in given]
    settings = parse_overrides([*given, *_no_flags(rest)])
    found, findings = check(options.source, options.target, options.strict, against, settings)
    for note in found["notes"]:
        _say(note)
    for column in found["columns"]:
        doubt = f"  AMBIGUOUS; data.columns.{column['column']}=MODALITY says what it is" if column["ambiguous"] else ""
        _say(f"{column['column']}: {column['kind']} ({column['why']}){doubt}")
    for line in found["problems"]:
        _say(_problem(line))
    for finding in findings:
        _say(f"{finding.fault}: {finding}")
    _say(f"{found['rows']} rows, {found['bad_rows']} of them cannot be used; {len(findings)} things may be wrong")
    if found["bad_rows"]:
        found["error"] = (
            f"{options.source}: {found['bad_rows']} of {found['rows']} rows cannot be used; "
            f"first: {_problem(found['problems'][0])}"
        )
    return found


def _problem(line: dict[str, Any]) -> str:
    return f"{Path(line['table']).name}, {row_in_words(line['row'], line['line'])}: {line['problem']}"


def _compare(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.training.compare import FUSIONS, compare

    fusions = FUSIONS if options.fusion == "all" else tuple(options.fusion.split(","))
    if unknown := [name for name in fusions if name not in FUSIONS]:
        raise UsageError(f"--fusion: {unknown[0]!r} is not one of all, {', '.join(FUSIONS)}")
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {options.seeds}")
    output = options.output or Path("runs") / f"{options.source.name.split('.')[0]}-compare"
    limit = [f"training.time_limit={options.time_limit}"] if options.time_limit else []
    settings = [*_no_flags(rest), *limit]
    found = compare(options.source, settings, output, fusions, options.seeds, _say, options.metric)
    shown = ("mean", "min", "max", "parameters", "seconds", "peak_mebibytes")
    first = next(iter(found.values()))
    title = f"{first['metric']} on {first['split']}, {options.seeds} seeds"
    _table(title, {fusion: {name: row[name] for name in shown} for fusion, row in found.items()})
    return {"folder": str(output), "fusions": found}


def _demo(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    _nothing(rest)
    from fusebert.demo import run_demo

    found = run_demo(options.output)
    _table("What the model may see -> test scores", found["ledger"])
    for line in found["predictions"]:
        _say(f"  {line['question']}  ->  {line['answer']}  ({line['probability']:.0%}; right: {line['target']})")
    _say(f"Pictures and plots: {found['report']}")
    return found


def _load(folder: Path) -> Any:
    check_finished(folder)  # before imports that take seconds
    from fusebert.evaluation.predictor import load

    return load(folder)


def _row(rest: Sequence[str], columns: dict[str, str]) -> dict[str, str]:
    """`--question "..." --image x.png` -> one row."""
    row: dict[str, str] = {}
    place = 0
    while place < len(rest):
        name, equals, value = rest[place].removeprefix("--").partition("=")
        if not rest[place].startswith("--") or name not in columns:
            raise UsageError(f"{rest[place]!r} is not an input of this model; it reads --{', --'.join(columns)}")
        if not equals:
            place += 1
            if place == len(rest):
                raise UsageError(f"--{name} needs a value")
            value = rest[place]
        row[name] = value
        place += 1
    if not row:
        raise UsageError(f"give a table, or one row as --{' ... --'.join(columns)} ...")
    return row


def _no_flags(rest: Sequence[str]) -> Sequence[str]:
    for argument in rest:
        if argument.startswith("-"):
            raise UsageError(f"unknown option {argument}; see --help")
    return rest


def _nothing(rest: Sequence[str]) -> None:
    if rest:
        raise UsageError(f"unknown argument {rest[0]}; see --help")


def _table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Few rows stand side by side, each metric on a line; of many rows the first metrics are shown."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    names = list(dict.fromkeys(name for scores in rows.values() for name in scores))
    cells = {
        name: {row: _number(scores[name]) if name in scores else "" for row, scores in rows.items()} for name in names
    }
    if len(rows) <= MOST_BESIDE:
        heads, lines = list(rows), {name: list(cells[name].values()) for name in names}
    else:
        heads = names[:MOST_BESIDE]
        lines = {row: [cells[name][row] for name in heads] for row in rows}
    table.add_column("")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for name, line in lines.items():
        table.add_row(name, *line)
    Console(stderr=True).print(table)


def _number(value: float) -> str:
    from fusebert.training.progress import short

    return f"{value:,}" if isinstance(value, int) else short(value)


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int) else str(value)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print(value: Any) -> None:
    """One line of JSON on stdout; where stdout fails, the rest goes nowhere, lest it fail again at exit."""
    try:
        print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        error.filename = "stdout"
        raise


def _fail(message: str, code: int, as_json: bool) -> int:
    _say(f"fusebert: {' '.join(message.split())}")
    if as_json:
        _print({"error": message, "exit_code": code})
    return code


if __name__ == "__main__":
    sys.exit(main())
