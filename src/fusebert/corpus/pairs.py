"""Next-sentence pairs, drawn anew each epoch by the rules of BERT's own data script (Devlin et al. 2018, A.2)."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusebert.corpus.tokens import Tokens

NextSentence = Literal["off", "nsp", "sentence_order"]
IS_NEXT, NOT_NEXT = 0, 1
SHORT_SHARE, RANDOM_SHARE = 0.1, 0.5
LEAST_TOKENS = 2
AT_ONCE = 10_000
"""Random numbers are drawn, and pairs made to fit."""


@dataclass(frozen=True)
class Pairs:
    """Where the two segments of each pair stand in the corpus.

    Args:
        spans: int64[P, 4]: start and end of A, start and end of B, in `Tokens.ids`; B is empty when there are no pairs.
        labels: int64[P]: IS_NEXT or NOT_NEXT.
    """

    spans: np.ndarray
    labels: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64[P], tokens of each with [CLS] and one [SEP] a segment."""
        a, b = self.spans[:, 1] - self.spans[:, 0], self.spans[:, 3] - self.spans[:, 2]
        return np.asarray(1 + a + 1 + b + (b > 0))


def draw_pairs(corpus: Tokens, length: int, kind: NextSentence, random: np.random.Generator) -> Pairs:
    """One pass over the corpus: every document is walked once, in a random order.

    Sentences are collected until they fill the target length; A ends at a random one of them. B is the rest, or
    (half of the time) as many sentences from a random place of another document, and the unused rest is walked again.
    One pair in ten aims at a random shorter length. With `sentence_order`, B is always the rest and half of the pairs
    are swapped (ALBERT, Lan et al. 2019); a lone sentence, of which no rest is left, is cut in its middle, so that it
    is read too. With `off`, a row is one segment.

    Args:
        length: tokens of a full row, [CLS] and [SEP] included.
    """
    most = length - (2 if kind == "off" else 3)
    spans, labels, rooms = array("q"), array("q"), array("q")  # a pass over a large corpus has many millions
    documents, sentences = np.asarray(corpus.documents), np.asarray(corpus.sentences)  # a memory map is slow by number
    count, chance = len(documents) - 1, _uniform(random)
    for number in map(int, random.permutation(count)):
        first, last = int(documents[number]), int(documents[number + 1])
        starts = sentences[first : last + 1].tolist()
        here, end = 0, last - first
        while here < end:
            target = LEAST_TOKENS + _below(most + 1 - LEAST_TOKENS, chance) if next(chance) < SHORT_SHARE else most
            stop = bisect_left(starts, starts[here] + target, here + 1, end)
            if kind == "off":
                spans.extend((starts[here], starts[stop], 0, 0))
                labels.append(IS_NEXT)
                rooms.append(target)
                here = stop
                continue
            middle = here + 1 + _below(stop - here - 1, chance) if stop - here > 1 else stop
            a, label = (starts[here], starts[middle]), IS_NEXT
            if kind == "sentence_order" and middle == stop:
                a, b = (a[0], sum(a) // 2), (sum(a) // 2, a[1])
                here = stop
            elif kind == "nsp" and (middle == stop or next(chance) < RANDOM_SHARE) and count > 1:
                b, label = _elsewhere(documents, sentences, number, target - (a[1] - a[0]), chance), NOT_NEXT
                here = middle
            else:
                b = (starts[middle], starts[stop])
                here = stop
            if b[0] < b[1] and a[0] < a[1]:
                if kind == "sentence_order" and next(chance) < RANDOM_SHARE:
                    a, b, label = b, a, NOT_NEXT
                spans.extend((*a, *b))
                labels.append(label)
                rooms.append(most)
    pairs = Pairs(np.array(spans).reshape(-1, 4), np.array(labels))
    for part in range(0, len(labels), AT_ONCE):
        _fit(pairs.spans[part : part + AT_ONCE], np.array(rooms[part : part + AT_ONCE]), random)
    return pairs


def _uniform(random: np.random.Generator) -> Iterator[float]:
    """Numbers in [0, 1), drawn many at once: each for itself, they would take most of the time."""
    while True:
        yield from random.random(AT_ONCE).tolist()


def _below(end: int, chance: Iterator[float]) -> int:
    """A number in [0, end)."""
    return int(next(chance) * end)


def _elsewhere(
    documents: np.ndarray, sentences: np.ndarray, number: int, wanted: int, chance: Iterator[float]
) -> tuple[int, int]:
    """Sentences of another document, from a random one on, until they hold `wanted` tokens."""
    other = _below(len(documents) - 2, chance)
    other += other >= number
    first, last = int(documents[other]), int(documents[other + 1])
    first += _below(last - first, chance)
    start = int(sentences[first])
    return start, int(sentences[bisect_left(sentences, start + wanted, first + 1, last)])


def _fit(spans: np.ndarray, rooms: np.ndarray, random: np.random.Generator) -> None:
    """Take tokens from the longer segment until both fit, each from its front or its back by chance.

    Args:
        spans: int64[P, 4], changed in place.
        rooms: int64[P], tokens that both may have together.
    """
    lengths = spans[:, 1::2] - spans[:, ::2]
    excess = np.maximum(0, lengths.sum(axis=1) - rooms)
    longer = lengths == lengths.max(axis=1, keepdims=True)
    one_suffices = np.abs(lengths[:, 0] - lengths[:, 1]) >= excess
    halves = np.stack([rooms - rooms // 2, rooms // 2], axis=1)
    kept = np.where(one_suffices[:, None], lengths - longer * excess[:, None], halves)
    taken = lengths - kept
    front = random.binomial(taken, 0.5)
    spans[:, ::2] += front
    spans[:, 1::2] -= taken - front
