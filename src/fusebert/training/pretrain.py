"""From a prepared corpus to a BERT: masked language model and next sentence prediction."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tokenizers import Tokenizer

from fusebert.config import FREE, Recipe, read_recipe, read_settings
from fusebert.corpus.shards import corpus_report
from fusebert.corpus.tokens import Tokens, need_jieba, tokenize_corpus, tokens_hash
from fusebert.corpus.vocabulary import corpus_tokenizer
from fusebert.data.collate import Collator
from fusebert.errors import DataError, FusebertError, ModelError, UsageError
from fusebert.modalities.text.processor import Processor, read_tokenizer, special_tokens, vocabulary_size
from fusebert.model.cpu import prepare_to_train
from fusebert.model.initialization import initialize
from fusebert.model.pretrained import find_trunk, read_config
from fusebert.storage import CHECKPOINTS, read_json, write_json
from fusebert.tasks.pretraining.masking import Masking
from fusebert.tasks.pretraining.publish import load_head, publish_pretrained
from fusebert.tasks.pretraining.rows import PairRows
from fusebert.tasks.pretraining.task import Task
from fusebert.training.budget import Budget, Plan, Planner, beginning
from fusebert.training.build import build_model
from fusebert.training.lock import lock, unlocking
from fusebert.training.prepare import Prepared
from fusebert.training.pretrain_recipe import check_for_corpus, pretraining_recipe
from fusebert.training.progress import Progress, Silence
from fusebert.training.ranks import naming_lost_workers
from fusebert.training.run import PLAN, RECIPE, fit, join, look_into
from fusebert.types import TEXT

Value = TypeVar("Value")
COUNTED_AT_ONCE = 2**24
UNKNOWN, MANY_UNKNOWN = "[UNK]", 0.02
LITTLE_LEARNT = 0.95
"""Loss, as a share of what guessing by frequency costs."""
HELD_OUT_MASK_RATE, HELD_OUT_SEED = 0.15, 0
"""BERT's share, and one choice of pairs and masks, whatever training does: losses can be compared between runs of the
same row length, question, `whole_words` and `held_out_tokens`."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus as training reads it.

    Args:
        counts: int64[V], how often each piece occurs in the training part.
        unigram_entropy: cost of held-out pieces, guessed by these counts, in nats a piece.
    """

    tokenizer: Tokenizer
    train: Tokens
    held_out: Tokens
    counts: np.ndarray
    unigram_entropy: float
    data_hash: str


@naming_lost_workers()
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
        LostWorkerError: another process of the run has gone.
    """
    started = time.monotonic() if started is None else started
    progress = progress or Silence()
    folder = Path(output)
    if budget is not None and "training.time_limit" in settings:
        raise UsageError("a budget sets the time limit itself; give the one or the other")
    if budget is not None and "task.passes" in settings:
        raise UsageError("a budget sets how much is read; leave out task.passes, or give no budget")
    kept = _kept_plan(folder, settings, budget) if resume and (folder / RECIPE).is_file() else None
    planned = kept is not None and budget is not None
    free = {key: settings[key] for key in FREE if key in settings}
    recipe = pretraining_recipe(read_settings(folder / RECIPE) | free if planned else settings)
    check_for_corpus(recipe)
    prepare_to_train()
    is_first = join(recipe.training.device)
    progress = progress if is_first else Silence()
    look_into(folder, recipe, resume)
    if budget is not None and not any((folder / CHECKPOINTS).glob("step-*")):
        kept = None  # no step is lost by a plan of what the machine can do now
    kept = _of_first(kept)
    trunk_folder = find_trunk(recipe.model.trunk)
    _check_length(recipe, trunk_folder)
    corpus = _read_together(recipe, trunk_folder, is_first)
    progress.note(f"{len(corpus.train.ids):,} pieces; guessing by frequency costs {corpus.unigram_entropy:.3f} nats")
    unknown = corpus.counts[special_tokens(corpus.tokenizer)[UNKNOWN]] / corpus.counts.sum()
    if unknown > MANY_UNKNOWN:
        progress.note(f"Warning: {unknown:.0%} of the pieces are {UNKNOWN}: the vocabulary is of another language")
    if is_first and kept is None and budget is None:
        (folder / PLAN).unlink(missing_ok=True)  # of a run that was killed before it began
    if budget is not None and kept is None:
        recipe, plan = _plan(settings, Budget(budget, started), corpus, trunk_folder)
        kept = {"plan": asdict(plan), "budget": budget, "settings": _plain(settings)}
        if is_first:
            lock(folder)
            write_json(folder / PLAN, kept)
        _tell(plan, corpus.unigram_entropy, progress)
    prepared = prepare_rows(recipe, corpus, trunk_folder)
    told = {"unigram_entropy": corpus.unigram_entropy} | ({} if kept is None else {"plan": kept["plan"]})
    return learn(recipe, prepared, corpus.counts, told, folder, progress, resume=resume, started=started)


