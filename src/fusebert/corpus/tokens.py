"""A tokenized corpus on disk: piece ids in one long row, with the borders of sentences and documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer

from fusebert.corpus.shards import read_shards
from fusebert.storage import write_folder

DOCUMENTS_AT_ONCE = 512


@dataclass(frozen=True)
class Tokens:
    """One part of a corpus, memory-mapped.

    Args:
        ids: int32[N] pieces.
        inside: bool[N], whether a piece continues the word of the piece before it.
        sentences: int64[S + 1], where each sentence starts in `ids`; the last value is N.
        documents: int64[D + 1], where each document starts in `sentences`; the last value is S.
    """

    ids: np.ndarray
    inside: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.__annotations__))


def tokenize_corpus(folder: Path, part: str, tokenizer: Tokenizer, chinese_words: bool = False) -> Tokens:
    """Tokenize one part, once: what an earlier call with the same vocabulary has written is used again.

    Args:
        chinese_words: find Chinese words (with jieba), so that masking may take them whole.
    """
    key = hashlib.sha256(tokenizer.to_str().encode() + bytes([chinese_words])).hexdigest()[:16]
    target = folder / f"tokens-{key}" / part
    if not target.exists():
        write_folder(target, lambda beside: _write(beside, read_shards(folder, part), tokenizer, chinese_words))
    return Tokens.read(target)


def _write(folder: Path, documents: Iterator[dict[str, Any]], tokenizer: Tokenizer, chinese_words: bool) -> None:
    joins = continuations(tokenizer)
    sentence_lengths: list[np.ndarray] = []
    document_lengths: list[int] = []
    with (folder / "ids").open("wb") as ids_file, (folder / "inside").open("wb") as inside_file:
        while some := list(islice(documents, DOCUMENTS_AT_ONCE)):
            texts = [sentence for document in some for sentence in document["sentences"]]
            encoded = [found.ids for found in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
            ids = np.fromiter((one for found in encoded for one in found), np.int32)
            ids_file.write(ids.tobytes())
            inside = joins[ids]
            if chinese_words:
                inside |= np.concatenate([_inside_chinese(tokenizer, text) for text in texts])
            inside_file.write(inside.tobytes())
            sentence_lengths.append(np.array([len(found) for found in encoded], dtype=np.int64))
            document_lengths += [len(document["sentences"]) for document in some]
    for name, dtype in (("ids", np.int32), ("inside", np.bool_)):
        np.save(folder / f"{name}.npy", np.fromfile(folder / name, dtype))
        (folder / name).unlink()
    np.save(folder / "sentences.npy", borders(np.concatenate([np.zeros(0, np.int64), *sentence_lengths])))
    np.save(folder / "documents.npy", borders(np.array(document_lengths, dtype=np.int64)))


def borders(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Starts of runs of these lengths, and the end: int64[n + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def continuations(tokenizer: Tokenizer) -> np.ndarray:
    """bool[V]: which pieces continue a word."""
    found = np.zeros(tokenizer.get_vocab_size(), dtype=np.bool_)
    for piece, number in tokenizer.get_vocab().items():
        found[number] = piece.startswith("##")
    return found


def _inside_chinese(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """bool[T]: which pieces stand inside a Chinese word after its first character (Cui et al. 2019)."""
    import jieba

    starts = {start for _, start, _ in jieba.tokenize(text)}
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return np.array(["\u4e00" <= text[start] <= "\u9fff" and start not in starts for start, _ in offsets], np.bool_)
