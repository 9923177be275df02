"""From a prepared corpus to a BERT: masked language model and next sentence prediction."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tokenizers import Tokenizer

from fusebert.config import ModelSettings, Recipe
from fusebert.corpus.shards import corpus_report
from fusebert.corpus.tokens import Tokens, tokenize_corpus, tokens_hash
from fusebert.corpus.vocabulary import corpus_tokenizer
from fusebert.data.collate import Collator
from fusebert.errors import DataError, UsageError
from fusebert.modalities.text.processor import Processor, read_tokenizer, special_tokens
from fusebert.model.cpu import keep_freed_memory
from fusebert.model.pretrained import find_trunk
from fusebert.model.start import begin
from fusebert.model.trunk import SIZES
from fusebert.tasks.pretraining.masking import Masking
from fusebert.tasks.pretraining.publish import publish_pretrained
from fusebert.tasks.pretraining.rows import PairRows
from fusebert.tasks.pretraining.task import Task
from fusebert.training.budget import Budget, Plan, make_plan
from fusebert.training.build import build_model
from fusebert.training.prepare import Prepared
from fusebert.training.progress import Progress, Silence
from fusebert.training.run import RECIPE, fit, join, look_into

DEFAULTS: dict[str, Any] = {
    "task.name": "pretraining",
    "model.dropout": 0.0,
    "training.warmup_share": 0.05,
    "training.tokens_per_batch": 4096,
}
"""Beside what the user sets. Few passes over much text leave nothing for dropout to guard against."""
HELD_OUT_TOKENS = 250_000
"""At most so many tokens are scored in each round."""
RATE_TIMES_WIDTH, RATE_TO_GO_ON = 0.256, 1e-4
HELD_OUT_MASK_SHARE = 0.15
"""BERT's, whatever share is masked in training, so that the losses of all runs can be compared."""


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus as training reads it."""

    tokenizer: Tokenizer
    train: Tokens
    held_out: Tokens
    unigram_entropy: float
    data_hash: str


def pretrain(
    settings: Mapping[str, Any],
    output: str | Path,
    *,
    budget: float | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Pre-train a BERT and write a folder that `transformers.BertForPreTraining` and `model.trunk` load.

    Args:
        settings: dotted; `data.train` is the folder of a prepared corpus, `model.trunk` a size, or a BERT to go on
            from, whose vocabulary is then used.
        output: folder to write; it may not hold anything yet, unless `resume`.
        budget: seconds that all of it may take; what `settings` leaves open is then planned for this machine.

    Returns:
        What metrics.json holds.
    """
    started = time.monotonic()
    progress = progress or Silence()
    folder = Path(output)
    planned = budget is not None and resume and (folder / RECIPE).is_file()
    recipe = Recipe.read(folder / RECIPE) if planned else pretraining_recipe(settings)
    keep_freed_memory()
    is_first = join(recipe.training.device)
    progress = progress if is_first else Silence()
    look_into(folder, recipe, resume)
    trunk_folder = find_trunk(recipe.model.trunk)
    with PartialState().main_process_first():  # which tokenizes; the others read what it wrote
        corpus = read_corpus(recipe, trunk_folder)
    progress.note(f"{len(corpus.train.ids):,} pieces; guessing by frequency costs {corpus.unigram_entropy:.3f} nats")
    plan = None
    if budget is not None and not planned:
        recipe, plan = _plan(settings, Budget(budget, started), corpus, trunk_folder)
        progress.note(str(plan))
    prepared = prepare_rows(recipe, corpus, trunk_folder)
    torch.manual_seed(recipe.training.seed)
    model = build_model(recipe, prepared, progress)
    if trunk_folder is None:
        begin(model, piece_counts(corpus.train.ids, model))
    collator = Collator(prepared.processors, prepared.task.collate)
    state = fit(recipe, prepared, model, collator, folder, progress, resume=resume, started=started, tokens=0)
    best = min(state.history, key=lambda entry: entry["validation"]["loss"])
    metrics = {
        "evaluations": {"held_out": {"metrics": best["validation"]}},
        "unigram_entropy": corpus.unigram_entropy,
        "training": state.totals(),
    }
    if plan is not None:
        metrics["plan"] = asdict(plan)
    if is_first:
        publish_pretrained(folder, model, corpus.tokenizer, recipe.flat(), metrics)
    return metrics


def _plan(
    settings: Mapping[str, Any], budget: Budget, corpus: Corpus, trunk_folder: Path | None
) -> tuple[Recipe, Plan]:
    """What to train in the time that is left, the same in every process."""

    def build(tried: Mapping[str, Any]) -> tuple[Recipe, Prepared]:
        recipe = pretraining_recipe(tried)
        return recipe, prepare_rows(recipe, corpus, trunk_folder)

    processes = PartialState().num_processes
    found = make_plan(settings, budget, corpus.train, corpus.unigram_entropy, build, processes)
    chosen, plan = broadcast_object_list([found])[0] if processes > 1 else found
    return pretraining_recipe(chosen), plan


