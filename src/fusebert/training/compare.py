"""One recipe with each fusion and several seeds: same rows, each run in a process of its own, one table."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from fusebert.config import MAY_CHANGE_ON_RESUME, ModelSettings, read_recipe
from fusebert.errors import FusebertError, UsageError
from fusebert.recipe_yaml import parse_overrides
from fusebert.storage import MANIFEST, METRICS, read_json, refuse_in_finished, write_json
from fusebert.tasks.fit import fitted_task
from fusebert.training.signals import passing_on

FUSIONS: tuple[str, ...] = get_args(ModelSettings.model_fields["fusion"].annotation)


def compare(
    source: Path,
    overrides: Sequence[str],
    output: Path,
    fusions: Sequence[str],
    seeds: int,
    say: Callable[[str], None],
    metric: str | None = None,
) -> dict[str, dict[str, Any]]:
    """Train every fusion with every seed, one after another; what is finished is not trained again.

    Args:
        source: a recipe, or a table.
        overrides: further arguments of `fusebert train`, the same for all.
        output: its `FUSION-SEED` folders are whole models; `FUSION-SEED.json` say how each was run.
        seeds: their number; 0, 1, ...
        say: is told of each run as it begins.
        metric: to show; the task's primary one where not given.

    Returns:
        By fusion: `metric` and `split` it is of (test, where there is one), `mean`, `min`,
        `max` and `scores` over the seeds; `validation`, its mean there, to choose by, None where it has none;
        `parameters`; `seconds` of training, the mean; `peak_mebibytes` of a process.

    Raises:
        RecipeError: a setting is wrong.
        UsageError: the task has no such metric, a folder there was trained in another way, or `output` lies in a
            finished one.
        FusebertError: a run failed; its own message stands on stderr.
    """
    recipe = read_recipe(source, parse_overrides(overrides))  # wrong settings are said before anything is begun
    if recipe.task.get("name") == "recommendation" and {*fusions} != {"one_stream"}:
        raise UsageError("task.name=recommendation reads events alone: compare its seeds with --fusion one_stream")
    known = fitted_task(recipe).metric_names  # a wrong target too
    if metric is not None and metric not in known:
        raise UsageError(f"--metric: {metric!r} is not one of {', '.join(known)}")
    refuse_in_finished(output)
    read = {f"the {name} table": found for name, found in recipe.table_hashes().items()}
    read |= {f"the folder of {name}": found for name, found in recipe.model_hashes().items()}
    rows = {}
    for fusion in fusions:
        runs = []
        for seed in range(seeds):
            folder = output / f"{fusion}-{seed}"
            say(f"{fusion}, seed {seed}: {folder}")
            settings = [*overrides, f"model.fusion={fusion}", f"training.seed={seed}"]
            trained = read_recipe(source, parse_overrides(settings)).flat() | read
            runs.append(_run(folder, [str(source.absolute()), *settings], trained, metric))
        scores, validation = ([run[part] for run in runs] for part in ("score", "validation"))
        rows[fusion] = {name: runs[0][name] for name in ("metric", "split", "parameters")} | {
            "mean": statistics.mean(scores),
            "min": min(scores),
            "max": max(scores),
            "scores": scores,
            "validation": None if None in validation else statistics.mean(validation),
            "seconds": round(statistics.mean(run["seconds"] for run in runs), 1),
            "peak_mebibytes": max(run["peak_mebibytes"] for run in runs),
        }
    write_json(output / "compare.json", rows)
    return rows


def _run(folder: Path, arguments: list[str], trained: dict[str, Any], metric: str | None) -> dict[str, Any]:
    """Train one, unless it is there; a run that was killed goes on.

    Args:
        trained: all that decides what it learns: its settings, and the hashes of the tables and models that it reads.
    """
    said = folder.with_name(f"{folder.name}.json")
    kept: dict[str, Any] = read_json(said) if said.is_file() else {"trained": trained, "peak_mebibytes": 0}
    before = kept.get("trained", {})
    named = (before.keys() | trained.keys()) - {*MAY_CHANGE_ON_RESUME}
    if differing := sorted(name for name in named if before.get(name) != trained.get(name)):
        raise UsageError(f"{folder} was trained in another way ({', '.join(differing)}); choose another --output")
    if not (folder / MANIFEST).is_file():
        write_json(said, kept)
        resume = ["--resume"] if folder.exists() else []
        command = [sys.executable, "-m", "fusebert.cli.followed", "train", *arguments, "--output", str(folder), *resume]
        kept["peak_mebibytes"] = max(kept["peak_mebibytes"], _peak_mebibytes(command, folder))
        write_json(said, kept)
    metrics = read_json(folder / METRICS)
    split = "test" if "test" in metrics["evaluations"] else "validation"
    scores = metrics["evaluations"][split]["metrics"]
    metric = metric or next(iter(scores))
    if metric not in scores:
        raise UsageError(f"--metric: {folder} has no {metric!r} on {split}, only {', '.join(scores)}")
    return {
        "metric": metric,
        "split": split,
        "score": scores[metric],
        "validation": metrics["evaluations"]["validation"]["metrics"].get(metric),
        "parameters": metrics["parameters"],
        "seconds": metrics["training"]["seconds"],
        "peak_mebibytes": kept["peak_mebibytes"],
    }


def _peak_mebibytes(command: list[str], folder: Path) -> int:
    """Run a command to its end; the most memory it held."""
    # in a group of its own, so that a signal to all processes reaches it once; it saves and ends
    streams: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, **streams, process_group=0) as process, passing_on(process.pid) as signals:  # noqa: S603
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
    if signals:
        raise FusebertError("stopped; the same command goes on")
    if code:
        raise FusebertError(f"the run in {folder} failed with exit code {code}; what it said stands above")
    return usage.ru_maxrss >> (20 if sys.platform == "darwin" else 10)
