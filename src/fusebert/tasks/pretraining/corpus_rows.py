"""Rows for pre-training: sentence pairs of a tokenized corpus, masked anew whenever they are read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from fusebert.corpus.pairs import NextSentence, Pairs, draw_pairs
from fusebert.corpus.tokens import Tokens
from fusebert.tasks.pretraining.masking import Masking
from fusebert.tasks.pretraining.task import IGNORED, Target
from fusebert.types import TEXT, Example


class PairRows:
    """The part of the corpus that one epoch reads. What it holds is a pure function of seed and epoch.

    Args:
        special: ids of [CLS] and [SEP], by name.
        length: tokens of a full row.
        kind: of the question about the pair.
        share: of the corpus that an epoch reads: 0.5 is half a pass, the next epoch reads the other half.

    Attributes:
        in_pass: rows of the whole pass that the epoch begins in.
    """

    def __init__(
        self,
        corpus: Tokens,
        special: Mapping[str, int],
        masking: Masking,
        length: int,
        kind: NextSentence,
        seed: int,
        share: float = 1.0,
    ) -> None:
        self.corpus, self.special, self.masking = corpus, special, masking
        self.length, self.kind, self.seed, self.share = length, kind, seed, share
        self._drawn: tuple[int, Pairs] | None = None
        self.epoch = 0

    @property
    def epoch(self) -> int:
        return self._epoch

    @epoch.setter
    def epoch(self, number: int) -> None:
        self._epoch = number
        start, end = number * self.share, (number + 1) * self.share
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for which in range(math.floor(start), math.ceil(end - 1e-9)):  # sums of shares are not exact
            pairs = self._pass(which)
            count = len(pairs.labels)
            if not parts:
                self.in_pass = count
            part = slice(round(count * max(0.0, start - which)), round(count * min(1.0, end - which)))
            parts.append((pairs.spans[part], pairs.labels[part]))
        self.pairs = Pairs(np.concatenate([spans for spans, _ in parts]), np.concatenate([found for _, found in parts]))
        self.lengths = self.pairs.lengths

    def _pass(self, which: int) -> Pairs:
        if self._drawn is None or self._drawn[0] != which:
            random = np.random.default_rng([self.seed, which, 1])  # not that of an epoch's order
            self._drawn = (which, draw_pairs(self.corpus, self.length, self.kind, random))
        return self._drawn[1]

    def __getstate__(self) -> dict[str, object]:
        """For worker processes, which read this epoch's rows only."""
        return self.__dict__ | {"_drawn": None}

    def __len__(self) -> int:
        return len(self.pairs.labels)

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Example:
        """A row `[CLS] A [SEP] B [SEP]` without its [CLS], which is the model's, and what is asked of it."""
        random = np.random.default_rng([self.seed, self.epoch, number, 1])
        start_a, end_a, start_b, end_b = self.pairs.spans[number].tolist()
        long_a, long_b = end_a - start_a, end_b - start_b
        spans = [slice(start_a, end_a), slice(start_b, end_b)]
        pieces, joins = np.asarray(self.corpus.ids), np.asarray(self.corpus.inside)  # memory maps are slow to slice
        ids = np.concatenate([pieces[span] for span in spans], dtype=np.int64)
        inside = np.concatenate([joins[span] for span in spans])
        inside[[0, long_a] if long_b else [0]] = False  # the rest of a word that was cut off is a word of its own
        replaced, chosen = self.masking(ids, inside, random)
        separator = self.special["[SEP]"]
        text = np.full(long_a + 1 + (long_b + 1 if long_b else 0), separator)
        text[:long_a], text[long_a + 1 : long_a + 1 + long_b] = replaced[:long_a], replaced[long_a:]
        types = np.zeros(len(text), dtype=np.int64)
        types[long_a + 1 :] = 1
        features = {"input_ids": text, "token_type_ids": types, "position_ids": np.arange(1, len(text) + 1)}
        places = 1 + chosen + (chosen >= long_a)
        label = int(self.pairs.labels[number]) if self.kind != "off" else IGNORED
        return Example({TEXT: features}, Target(places, ids[chosen], label), len(text) + 1)
