"""Sentences to pieces, each different word only once: a corpus has far fewer of them than it has words."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, count, islice

import numpy as np
from tokenizers import Encoding, Tokenizer

from fusebert.modalities.text.rules import STROKE, WORD, words_stand_alone

MOST_KNOWN = 2**25
"""Bytes of words that are kept; a large corpus has millions of rare ones."""
WORD_BYTES = 120
"""What a word takes besides its characters: its entry, its number, its pieces."""


class SentenceEncoder:
    """Sentences -> their pieces, exactly as the tokenizer gives them.

    To a tokenizer of BERT's rules each word is given once and kept. That takes English a third of the processor time,
    and Chinese, where nearly all words are single characters, a ninth.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self.knows_words = words_stand_alone(tokenizer)
        self._forget()

    def _forget(self) -> None:
        """Begin with one word, the end of a sentence, which has no pieces."""
        self.numbers: defaultdict[str, int] = defaultdict(count(1).__next__, {"\n": 0})
        self.pieces = np.zeros(0, np.int32)
        self.starts, self.lengths = np.zeros(1, np.int64), np.zeros(1, np.int64)
        self.bytes = 0

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Of N sentences, all pieces one after another, int32[P], and how many each has, int64[N]."""
        joined = "".join(f"{text}\n" for text in texts)
        reaches_beyond = any(content in joined for content in (*self.special, STROKE))
        if not self.knows_words or reaches_beyond or joined.count("\n") != len(texts):
            return _joined(self._encode(texts))
        if self.bytes > MOST_KNOWN:
            self._forget()
        known, words = len(self.numbers), WORD.findall(joined)
        numbers = np.fromiter(map(self.numbers.__getitem__, words), np.int64, len(words))
        self._learn(list(islice(self.numbers, known, None)))
        lengths = self.lengths[numbers]
        ends = lengths.cumsum()
        total = ends[-1] if len(ends) else 0
        pieces = self.pieces[np.repeat(self.starts[numbers] - ends + lengths, lengths) + np.arange(total)]
        return pieces, np.diff(ends[numbers == 0], prepend=0)

    def _learn(self, words: list[str]) -> None:
        pieces, lengths = _joined(self._encode(words))
        self.starts = np.concatenate([self.starts, len(self.pieces) + lengths.cumsum() - lengths])
        self.lengths = np.concatenate([self.lengths, lengths])
        self.pieces = np.concatenate([self.pieces, pieces])
        self.bytes += sum(map(sys.getsizeof, words)) + WORD_BYTES * len(words)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        return self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)


def _joined(encoded: Iterable[Encoding]) -> tuple[np.ndarray, np.ndarray]:
    """Pieces one after another, int32[P], and how many each encoding has, int64[N]."""
    found = [one.ids for one in encoded]
    lengths = np.array([len(ids) for ids in found], np.int64)
    return np.fromiter(chain.from_iterable(found), np.int32, lengths.sum()), lengths
