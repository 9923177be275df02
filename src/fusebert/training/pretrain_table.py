"""From rows with text and more beside it to a BERT that has seen both: masked words, and what belongs together."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fusebert.config import Recipe
from fusebert.corpus.sentences import HAN
from fusebert.corpus.tokens import need_jieba
from fusebert.data.columns import column_names
from fusebert.data.dataset import Dataset
from fusebert.errors import DataError, UsageError
from fusebert.modalities.text.processor import texts_of
from fusebert.model.pretrained import find_trunk
from fusebert.tasks.pretraining.masking import Masking
from fusebert.tasks.pretraining.table_rows import TableRows
from fusebert.tasks.pretraining.task import Task
from fusebert.training.lock import unlocking
from fusebert.training.prepare import Prepared, prepare
from fusebert.training.pretrain import check_length, finished_metrics, learn
from fusebert.training.pretrain_corpus import HELD_OUT_MASK_RATE, HELD_OUT_SEED, piece_counts, unigram_entropy
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.progress import Progress
from fusebert.training.ranks import naming_lost_ranks
from fusebert.training.run import Run, as_usual, begin, is_finished
from fusebert.types import TEXT

DEFAULTS: dict[str, Any] = {"task.next_sentence": "matching", "training.tokens_per_batch": 2048}
"""Where they differ from those for a corpus."""


@as_usual()
@naming_lost_ranks()
@unlocking()
def pretrain_table(
    settings: Mapping[str, Any],
    output: str | Path,
    *,
    resume: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    started: float | None = None,
) -> dict[str, Any]:
    """Pre-train on a table's rows and write a folder like `pretrain`, with what the other modalities learnt in it.

    Args:
        settings: dotted; `data.train` is the table. `data.target`, if set, is left alone.
        output: folder to write; it may not hold anything yet, unless `resume`.
        strict: refuse columns whose kind is ambiguous, instead of saying so.
        started: on the monotonic clock, when the time limit began to count; None for now.

    Returns:
        What metrics.json holds.
    """
    started = time.monotonic() if started is None else started
    recipe = table_recipe(settings)
    if "text.max_tokens" not in settings:
        check_length(recipe, find_trunk(recipe.model.trunk))
    folder = Path(output)
    if resume and is_finished(folder, recipe):
        return finished_metrics(folder, recipe, progress)
    progress = begin(recipe, folder, resume, progress)
    prepared = prepare_matching(recipe, folder, strict, progress)
    splits = prepared.splits
    size = prepared.processors[TEXT].vocabulary_size
    counts, scored = (piece_counts(splits[part].pieces, size) for part in ("train", "validation"))
    entropy = unigram_entropy(counts, scored)
    progress.note(f"{len(splits['train'].pieces):,} pieces; guessing by frequency costs {entropy:.3f} nats")
    return learn(Run(recipe, prepared, folder, progress, resume, started), counts, {"unigram_entropy": entropy})


def table_recipe(settings: Mapping[str, Any]) -> Recipe:
    """The checked recipe of a run on a table."""
    recipe = pretraining_recipe(DEFAULTS | dict(settings))
    config = recipe.task_config()
    if config.next_sentence not in ("matching", "off"):
        raise UsageError(
            f"task.next_sentence={config.next_sentence} needs documents; rows of a table have matching, or off"
        )
    if recipe.data.test is not None:
        raise UsageError("data.test has no meaning here: pre-training is scored on its held-out rows; leave it out")
    if "held_out_tokens" in recipe.task:
        raise UsageError("task.held_out_tokens is of a corpus: of a table, data.validation says what is scored")
    text = {"max_tokens": config.length - 1} | recipe.modalities.get(TEXT, {})
    return recipe.model_copy(update={"modalities": recipe.modalities | {TEXT: text}})


def prepare_matching(recipe: Recipe, folder: Path, strict: bool, progress: Progress) -> Prepared:
    """Training rows drawn anew for each round, and held-out rows that are always the same."""
    task: Any = Task.fit(recipe.task_config(), [])
    prepared = prepare(recipe, folder, strict, progress, task)
    table = recipe.table(recipe.data.train or Path())
    text = prepared.processors.get(TEXT)
    if text is None:
        names = ", ".join(column_names(prepared.splits["train"].samples))
        raise DataError(
            f"{table} has no column of text to mask (it has {names}); name one with data.columns.COLUMN=text"
        )
    matching = task.config.next_sentence == "matching"
    if matching and len(prepared.processors) == 1:
        raise DataError(
            f"{table} has text and nothing beside it; name a column with data.columns.COLUMN=image (audio, table), "
            "set task.next_sentence=off, or make a corpus of its text: `fusebert corpus prepare`"
        )
    masked = {"train": task.config.mask_rate, "validation": HELD_OUT_MASK_RATE}
    seeds = {"train": recipe.training.seed, "validation": HELD_OUT_SEED}
    one_stream = recipe.model.fusion == "one_stream"
    shares = {"train": task.config.passes / task.config.rounds, "validation": 1.0}
    splits: dict[str, Any] = {}
    for part, share in shares.items():
        rows = _with_text(prepared.splits[part], part, table, progress)
        if task.config.whole_words:
            _need_jieba_for(rows)
        if share * len(rows) < 1:
            raise DataError(f"{table}: a round has no {part} rows; lower task.rounds or raise task.passes")
        masking = Masking.of(text.tokenizer, masked[part], task.config.whole_words)
        splits[part] = TableRows(rows, masking, matching, one_stream, seeds[part], share)
        if matching and not splits[part].differ:
            raise DataError(
                f"{table}: the {part} part has no two rows that differ in their text and in what stands beside it, so "
                "nothing can be swapped; give more rows, or set task.next_sentence=off"
            )
    return replace(prepared, splits=splits)


def _with_text(rows: Dataset, part: str, table: Path, progress: Progress) -> Dataset:
    """The rows that have a text; the others would be asked nothing."""
    columns = rows.preparer.processors[TEXT].columns
    kept = np.array([bool(texts_of(sample.values, columns)) for sample in rows.samples])
    if not kept.any():
        raise DataError(f"{table}: no row of the {part} part has text")
    if kept.all():
        return rows
    progress.note(f"{part}: {(~kept).sum()} of {len(kept)} rows have no text and are left out")
    samples = [sample for sample, has in zip(rows.samples, kept.tolist(), strict=True) if has]
    return Dataset(samples, rows.lengths[kept], rows.preparer, rows.modality_dropout, rows.seed, varied=rows.varied)


def _need_jieba_for(rows: Dataset) -> None:
    columns = rows.preparer.processors[TEXT].columns
    if any(HAN.search(text) for sample in rows.samples for _, text in texts_of(sample.values, columns)):
        need_jieba()
