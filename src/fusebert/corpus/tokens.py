"""A tokenized corpus on disk: piece ids in one long row, with the borders of sentences and documents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from mmap import mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from tokenizers import Tokenizer

from fusebert.corpus.encoding import SentenceEncoder
from fusebert.corpus.sentences import HAN
from fusebert.corpus.shards import REPORT, corpus_report, read_shards
from fusebert.errors import DataError, ModelError, UsageError, how_to_install
from fusebert.modalities.text.tokenizer import vocabulary_size
from fusebert.storage import MANIFEST, file_hash, verify, write_folder

CHARACTERS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Tokens:
    """One part of a corpus, memory-mapped.

    Args:
        ids: int32[N] pieces.
        inside: bool[N], whether a piece continues the word of the piece before it.
        sentences: int64[S + 1], where each sentence starts in `ids`; the last value is N. Each has a piece.
        documents: int64[D + 1], where each document starts in `sentences`; the last value is S. Each has a sentence.
    """

    ids: np.ndarray
    inside: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.__annotations__))

    def __reduce__(self) -> tuple[Any, ...]:
        """Worker processes map the files again, instead of getting a copy of the corpus."""
        arrays = [getattr(self, name) for name in self.__annotations__]
        if all(isinstance(array.base, mmap) for array in arrays):  # whole files; of a part of one the base is an array
            return type(self).read, (Path(arrays[0].filename).parent,)
        return type(self), tuple(arrays)


def tokens_hash(folder: Path, part: str, tokenizer: Tokenizer, chinese_words: bool = False) -> str:
    """SHA-256 of all that `tokenize_corpus` has written for these arguments, which was hashed as it was written."""
    return file_hash(_folder_of(folder, part, tokenizer, chinese_words) / MANIFEST)


def tokenize_corpus(folder: Path, part: str, tokenizer: Tokenizer, chinese_words: bool = False) -> Tokens:
    """Tokenize one part, once: what an earlier call with the same vocabulary has written is used again.

    Args:
        chinese_words: find Chinese words (with jieba), so that masking may take them whole.
    """
    target = _folder_of(folder, part, tokenizer, chinese_words)
    if not target.exists():
        shards = read_shards(folder, part)
        write_folder(target, lambda beside: _write(beside, shards, tokenizer, chinese_words), replaces=False)
    else:
        try:
            verify(target)
        except ModelError as error:
            raise DataError(f"{target} is damaged ({error}); remove it, and it is made again") from None
    return Tokens.read(target)


def _folder_of(folder: Path, part: str, tokenizer: Tokenizer, chinese_words: bool) -> Path:
    """Named after all that it depends on: were the corpus prepared anew in this place, its report would be another."""
    corpus_report(folder)
    words = f"jieba {version('jieba')}" if chinese_words else ""
    given = tokenizer.to_str().encode() + words.encode() + (folder / REPORT).read_bytes()
    key = hashlib.sha256(given).hexdigest()[:16]
    return folder / f"tokens-{key}" / part


def _write(folder: Path, documents: Iterator[dict[str, Any]], tokenizer: Tokenizer, chinese_words: bool) -> None:
    joins, encode = continuations(tokenizer), SentenceEncoder(tokenizer)
    kinds = {"ids": np.int32, "inside": np.bool_, "sentences": np.int64, "documents": np.int64}
    with ExitStack() as opened:
        files = {name: opened.enter_context(_array_file(folder / f"{name}.npy", kind)) for name, kind in kinds.items()}
        pieces = sentences = 0
        for name in ("sentences", "documents"):
            files[name](np.zeros(1, np.int64))
        for some in _portions(documents):
            ids, lengths = encode([sentence for document in some for sentence in document])
            inside = joins[ids]
            if chinese_words:
                texts = (sentence for document in some for sentence in document)
                inside |= np.concatenate(
                    [
                        inside_chinese(tokenizer, text) if HAN.search(text) else np.zeros(length, np.bool_)
                        for text, length in zip(texts, lengths, strict=True)
                    ]
                )
            files["ids"](ids)
            files["inside"](inside)
            has_pieces = lengths > 0  # a sentence of nothing but joiners of emoji has none, and is left out
            owners = np.repeat(np.arange(len(some)), [len(document) for document in some])
            counts = np.bincount(owners[has_pieces])
            files["sentences"](pieces + lengths[has_pieces].cumsum())
            files["documents"](sentences + counts[counts > 0].cumsum())
            pieces, sentences = pieces + len(ids), sentences + int(has_pieces.sum())


def _portions(documents: Iterable[dict[str, Any]]) -> Iterator[list[list[str]]]:
    """Sentences of some documents at a time, of about CHARACTERS_AT_ONCE together."""
    some: list[list[str]] = []
    size = 0
    for document in documents:
        some.append(document["sentences"])
        size += sum(map(len, document["sentences"]))
        if size >= CHARACTERS_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


@contextmanager
def _array_file(path: Path, kind: type[np.generic]) -> Iterator[Callable[[np.ndarray], None]]:
    """A .npy file of one row, appended to; how long it is, its header says in the end."""
    count = 0

    def append(values: np.ndarray) -> None:
        nonlocal count
        file.write(values.astype(kind, copy=False).tobytes())
        count += len(values)

    def header() -> None:  # numpy leaves room in it for a longer length
        file.seek(0)
        form = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, form)

    with path.open("wb") as file:
        header()
        yield append
        header()


def continuations(tokenizer: Tokenizer) -> np.ndarray:
    """bool[V]: which pieces continue a word."""
    found = np.zeros(vocabulary_size(tokenizer), dtype=np.bool_)
    for piece, number in tokenizer.get_vocab().items():
        found[number] = piece.startswith("##")
    return found


def inside_chinese(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """bool[T]: which pieces stand inside a Chinese word after its first character (Cui et al. 2019)."""
    starts = {start for _, start, _ in _jieba().tokenize(text)}
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return np.array([start not in starts and HAN.match(text, start) is not None for start, _ in offsets], np.bool_)


def need_jieba() -> None:
    """Raise UsageError where Chinese words cannot be found."""
    if find_spec("jieba") is None:
        raise UsageError(f"whole Chinese words need jieba; {how_to_install('corpus')}; or set task.whole_words=false")


@cache
def _jieba() -> Any:
    """Its words, without the four lines that it says of them, and never from the cache that it leaves in a folder where
    everybody may write."""
    import jieba

    jieba.setLogLevel("WARNING")
    words = jieba.Tokenizer()
    with TemporaryDirectory() as room:
        words.tmp_dir = room
        words.initialize()
    return words
