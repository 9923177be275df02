"""From a prepared corpus to a BERT: masked language model and next sentence prediction."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from fusebert.config import Recipe
from fusebert.corpus.vocabulary import unspelled
from fusebert.data.collate import Collator
from fusebert.errors import FusebertError, UsageError
from fusebert.modalities.text.processor import MANY_UNKNOWN
from fusebert.modalities.text.tokenizer import special_tokens
from fusebert.model.initialization import initialize
from fusebert.model.pretrained import find_trunk, read_config
from fusebert.storage import METRICS, read_json
from fusebert.tasks.pretraining.publish import load_head, publish_pretrained
from fusebert.training.budget import Budget, Plan, Planner, beginning
from fusebert.training.build import build_model
from fusebert.training.defaults import bearable
from fusebert.training.lock import lock, unlocking
from fusebert.training.loss_law import REUSE
from fusebert.training.plan_file import find_begun, keep_plan
from fusebert.training.prepare import Prepared
from fusebert.training.pretrain_corpus import Corpus, prepare_rows, read_corpus
from fusebert.training.pretrain_recipe import check_for_corpus, pretraining_recipe
from fusebert.training.progress import Progress
from fusebert.training.ranks import attempt, naming_lost_ranks, of_first
from fusebert.training.run import PLAN, Run, as_usual, begin, fit, is_finished, join, told

LITTLE_LEARNT = 0.95
"""Loss, as a share of what guessing by frequency costs."""
MANY_LONE = 0.5
"""Share of documents of one sentence, which nothing follows."""


@as_usual()
@naming_lost_ranks()
@unlocking()
def pretrain(
    settings: Mapping[str, Any],
    output: str | Path,
    *,
    budget: float | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Pre-train a BERT and write a folder that `transformers.BertForPreTraining` and `model.trunk` load.

    Args:
        settings: dotted; `data.train` is the folder of a prepared corpus, `model.trunk` a size, or a BERT to go on
            from, whose vocabulary is then used.
        output: folder to write; it may not hold anything yet, unless `resume`.
        budget: seconds that all of it may take; what `settings` leaves open is then planned for this machine.
        started: on the monotonic clock, when the time began to count; None for now.

    Returns:
        What metrics.json holds.

    Raises:
        FusebertError: in words; what the first of several processes cannot do is an error in all.
        LostRankError: another process of the run has gone.
    """
    started = time.monotonic() if started is None else started
    folder = Path(output)
    if budget is not None and "training.time_limit" in settings:
        raise UsageError("a budget sets the time limit itself; give the one or the other")
    if budget is not None and "task.passes" in settings:
        raise UsageError("a budget sets how much is read; leave out task.passes, or give no budget")
    begun = find_begun(folder, settings, budget) if resume else None
    recipe = pretraining_recipe(settings) if begun is None else begun.recipe
    check_for_corpus(recipe)
    if begun is not None and is_finished(folder, recipe):
        return finished_metrics(folder, recipe, progress)
    progress = begin(recipe, folder, resume, progress)
    is_first = PartialState().is_main_process
    plan = of_first(None if begun is None else begun.plan)
    trunk_folder = find_trunk(recipe.model.trunk)
    check_length(recipe, trunk_folder)
    corpus = _read_together(recipe, trunk_folder, is_first)
    _tell_of_corpus(corpus, recipe, trunk_folder, progress)
    if budget is not None and plan is None:
        recipe, made = _plan(settings, Budget(budget, started), corpus, trunk_folder)
        plan = asdict(made)
        if is_first:
            lock(folder)
            keep_plan(folder, plan, budget, settings)
        _tell_of_plan(made, corpus, progress)
    elif budget is None and is_first:
        (folder / PLAN).unlink(missing_ok=True)  # of a run that was killed before it began
    noted = {"unigram_entropy": corpus.unigram_entropy} | ({} if plan is None else {"plan": plan})
    run = Run(recipe, prepare_rows(recipe, corpus, trunk_folder), folder, progress, resume, started)
    return learn(run, corpus.counts, noted)


def learn(run: Run, counts: np.ndarray, noted: Mapping[str, Any]) -> dict[str, Any]:
    """Train on prepared rows, and publish.

    Args:
        counts: int64[V], how often each piece occurs in the training rows.
        noted: further values of metrics.json, `unigram_entropy` among them.

    Returns:
        What metrics.json holds.
    """
    recipe, prepared = run.recipe, run.prepared
    torch.manual_seed(recipe.training.seed)
    model = build_model(recipe, prepared, run.progress)
    if "learning_rate" not in recipe.training.model_fields_set:
        training = recipe.training.model_copy(update={"learning_rate": bearable(recipe.training.learning_rate, model)})
        training.model_fields_set.discard("learning_rate")
        run = replace(run, recipe=recipe.model_copy(update={"training": training}))
    start(model, counts, prepared.trunk_folder)
    collator = Collator(prepared.processors, prepared.task.collate, text_alone=recipe.model.fusion != "one_stream")
    state = fit(run, model, collator, tokens_after=0)
    scores = state.kept()
    scored = {"rows": len(prepared.splits["validation"]), "metrics": scores}
    if (loss := scores["mlm_loss"]) >= noted["unigram_entropy"]:
        run.progress.note(
            f"Warning: held-out words cost {loss:.3f} nats, no less than by their frequency; train longer"
        )
    metrics = {
        "evaluations": {"held_out": scored},
        **noted,
        "training": state.totals() | {"sources": recipe.sources()},
    }
    if PartialState().is_main_process:
        publish_pretrained(run.folder, model, prepared.processors, recipe.flat(), metrics)
    return metrics


