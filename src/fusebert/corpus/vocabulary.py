"""A WordPiece vocabulary from a prepared corpus, and how well it fits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from fusebert.corpus.shards import corpus_report, read_shards
from fusebert.errors import UsageError
from fusebert.modalities.text.tokenizer import read_tokenizer, special_tokens, train_tokenizer, write_tokenizer
from fusebert.storage import write_json

FOLDER = "vocabulary"
LEAST_SIZE = 200
LEARNT_CHARACTERS = 1_000_000_000
"""A vocabulary is learnt from about so many at most, of documents evenly over the part: each distinct word that is
counted stays in memory, 0.1 GB of them for 37 million characters, and more than a gigabyte for these."""
MEASURED_DOCUMENTS = 2000
"""At least so many, evenly over the part, or all of a smaller one."""


def make_vocabulary(folder: Path, size: int, lowercase: bool = True, beside: Path | None = None) -> dict[str, Any]:
    """Learn a vocabulary from the training part and write `vocabulary/tokenizer.json`, as BERT folders hold it.

    Args:
        folder: of a finished corpus.
        size: number of pieces, special tokens included.
        beside: folder of another BERT, whose vocabulary is measured on the same text.

    Returns:
        The report of `measure` on the held-out part (or the training part where nothing is held out), by vocabulary,
        and `learnt_from_one_document_in`: 1 for all of them.
    """
    if size < LEAST_SIZE:
        raise UsageError(f"--size must be at least {LEAST_SIZE}, not {size}")
    counts = corpus_report(folder)["counts"]
    every = math.ceil(counts["train_characters"] / LEARNT_CHARACTERS)
    tokenizer = train_tokenizer(islice(_texts(folder, "train"), 0, None, every), size, lowercase)
    target = folder / FOLDER
    part = "held_out" if counts.get("held_out_documents") else "train"
    step = max(1, counts[f"{part}_documents"] // MEASURED_DOCUMENTS)
    report: dict[str, Any] = {"size": tokenizer.get_vocab_size(), "lowercase": lowercase, "measured_on": part}
    report["learnt_from_one_document_in"] = every
    report["own"] = measure(tokenizer, islice(_texts(folder, part), 0, None, step))
    if beside is not None:
        report["beside"] = measure(read_tokenizer(beside), islice(_texts(folder, part), 0, None, step))
    write_json(target / "report.json", report)
    write_tokenizer(tokenizer, target)
    return report


def corpus_tokenizer(folder: Path) -> Tokenizer:
    """The vocabulary of a corpus. Raises UsageError where none has been made."""
    if not (folder / FOLDER / "tokenizer.json").is_file():
        raise UsageError(f"{folder} has no vocabulary yet; make one with `fusebert corpus vocabulary {folder}`")
    return read_tokenizer(folder / FOLDER)


def unspelled(share: float, what: str) -> str:
    """What is said where a vocabulary made here cannot spell so much of the text."""
    return (
        f"Warning: {share:.0%} of the {what} are [UNK]: make a vocabulary of a larger --size; and where no spaces part "
        "words, as in Thai, put some there, since more than 100 letters in a row are one [UNK]"
    )


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, float]:
    """How a vocabulary fits texts.

    Returns:
        `fertility` pieces a word, of words that are known, `characters_per_piece`, `whole_words` share of all words
        that are one piece,
        `unknown` share of pieces that are [UNK], `coverage` share of characters (spaces aside) that stand in other
        pieces, `used` share of the vocabulary that occurs.
    """
    unknown = special_tokens(tokenizer)["[UNK]"]
    counts: Counter[int] = Counter()
    words = known = whole = characters = covered = within = 0
    for text in texts:
        found = tokenizer.encode(text, add_special_tokens=False)
        counts.update(found.ids)
        words += len(set(found.word_ids))
        lengths = Counter(word for word, piece in zip(found.word_ids, found.ids, strict=True) if piece != unknown)
        known += len(lengths)
        whole += sum(length == 1 for length in lengths.values())
        characters += len(text)
        spans = np.array(found.offsets, np.int64).reshape(-1, 2) @ [-1, 1]
        within += int(spans.sum())
        covered += int(spans[np.array(found.ids, np.int64) != unknown].sum())
    pieces = max(1, counts.total())
    return {
        "fertility": round((pieces - counts[unknown]) / max(1, known), 4),
        "characters_per_piece": round(characters / pieces, 4),
        "whole_words": round(whole / max(1, words), 4),
        "unknown": round(counts[unknown] / pieces, 6),
        "coverage": round(covered / max(1, within), 6),
        "used": round(len(counts) / tokenizer.get_vocab_size(), 4),
    }


def _texts(folder: Path, part: str) -> Iterator[str]:
    return ("\n".join(document["sentences"]) for document in read_shards(folder, part))