def learn(
    recipe: Recipe,
    prepared: Prepared,
    counts: np.ndarray,
    told: Mapping[str, Any],
    folder: Path,
    progress: Progress,
    *,
    resume: bool,
    started: float,
) -> dict[str, Any]:
    """Train on prepared rows, and publish.

    Args:
        counts: int64[V], how often each piece occurs in the training rows.
        told: further values of metrics.json.

    Returns:
        What metrics.json holds.
    """
    torch.manual_seed(recipe.training.seed)
    model = build_model(recipe, prepared, progress)
    start(model, counts, prepared.trunk_folder)
    collator = Collator(prepared.processors, prepared.task.collate, text_alone=recipe.model.fusion != "one_stream")
    state = fit(recipe, prepared, model, collator, folder, progress, resume=resume, started=started, tokens=0)
    scored = {"rows": len(prepared.splits["validation"]), "metrics": state.kept()}
    metrics = {"evaluations": {"held_out": scored}, **told, "training": state.totals()}
    if PartialState().is_main_process:
        publish_pretrained(folder, model, prepared.processors, recipe.flat(), metrics)
    return metrics


def _read_together(recipe: Recipe, trunk_folder: Path | None, is_first: bool) -> Corpus:
    """The first process tokenizes; the others read what it wrote."""
    found: Corpus | FusebertError | None = None
    try:
        found = read_corpus(recipe, trunk_folder) if is_first else None
    except FusebertError as error:
        found = error
    _of_first(found if isinstance(found, FusebertError) else None)
    return found if isinstance(found, Corpus) else read_corpus(recipe, trunk_folder)


def _plan(
    settings: Mapping[str, Any], budget: Budget, corpus: Corpus, trunk_folder: Path | None
) -> tuple[Recipe, Plan]:
    """What to train in the time that is left. All processes measure, at once as they will train; the first decides."""
    measured_on = replace(corpus, train=beginning(corpus.train), held_out=beginning(corpus.held_out))

    def build(tried: Mapping[str, Any]) -> tuple[Recipe, Prepared]:
        recipe = pretraining_recipe(tried)
        return recipe, prepare_rows(recipe, measured_on, trunk_folder)

    processes = PartialState().num_processes
    found: tuple[dict[str, Any], Plan] | FusebertError
    try:
        longest = None if trunk_folder is None else read_config(trunk_folder).max_position_embeddings
        found = Planner(settings, budget, corpus.train, corpus.unigram_entropy, build, processes, longest).plan()
    except FusebertError as error:
        found = error
    chosen, plan = _of_first(found)
    return pretraining_recipe(chosen), plan


def _tell(plan: Plan, entropy: float, progress: Progress) -> None:
    progress.note(str(plan))
    if plan.mlm_loss is not None and plan.mlm_loss > LITTLE_LEARNT * entropy:
        progress.note("Warning: in so short a time a model learns little more than frequencies; give more")


def _check_length(recipe: Recipe, trunk_folder: Path | None) -> None:
    length = recipe.task_config().length
    if trunk_folder is not None and length > (most := read_config(trunk_folder).max_position_embeddings):
        raise UsageError(f"task.length={length} is too long for {recipe.model.trunk}, which reads {most} tokens")


def _of_first(found: Value | FusebertError) -> Value:
    """What the first process has found, in all; its error is raised in all."""
    if PartialState().num_processes > 1:
        found = broadcast_object_list([found])[0]
    if isinstance(found, FusebertError):
        raise found
    return found


def _kept_plan(folder: Path, settings: Mapping[str, Any], budget: float | None) -> dict[str, Any] | None:
    """The plan that a run was begun with, if any.

    Raises:
        UsageError: it was begun with another budget, or with other settings beside it.
    """
    kept: dict[str, Any] | None = read_json(folder / PLAN) if (folder / PLAN).is_file() else None
    if kept is not None and not (isinstance(kept, dict) and {"plan", "budget", "settings"} <= set(kept)):
        raise ModelError(f"{folder / PLAN} is damaged; start again in another folder")
    if budget is None:
        if kept is not None and not pretraining_recipe(settings).is_same_run(read_recipe(folder / RECIPE)):
            raise UsageError(f"{folder} was begun with a budget; resume it with --budget {kept['budget']:g}s")
        return kept
    if kept is None:
        raise UsageError(f"{folder} was begun without a budget; resume it without one")
    if kept["budget"] != budget:
        raise UsageError(f"{folder} was begun with a budget of {kept['budget']:g} s; resume it with the same one")
    begun, given = ({k: v for k, v in one.items() if k not in FREE} for one in (kept["settings"], _plain(settings)))
    if begun != given:
        raise UsageError(f"{folder} was begun with other settings (see {folder / PLAN}); resume it with the same ones")
    return kept


