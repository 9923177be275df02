"""From a recipe to a finished model folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object

from fusebert.config import RECIPE, Recipe, TrainingSettings, read_recipe, without_places
from fusebert.data.collate import Collator
from fusebert.data.sampler import TokenBudgetSampler
from fusebert.errors import UsageError
from fusebert.evaluation.inference import infer_all
from fusebert.evaluation.ledger import variants
from fusebert.evaluation.publish import publish
from fusebert.evaluation.trained_model import TrainedModel, load
from fusebert.model.cpu import prepare_to_train
from fusebert.model.modeling import FusebertModel
from fusebert.storage import LOGS, MANIFEST, METRICS, read_json, refuse_in_finished, write_atomically
from fusebert.training.build import build_model, pick_device, pick_precision, pick_trackers
from fusebert.training.checkpoint import State
from fusebert.training.clock import Clock
from fusebert.training.defaults import SCHEDULE, in_words, with_defaults
from fusebert.training.lock import lock, unlocking
from fusebert.training.prepare import BAD_ROWS, Prepared, prepare
from fusebert.training.prepare_histories import PreparedHistories, prepare_histories, start_at_histories
from fusebert.training.progress import Progress, Silence
from fusebert.training.ranks import MOST_WAIT, naming_lost_ranks
from fusebert.training.trainer import Trainer

PLAN = "plan.json"
LEFT_BEFORE = (BAD_ROWS, PLAN, LOGS)
"""By a run that ended before it began, such as over bad rows or a tracker."""
RANK_SEED = 1_000_003
FEW_ROWS = 16
NAMED = 5
"""Settings that a message names."""


@contextmanager
def as_usual() -> Iterator[None]:
    """Within, torch computes as it does by default, whatever the program around has set: fp32, with gradients."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)


@as_usual()
@naming_lost_ranks()
@unlocking()
def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    output: str | Path,
    *,
    resume: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    started: float | None = None,
) -> TrainedModel:
    """Train a model and write its folder.

    Args:
        recipe: a Recipe, a recipe file, or dotted settings such as {"data.train": "rows.csv", "data.target": "answer"}.
        output: folder to write; it may not hold anything yet, unless `resume`.
        resume: go on from the newest whole checkpoint in `output`.
        strict: refuse columns whose kind is ambiguous, instead of saying so.
        progress: is told of steps and epochs; None for silence.
        started: on the monotonic clock, when the time limit began to count; None for now.

    Returns:
        The trained model, ready to predict.

    Raises:
        FusebertError: in words, for anything that the user can mend.
        StoppedError: on SIGINT or SIGTERM, with everything saved for `resume`.
    """
    started = time.monotonic() if started is None else started
    folder = Path(output)
    if not isinstance(recipe, Recipe | Mapping | str | Path):
        raise UsageError(f"a recipe, its file, or settings expected, found {type(recipe).__name__}")
    if not isinstance(recipe, Recipe):
        recipe = Recipe.from_flat(recipe) if isinstance(recipe, Mapping) else read_recipe(Path(recipe))
    if recipe.task.get("name") == "pretraining":
        raise UsageError("task.name=pretraining is what `fusebert pretrain` does; choose another task to train")
    if resume and is_finished(folder, recipe):
        told(progress, join(recipe.training.device)).note(f"{folder} holds the finished run")
        return load(folder, pick_device(recipe.training.device))
    progress = begin(recipe, folder, resume, progress)
    recommends = recipe.task.get("name") == "recommendation"
    prepared = prepare_histories(recipe, folder, progress) if recommends else prepare(recipe, folder, strict, progress)
    lengths = prepared.splits["train"].lengths
    if hasattr(prepared.task, "sides"):
        _check_rows_to_compare(lengths, recipe.training, progress)
    torch.manual_seed(recipe.training.seed)
    model = build_model(recipe, prepared, progress)
    recipe = recipe.model_copy(update={"training": with_defaults(recipe.training, prepared, model)})
    progress.note(in_words(recipe.training, len(lengths)))
    if isinstance(prepared, PreparedHistories):
        start_at_histories(model, prepared)
    splits = prepared.splits
    collator = Collator(prepared.processors, prepared.task.collate)
    calibrate = getattr(prepared.task, "calibrate", None)
    scored = {"train": 0, "validation": 2 if calibrate else 1, "test": 1}  # times
    if len(prepared.processors) > 1:
        scored["test" if "test" in splits else "validation"] += len(list(variants(list(prepared.processors))))
    tokens = sum(scored[name] * int(splits[name].lengths.sum()) for name in splits)
    run = Run(recipe, prepared, folder, progress, resume, started)
    state = fit(run, model, collator, tokens_after=tokens)
    validation = splits["validation"]
    if calibrate:
        calibrate(*infer_all(model, iter(validation), collator, state.precision))
    predictor = TrainedModel(folder, model, prepared.processors, prepared.task, prepared.target, state.precision)
    if PartialState().is_main_process:
        totals = state.totals() | {"sources": recipe.sources()}
        publish(predictor, splits, prepared.files, recipe.flat(), totals, prepared.warnings)
    return predictor


def _check_rows_to_compare(lengths: np.ndarray, settings: TrainingSettings, progress: Progress) -> None:
    """Matching compares the rows of a batch with each other, so there have to be some in it."""
    if PartialState().num_processes > 1:
        raise UsageError("task.name=matching compares all rows of a batch; train it in one process")
    rows = len(lengths) / len(TokenBudgetSampler(lengths, settings.tokens_per_batch, settings.seed))
    if len(lengths) > 1 and rows < 2:
        raise UsageError(
            "task.name=matching compares the rows of a batch, but nearly each row is a batch by itself; set "
            f"training.tokens_per_batch={FEW_ROWS * int(lengths.mean())} or more (now {settings.tokens_per_batch})"
        )
    if rows < min(FEW_ROWS, len(lengths)):
        progress.note(
            f"Warning: a batch has {rows:.1f} rows, and matching learns from comparing them; a larger "
            "training.tokens_per_batch gives more"
        )