def pretraining_recipe(settings: Mapping[str, Any]) -> Recipe:
    """The checked recipe of a run; its epochs are the rounds between two validations."""
    trunk = str(settings.get("model.trunk", ModelSettings().trunk))
    recipe = Recipe.from_flat(DEFAULTS | {"training.learning_rate": peak_rate(trunk)} | dict(settings))
    if recipe.task.get("name") != "pretraining":
        raise UsageError(f"task.name={recipe.task.get('name')!r} is not pre-training; use `fusebert train`")
    if "training.epochs" in settings:
        raise UsageError("pre-training counts task.passes over the corpus, with task.rounds validations; not epochs")
    if recipe.data.train is None:
        raise UsageError("data.train is not set: name the folder of a prepared corpus")
    rounds = recipe.task_config().rounds
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": rounds})})


def peak_rate(trunk: str) -> float:
    """The usual peak learning rate: it falls with width (Yang et al. 2022); to go on from a BERT, BERT's own."""
    return RATE_TIMES_WIDTH / SIZES[trunk][1] if trunk in SIZES else RATE_TO_GO_ON


def read_corpus(recipe: Recipe, trunk_folder: Path | None) -> Corpus:
    """Tokenized with the trunk's own vocabulary, or with the corpus's for a trunk that starts from nothing."""
    folder = recipe.table(recipe.data.train or Path())
    languages = corpus_report(folder)["languages"]
    tokenizer = corpus_tokenizer(folder) if trunk_folder is None else read_tokenizer(trunk_folder)
    chinese_words = recipe.task_config().whole_words and "zh" in languages
    parts = {part: tokenize_corpus(folder, part, tokenizer, chinese_words) for part in ("train", "held_out")}
    for part, found in parts.items():
        if len(found.documents) < 3:
            raise DataError(
                f"{folder}: the {part} part has {len(found.documents) - 1} documents; at least two are needed "
                "(prepare more text, or hold out more with --held-out)"
            )
    entropy = unigram_entropy(parts["train"].ids, parts["held_out"].ids)
    data_hash = tokens_hash(folder, "train", tokenizer, chinese_words)
    return Corpus(tokenizer, parts["train"], parts["held_out"], entropy, data_hash)


def unigram_entropy(train: np.ndarray, held_out: np.ndarray) -> float:
    """Mean cost in nats of held-out pieces int[N], coded by their frequency in the training part (plus one)."""
    size = int(max(train.max(initial=0), held_out.max(initial=0))) + 1
    counts = np.bincount(train, minlength=size) + 1
    return float(-np.log(counts / counts.sum())[held_out].mean())


def piece_counts(ids: np.ndarray, model: Any) -> torch.Tensor:
    """How often each piece of the model's vocabulary occurs, int64[V]."""
    return torch.from_numpy(np.bincount(ids, minlength=model.trunk.config.vocab_size))


def prepare_rows(recipe: Recipe, corpus: Corpus, trunk_folder: Path | None) -> Prepared:
    """Training rows drawn anew for each round, and held-out rows that are always the same."""
    task = Task.fit(recipe.task_config(), [])
    config, seed = task.config, recipe.training.seed
    kind = config.next_sentence
    if kind == "matching":
        raise UsageError("task.next_sentence=matching is for tables; a corpus has nsp, sentence_order, or off")
    special = special_tokens(corpus.tokenizer)
    held_share = min(1.0, HELD_OUT_TOKENS / max(1, len(corpus.held_out.ids)))
    splits = {
        part: PairRows(
            tokens,
            special,
            Masking.of(corpus.tokenizer, mask_share, config.whole_words),
            config.length,
            kind,
            seed,
            share,
        )
        for part, tokens, mask_share, share in (
            ("train", corpus.train, config.mask_share, config.passes / config.rounds),
            ("validation", corpus.held_out, HELD_OUT_MASK_SHARE, held_share),
        )
    }
    for part, rows in splits.items():
        if not len(rows):
            raise DataError(f"{recipe.data.train}: a round has no {part} rows; lower task.rounds or raise task.passes")
    text = recipe.modality_config("text").model_copy(update={"max_tokens": config.length - 1})
    processors = {"text": Processor(text, ["text"], corpus.tokenizer)}
    return Prepared([], "", task, processors, splits, {}, trunk_folder, corpus.data_hash)  # type: ignore[arg-type]