def _plain(settings: Mapping[str, Any]) -> Any:
    """As they come back from a JSON file."""
    return json.loads(json.dumps(dict(settings), default=str))


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


def read_corpus(recipe: Recipe, trunk_folder: Path | None) -> Corpus:
    """Tokenized with the trunk's own vocabulary, or with the corpus's for a trunk that starts from nothing."""
    folder = recipe.table(recipe.data.train or Path())
    languages = corpus_report(folder)["languages"]
    tokenizer = corpus_tokenizer(folder) if trunk_folder is None else read_tokenizer(trunk_folder)
    chinese_words = recipe.task_config().whole_words and "zh" in languages
    if chinese_words:
        need_jieba()
    parts = {part: tokenize_corpus(folder, part, tokenizer, chinese_words) for part in ("train", "held_out")}
    for part, found in parts.items():
        if len(found.documents) < 3:
            raise DataError(
                f"{folder}: the {part} part has {len(found.documents) - 1} documents; at least two are needed "
                "(prepare more text, or change how much is held out with --held-out)"
            )
    counts, scored = (piece_counts(parts[part].ids, vocabulary_size(tokenizer)) for part in ("train", "held_out"))
    hashes = [tokens_hash(folder, part, tokenizer, chinese_words) for part in parts]
    data_hash = sha256("".join(hashes).encode()).hexdigest()
    return Corpus(tokenizer, parts["train"], parts["held_out"], counts, unigram_entropy(counts, scored), data_hash)


def piece_counts(ids: np.ndarray, pieces: int) -> np.ndarray:
    """How often each piece of a vocabulary occurs, int64[V]; counted in portions, lest mapped ids be copied whole."""
    found = np.zeros(pieces, dtype=np.int64)
    for first in range(0, len(ids), COUNTED_AT_ONCE):
        found += np.bincount(ids[first : first + COUNTED_AT_ONCE], minlength=pieces)
    return found


def unigram_entropy(train: np.ndarray, held_out: np.ndarray) -> float:
    """Mean cost in nats of held-out pieces, coded by their frequency in the training part (plus one).

    Args:
        train, held_out: int64[V], how often each piece occurs.
    """
    costs = -np.log((train + 1) / (train + 1).sum())
    return float((held_out * costs).sum() / held_out.sum())


def prepare_rows(recipe: Recipe, corpus: Corpus, trunk_folder: Path | None) -> Prepared:
    """Training rows drawn anew for each round, and held-out rows that are always the same."""
    task = Task.fit(recipe.task_config(), [])
    config = task.config
    kind: Any = config.next_sentence
    special = special_tokens(corpus.tokenizer)
    held_share = min(1.0, config.held_out_tokens / max(1, len(corpus.held_out.ids)))
    splits = {
        part: PairRows(
            tokens,
            special,
            Masking.of(corpus.tokenizer, mask_rate, config.whole_words),
            config.length,
            kind,
            seed,
            share,
        )
        for part, tokens, mask_rate, seed, share in (
            ("train", corpus.train, config.mask_rate, recipe.training.seed, config.passes / config.rounds),
            ("validation", corpus.held_out, HELD_OUT_MASK_RATE, HELD_OUT_SEED, held_share),
        )
    }
    for part, rows in splits.items():
        if not rows.in_pass:
            raise DataError(f"{recipe.data.train}: the {part} part has no pairs; set task.next_sentence=off")
        if not len(rows):
            more = "lower task.rounds or raise task.passes" if part == "train" else "raise task.held_out_tokens"
            raise DataError(f"{recipe.data.train}: a round has no {part} rows; {more}")
    text = recipe.modality_config(TEXT).model_copy(update={"max_tokens": config.length - 1})
    processors = {TEXT: Processor(text, ["text"], corpus.tokenizer)}
    return Prepared([], "", task, processors, splits, {}, trunk_folder, corpus.data_hash)  # type: ignore[arg-type]  # rows bring their targets