def finished_metrics(folder: Path, recipe: Recipe, progress: Progress | None) -> dict[str, Any]:
    """Those of a run that came to its end before it was resumed."""
    told(progress, join(recipe.training.device)).note(f"{folder} holds the finished run")
    metrics: dict[str, Any] = read_json(folder / METRICS)
    return metrics


def _read_together(recipe: Recipe, trunk_folder: Path | None, is_first: bool) -> Corpus:
    """The first process tokenizes; the others read what it wrote."""

    def read() -> Corpus:
        return read_corpus(recipe, trunk_folder)

    found = attempt(read) if is_first else None
    of_first(found if isinstance(found, FusebertError) else None)
    return found if isinstance(found, Corpus) else read()


def _tell_of_corpus(corpus: Corpus, recipe: Recipe, trunk_folder: Path | None, progress: Progress) -> None:
    progress.note(f"{len(corpus.train.ids):,} pieces; guessing by frequency costs {corpus.unigram_entropy:.3f} nats")
    unknown = corpus.counts[special_tokens(corpus.tokenizer)["[UNK]"]] / corpus.counts.sum()
    if unknown > MANY_UNKNOWN and trunk_folder is None:
        progress.note(unspelled(unknown, "pieces"))
    elif unknown > MANY_UNKNOWN:
        progress.note(f"Warning: {unknown:.0%} of the pieces are [UNK]: the vocabulary is of another language")
    lone = float((np.diff(corpus.train.documents) == 1).mean())
    if lone > MANY_LONE and recipe.task_config().next_sentence == "nsp":
        progress.note(
            f"Warning: {lone:.0%} of the documents are one sentence each, which nothing follows, so next sentences can "
            "be told without reading; set task.next_sentence=off"
        )


def _plan(
    settings: Mapping[str, Any], budget: Budget, corpus: Corpus, trunk_folder: Path | None
) -> tuple[Recipe, Plan]:
    """What to train in the time that is left. All processes measure, at once as they will train; the first decides."""
    measured_on = replace(corpus, train=beginning(corpus.train), held_out=beginning(corpus.held_out))

    def build(tried: Mapping[str, Any]) -> tuple[Recipe, Prepared]:
        recipe = pretraining_recipe(tried)
        return recipe, prepare_rows(recipe, measured_on, trunk_folder)

    processes = PartialState().num_processes
    longest = None if trunk_folder is None else read_config(trunk_folder).max_position_embeddings
    planner = Planner(settings, budget, corpus.train, corpus.unigram_entropy, build, processes, longest)
    chosen, plan = of_first(attempt(planner.plan))
    return pretraining_recipe(chosen), plan


def _tell_of_plan(plan: Plan, corpus: Corpus, progress: Progress) -> None:
    progress.note(str(plan))
    passes = plan.tokens / len(corpus.train.ids)
    if passes > REUSE:
        progress.note(
            f"Warning: the text is read about {passes:.0f} times, and teaches little after {REUSE:.0f}; "
            "give more text, or less time"
        )
    if plan.mlm_loss is not None and plan.mlm_loss > LITTLE_LEARNT * corpus.unigram_entropy:
        what = "in so short a time" if passes < 1 else "from so little text"
        progress.note(f"Warning: {what} a model learns little more than frequencies; give more")


def check_length(recipe: Recipe, trunk_folder: Path | None) -> None:
    """Raises UsageError where a BERT to go on from has too few positions."""
    length = recipe.task_config().length
    if trunk_folder is not None and length > (most := read_config(trunk_folder).max_position_embeddings):
        raise UsageError(f"task.length={length} is too long for {recipe.model.trunk}, which reads {most} tokens")


def start(model: Any, counts: np.ndarray, trunk_folder: Path | None) -> None:
    """Starting weights: those of the BERT to go on from, its head's too; else as `initialize` sets them.

    Args:
        counts: int64[V], how often each piece occurs; what is not there of a head begins with them.
    """
    missing = model.trunk.config.vocab_size - len(counts)
    every = torch.from_numpy(np.pad(counts, (0, missing)))
    if trunk_folder is None:
        initialize(model, every)
    else:
        model.head.start_at_frequencies(every)
        load_head(model, trunk_folder)
