"""A prepared corpus as pre-training reads it: tokens, counts, and rows of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from fusebert.config import Recipe
from fusebert.corpus.shards import LEAST_DOCUMENTS, corpus_report
from fusebert.corpus.tokens import Tokens, need_jieba, tokenize_corpus, tokens_hash
from fusebert.corpus.vocabulary import corpus_tokenizer
from fusebert.errors import DataError
from fusebert.modalities.text.processor import Processor
from fusebert.modalities.text.tokenizer import read_tokenizer, special_tokens, vocabulary_size
from fusebert.tasks.pretraining.corpus_rows import PairRows
from fusebert.tasks.pretraining.masking import Masking
from fusebert.tasks.pretraining.task import Task
from fusebert.training.prepare import Prepared
from fusebert.types import TEXT

COUNTED_AT_ONCE = 2**24
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
        if (count := len(found.documents) - 1) < LEAST_DOCUMENTS:
            raise DataError(
                f"{folder}: documents in the {part} part: {count}; at least {LEAST_DOCUMENTS} are needed "
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
    special = special_tokens(corpus.tokenizer)

    kind: Any = config.next_sentence  # matching is refused for a corpus

    def rows(tokens: Tokens, mask_rate: float, seed: int, passes: float) -> PairRows:
        masking = Masking.of(corpus.tokenizer, mask_rate, config.whole_words)
        return PairRows(tokens, special, masking, config.length, kind, seed, passes)

    scored = min(1.0, config.held_out_tokens / max(1, len(corpus.held_out.ids)))
    splits = {
        "train": rows(corpus.train, config.mask_rate, recipe.training.seed, config.passes / config.rounds),
        "validation": rows(corpus.held_out, HELD_OUT_MASK_RATE, HELD_OUT_SEED, scored),
    }
    for part, found in splits.items():
        if not found.in_pass:
            raise DataError(f"{recipe.data.train}: the {part} part has no pairs; set task.next_sentence=off")
        if not len(found):
            more = "lower task.rounds or raise task.passes" if part == "train" else "raise task.held_out_tokens"
            raise DataError(f"{recipe.data.train}: a round has no {part} rows; {more}")
    text = recipe.modality_config(TEXT).model_copy(update={"max_tokens": config.length - 1})
    return Prepared(
        columns=[],
        target="",
        task=task,  # type: ignore[arg-type]  # rows bring their targets
        processors={TEXT: Processor(text, ["text"], corpus.tokenizer)},
        splits=splits,
        files={},
        trunk_folder=trunk_folder,
        data_hash=corpus.data_hash,
    )
