"""Rows for pre-training with more than text: words to guess in sight of what is beside them; does it belong there?"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from fusebert.corpus.pairs import IS_NEXT, NOT_NEXT, RANDOM_SHARE
from fusebert.corpus.sentences import HAN
from fusebert.corpus.tokens import continuations, inside_chinese
from fusebert.data.dataset import Dataset
from fusebert.modalities.text.processor import Processor, texts_of
from fusebert.modalities.text.tokenizer import cut
from fusebert.tasks.pretraining.masking import Masking
from fusebert.tasks.pretraining.task import IGNORED, Target
from fusebert.types import TEXT, Example, Features, Sample

MOST_DRAWS = 64
"""A row that so many draws find no other for keeps what is its own."""


class TableRows:
    """The rows that one epoch reads. What it holds is a pure function of seed and epoch.

    Half of the rows that have text and something beside it show what belongs to another row of the same part, one with
    other text and other things beside it: does it match? Words are masked in all rows, else the masks would give the
    answer away; they are to be guessed in rows that match only, where what is beside them can help (12-in-1, Lu et al.
    2020).

    Args:
        rows: of one part, checked; each has text.
        matching: whether to ask if text and the rest belong together.
        one_stream: whether the trunk reads all tokens of a row in one sequence, or the text alone.
        share: of the rows that an epoch reads: 0.5 is half a pass, the next epoch reads the other half.
    """

    def __init__(
        self, rows: Dataset, masking: Masking, matching: bool, one_stream: bool, seed: int, share: float = 1.0
    ) -> None:
        self.masking, self.matching, self.one_stream, self.seed, self.share = masking, matching, one_stream, seed, share
        self.all, self.preparer = rows, rows.preparer
        self.text: Processor = self.preparer.processors[TEXT]  # type: ignore[assignment]
        self.joins = continuations(self.text.tokenizer)
        ids = [self.text.load(sample)["input_ids"] for sample in rows.samples]  # type: ignore[index]
        self.text_lengths = np.array([len(found) for found in ids], dtype=np.int64)
        self.beside_lengths = rows.lengths - 1 - self.text_lengths
        words = [found[found != self.text.special["[SEP]"]] for found in ids]
        self.pieces = np.concatenate(words)
        self.complete = np.flatnonzero((np.array([len(found) for found in words]) > 0) & (self.beside_lengths > 0))
        processors = self.preparer.processors
        columns = [column for name in processors if name != TEXT for column in processors[name].columns]
        self.texts, self.beside = _kinds(rows.samples, self.text.columns), _kinds(rows.samples, columns)
        self.epoch = 0

    @property
    def differ(self) -> bool:
        """Whether there are rows to swap with: others with another text and other things beside it."""
        return all(len(np.unique(kinds[self.complete])) > 1 for kinds in (self.texts, self.beside))

    @property
    def epoch(self) -> int:
        return self._epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch, count = number, len(self.text_lengths)
        first, last = (round(place * self.share * count) for place in (number, number + 1))
        own: list[np.ndarray] = []
        shown: list[np.ndarray] = []
        for which in range(first // count, -(-last // count)):
            part = slice(max(0, first - which * count), last - which * count)
            for found, drawn in zip((own, shown), self._pass(which), strict=True):
                found.append(drawn[part])
        self.own, self.shown = np.concatenate(own), np.concatenate(shown)
        self.lengths = 1 + self.text_lengths[self.own] + self.beside_lengths[self.shown]
        self.all.epoch = number

    def _pass(self, which: int) -> tuple[np.ndarray, np.ndarray]:
        """All rows in a random order, and whose things each is shown: int64[rows] each."""
        random = np.random.default_rng([self.seed, which, 1])  # not that of an epoch's order
        own = random.permutation(len(self.text_lengths))
        shown = np.arange(len(own))
        if self.matching and len(self.complete):
            asked = random.permutation(self.complete)[: round(len(self.complete) * RANDOM_SHARE)]
            for _ in range(MOST_DRAWS):
                drawn = random.choice(self.complete, len(asked))
                fits = (self.texts[drawn] != self.texts[asked]) & (self.beside[drawn] != self.beside[asked])
                shown[asked[fits]] = drawn[fits]
                asked = asked[~fits]
        return own, shown[own]

    def _together(self, number: int, own: int, shown: int) -> Example:
        """The text of one row and what stands beside that of another."""
        text, beside = self.all.prepared(own).features, self.all.prepared(shown).features
        sources = {name: text if name == TEXT else beside for name in self.preparer.processors}
        features = {name: source[name] for name, source in sources.items() if name in source}
        return self.all.drawn(Example(features, None, int(self.lengths[number])), number)

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Example:
        """A row with some of its words replaced, and what is asked of it."""
        own, shown = int(self.own[number]), int(self.shown[number])
        example, belongs = self._together(number, own, shown), own == shown
        features, nothing = dict(example.features), np.zeros(0, dtype=np.int64)
        label = IGNORED
        if self.matching and TEXT in features and len(features) > 1:
            label = IS_NEXT if belongs else NOT_NEXT
        ids = features[TEXT]["input_ids"] if TEXT in features else nothing
        words = np.flatnonzero(ids != self.text.special["[SEP]"])
        if not len(words):
            return Example(features, Target(nothing, nothing, label), example.length)
        random = np.random.default_rng([self.seed, self.epoch, number, 1])
        replaced, chosen = self.masking(ids[words], self._inside(ids, self.all.samples[own])[words], random)
        masked = ids.copy()
        masked[words] = replaced
        features[TEXT] = {**features[TEXT], "input_ids": masked}
        chosen = words[chosen] if belongs else nothing
        return Example(features, Target(self._first(features) + chosen, ids[chosen], label), example.length)

    def _inside(self, ids: np.ndarray, sample: Sample) -> np.ndarray:
        """bool[T]: which pieces continue a word, Chinese words too."""
        inside = self.joins[ids]
        if self.masking.whole_words:
            start = 0
            ends = np.flatnonzero(ids == self.text.special["[SEP]"])
            for end, (_, text) in zip(ends.tolist(), texts_of(sample.values, self.text.columns), strict=True):
                text = cut(text, self.text.config.max_tokens)
                if HAN.search(text):
                    inside[start:end] |= inside_chinese(self.text.tokenizer, text)[: end - start]
                start = end + 1
        return np.asarray(inside)

    def _first(self, features: Mapping[str, Features]) -> int:
        """Where the text starts among the row's tokens that the trunk reads."""
        processors = self.preparer.processors if self.one_stream else {}
        before = itertools.takewhile(lambda name: name != TEXT, processors)
        return 1 + sum(processors[name].length(features[name]) for name in before if name in features)


def _kinds(samples: Sequence[Sample], columns: Sequence[str]) -> np.ndarray:
    """int64[rows]: rows with the same values in these columns have the same number."""
    numbers: dict[bytes, int] = {}
    digests = (_digest([sample.values.get(name) for name in columns]) for sample in samples)
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests], dtype=np.int64)


def _digest(values: Sequence[object]) -> bytes:
    return hashlib.blake2b(repr(values).encode(errors="backslashreplace"), digest_size=16).digest()
