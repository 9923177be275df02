"""The commands that train on tables: `train`, `compare`, `demo`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fusebert.cli.common import Command, no_flags, nothing, print_table, run_folder, say, speaks
from fusebert.errors import UsageError
from fusebert.evaluation.metric_names import decision_in_words
from fusebert.storage import METRICS, read_json


def add_commands(command: Command) -> None:
    """Add them to the command line."""
    train = command("train", _train, "Train a model from a recipe or straight from a table.")
    train.add_argument(
        "source",
        metavar="RECIPE|TABLE",
        type=Path,
        help="a recipe (.yaml), or a table of rows; settings are KEY=VALUE, see `fusebert settings`",
    )
    train.add_argument("--target", metavar="COLUMN", help="column to predict")
    train.add_argument("--output", metavar="FOLDER", type=Path, help="model folder to write (default: runs/NAME)")
    train.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in the folder")
    train.add_argument("--strict", action="store_true", help="refuse columns whose kind is ambiguous")
    limit = 'end by then, such as "90s" or "10m"; only what has to be read before and scored after may take longer'
    train.add_argument("--time-limit", metavar="TIME", help=limit)

    compare = command("compare", _compare, "Train a recipe with each fusion and several seeds; one table of all.")
    compare.add_argument(
        "source",
        metavar="RECIPE|TABLE",
        type=Path,
        help="settings are KEY=VALUE, such as data.target=COLUMN, see `fusebert settings`",
    )
    compare.add_argument("--fusion", default="all", help="some of one_stream,concat,two_stream (default: all)")
    compare.add_argument("--seeds", metavar="N", type=int, default=3)
    compare.add_argument("--metric", metavar="NAME", help="to show (default: the task's primary one)")
    compare.add_argument("--time-limit", metavar="TIME", help='of each training, such as "90s" or "10m"')
    compare.add_argument("--output", metavar="FOLDER", type=Path, help="of all models (default: runs/NAME-compare)")

    demo = command("demo", _demo, "Generate a small world, train on it, and show what the model learnt.")
    demo.add_argument("--output", metavar="FOLDER", type=Path, default=Path("demo"))


def _train(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.config import read_recipe
    from fusebert.recipe_yaml import parse_overrides

    overrides = parse_overrides(no_flags(rest))
    if options.target:
        if overrides.get("data.target", options.target) != options.target:
            raise UsageError(f"--target {options.target} and data.target={overrides['data.target']}: which of them?")
        overrides["data.target"] = options.target
    if options.time_limit:
        if (other := overrides.get("training.time_limit", options.time_limit)) != options.time_limit:
            raise UsageError(f"--time-limit {options.time_limit} and training.time_limit={other}: which of them?")
        overrides["training.time_limit"] = options.time_limit
    recipe = read_recipe(options.source, overrides)
    recipe.check_tables()
    output = options.output or run_folder(options.source)
    from fusebert.training.progress import Terminal
    from fusebert.training.run import train

    how: dict[str, Any] = {"resume": options.resume, "strict": options.strict, "started": options.began}
    progress = Terminal()
    predictor = train(recipe, output, progress=progress, **how)
    if not speaks():  # the first process may still be writing the folder
        return {}
    metrics = read_json(predictor.folder / METRICS)
    scores = {name: found["metrics"] for name, found in metrics["evaluations"].items()}
    print_table("Scores", scores)
    for name, found in metrics["evaluations"].items():
        if "baselines" in found:
            print_table(f"Baselines, {name}", found["baselines"])
    for name, found in list(metrics["evaluations"].items())[-1:]:
        if decision := decision_in_words(found, name):
            say(f"Note: {decision}")
    warned = [f"Warning: {warning}" for warning in metrics["warnings"]]
    for line in warned:
        if line not in progress.noted:
            say(line)
    if before := len(progress.noted.intersection(warned)):
        say(f"Above, before training, {before} more warning{'s' * (before > 1)} on the data; the report has all.")
    training = metrics["training"]
    if training["stopped"] is not None:
        say(f"Training ended at step {training['steps']} of {training['planned_steps']}, by {training['stopped']}.")
    if (best := training["best_step"]) is not None:
        say(f"The weights of step {best} are kept: the best on validation.")
    say(f"The model is in {output}; its report is {output / 'report.html'}")
    return {"folder": str(output), "evaluations": scores, "training": training}


def _compare(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.recipe_yaml import parse_overrides
    from fusebert.training.compare import FUSIONS, compare

    fusions = FUSIONS if options.fusion == "all" else tuple(options.fusion.split(","))
    if unknown := [name for name in fusions if name not in FUSIONS]:
        raise UsageError(f"--fusion: {unknown[0]!r} is not one of all, {', '.join(FUSIONS)}")
    given = parse_overrides(no_flags(rest))
    for key, option in (("model.fusion", "--fusion"), ("training.seed", "--seeds")):
        if key in given:
            raise UsageError(f"{key} is what is compared: choose with {option}")
    if options.time_limit and "training.time_limit" in given:
        raise UsageError("--time-limit and training.time_limit: name one of them")
    if options.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {options.seeds}")
    output = options.output or run_folder(options.source, "-compare")
    limit = [f"training.time_limit={options.time_limit}"] if options.time_limit else []
    settings = [*no_flags(rest), *limit]
    found = compare(options.source, settings, output, fusions, options.seeds, say, options.metric)
    shown = ("mean", "min", "max", "validation", "parameters", "seconds", "peak_mebibytes")
    first = next(iter(found.values()))
    title = f"{first['metric']} on {first['split']}, {options.seeds} seeds"
    rows = {fusion: {name: row[name] for name in shown if row[name] is not None} for fusion, row in found.items()}
    print_table(title, rows)
    return {"folder": str(output), "fusions": found}


def _demo(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    from fusebert.demo import run_demo
    from fusebert.training.trainer import StoppedError

    try:
        found = run_demo(options.output)
    except StoppedError:
        raise StoppedError("stopped; the same command goes on") from None
    print_table("What the model may see -> test scores", found["ledger"])
    for line in found["predictions"]:
        say(f"  {line['question']}  ->  {line['answer']}  ({line['probability']:.0%}; right: {line['target']})")
    say(f"Pictures and plots: {found['report']}")
    return found