def join(device: str) -> bool:
    """Join the processes that torchrun has started, if any; whether this one writes and reports for all.

    Raises:
        UsageError: there is no such device, or not one for each process.
    """
    picked = pick_device(device)
    if PartialState._shared_state and PartialState().num_processes == 1 and PartialState().device.type != picked:
        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier training here had another device
    return bool(PartialState(cpu=picked == "cpu", timeout=MOST_WAIT).is_main_process)


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained, on which rows, and where to.

    Args:
        folder: that is written.
        progress: is told of steps and epochs.
        resume: go on from the newest whole checkpoint.
        started: on the monotonic clock, when the time limit began to count.
    """

    recipe: Recipe
    prepared: Prepared
    folder: Path
    progress: Progress
    resume: bool
    started: float


def begin(recipe: Recipe, folder: Path, resume: bool, progress: Progress | None) -> Progress:
    """Join the other processes and look into the folder; who is told of the run: in all processes but the first nobody.

    Raises:
        UsageError: see `join` and `look_into`.
    """
    prepare_to_train()
    is_first = join(recipe.training.device)
    look_into(folder, recipe, resume)
    return told(progress, is_first)


def told(progress: Progress | None, is_first: bool) -> Progress:
    """Who is told of a run: in all processes but the first nobody."""
    return progress if progress is not None and is_first else Silence()


def fit(run: Run, model: FusebertModel, collator: Collator, tokens_after: int) -> State:
    """Train `model` on the prepared rows; the best weights are in it afterwards.

    Args:
        tokens_after: to score after training and its last validation; the time limit leaves room for them.
    """
    recipe, prepared, folder, progress = run.recipe, run.prepared, run.folder, run.progress
    settings = recipe.training
    device, trackers = pick_device(settings.device), pick_trackers(settings.trackers, progress)
    accelerator = Accelerator(cpu=device == "cpu", log_with=trackers or None, project_dir=str(folder / LOGS))
    shown = without_places(recipe.flat())
    accelerator.wait_for_everyone()  # all processes have looked into the folder
    try:
        accelerator.init_trackers("fusebert", config={key: str(value) for key, value in shown.items()})
    except Exception as error:  # each has errors of its own
        if isinstance(error, OSError) and error.filename:  # those of a network name no file
            raise UsageError(f"{error.filename} cannot be written: {error.strerror}") from None
        raise UsageError(
            f"training.trackers={trackers}: one of them cannot begin in {folder / LOGS} "
            f"({' '.join(str(error).split())[:200]}); log in to it, choose another --output, or leave it out"
        ) from None
    if accelerator.is_main_process:
        lock(folder)
        write_atomically(folder / RECIPE, recipe.to_yaml().encode())
    else:
        torch.manual_seed(settings.seed + accelerator.process_index * RANK_SEED)  # all built the same; dropout differs
    if settings.parallel == "fsdp" and accelerator.num_processes == 1:
        progress.note("training.parallel=fsdp: one process holds the whole model; start several with torchrun")
    precision = pick_precision(settings.precision, device, model.config.trunk["hidden_size"])
    spent, validation = time.monotonic() - run.started, prepared.splits["validation"]
    schedule = {name: getattr(settings, name) for name in SCHEDULE}
    state = State(0, precision, prepared.data_hash, seconds_before=spent, schedule=schedule)
    clock = Clock(settings.time_limit, spent, tokens_after)
    trainer = Trainer(model, prepared.task, collator, settings, folder, progress, accelerator, state, clock)
    try:
        return trainer.fit(prepared.splits["train"], validation, run.resume)
    finally:
        progress.close()
        accelerator.end_training()


def is_finished(folder: Path, recipe: Recipe) -> bool:
    """Whether the very run that is to be resumed has come to its end there, on tables such as these."""
    if not all((folder / name).is_file() for name in (MANIFEST, RECIPE, METRICS)):
        return False
    trained = read_json(folder / METRICS)["training"]
    return not recipe.differing(read_recipe(folder / RECIPE)) and trained.get("sources") == recipe.sources()


def look_into(folder: Path, recipe: Recipe, resume: bool) -> None:
    """Raise UsageError where the folder cannot be written, where that would mix two runs, where another training writes
    there, or where the processes of a run to resume do not see the same one."""
    written = folder / RECIPE
    if resume and len(set(gather_object([written.is_file()]))) > 1:
        raise UsageError(f"not all processes see {written}: they need one output folder, on a disk that they share")
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UsageError(f"{nearest} is a file; choose another --output")
    if (folder / MANIFEST).exists():
        raise UsageError(f"{folder} already holds a finished model; choose another --output")
    refuse_in_finished(folder)
    if resume and written.is_file():
        if differing := recipe.differing(read_recipe(written)):
            named = ", ".join(differing[:NAMED]) + (", ..." if len(differing) > NAMED else "")
            raise UsageError(
                f"{folder} was started with other settings ({named}; see {written}); resume with the same ones"
            )
    elif folder.exists() and any(path.name not in LEFT_BEFORE and path.suffix != ".part" for path in folder.iterdir()):
        other = "it holds no run to resume" if resume else "give --resume to go on with its run"
        raise UsageError(f"{folder} is not empty; {other}, or choose another --output")
    if folder.is_dir() and PartialState().is_main_process:
        lock(folder)
