"""Next-sentence pairs, drawn anew each epoch by the rules of BERT's own data script (Devlin et al. 2018, A.2)."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fusebert.corpus.tokens import Tokens

NextSentence = Literal["off", "nsp", "sentence_order"]
IS_NEXT, NOT_NEXT = 0, 1
SHORT_SHARE, RANDOM_SHARE = 0.1, 0.5
LEAST_TOKENS = 2


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
    spans, labels = array("q"), array("q")  # a pass over a large corpus has many millions
    count = len(corpus.documents) - 1
    documents = np.asarray(corpus.documents)
    for number in map(int, random.permutation(count)):
        first, last = int(documents[number]), int(documents[number + 1])
        starts = corpus.sentences[first : last + 1].tolist()
        here, end = 0, last - first
        while here < end:
            target = int(random.integers(LEAST_TOKENS, most + 1)) if random.random() < SHORT_SHARE else most
            stop = here + 1
            while stop < end and starts[stop] - starts[here] < target:
                stop += 1
            if kind == "off":
                spans.extend((*_fit(starts[here], starts[stop], target, random), 0, 0))
                labels.append(IS_NEXT)
                here = stop
                continue
            middle = here + int(random.integers(1, stop - here)) if stop - here > 1 else stop
            a, label = (starts[here], starts[middle]), IS_NEXT
            if kind == "sentence_order" and middle == stop:
                a, b = (a[0], sum(a) // 2), (sum(a) // 2, a[1])
                here = stop
            elif kind == "nsp" and (middle == stop or random.random() < RANDOM_SHARE) and count > 1:
                b, label = _elsewhere(corpus, number, target - (a[1] - a[0]), random), NOT_NEXT
                here = middle
            else:
                b = (starts[middle], starts[stop])
                here = stop
            if b[0] < b[1] and a[0] < a[1]:
                if kind == "sentence_order" and random.random() < RANDOM_SHARE:
                    a, b, label = b, a, NOT_NEXT
                spans.extend(_fit_pair(a, b, most, random))
                labels.append(label)
    return Pairs(np.array(spans).reshape(-1, 4), np.array(labels))


def _elsewhere(corpus: Tokens, number: int, wanted: int, random: np.random.Generator) -> tuple[int, int]:
    """Sentences of another document, from a random one on, until they hold `wanted` tokens."""
    other = int(random.integers(len(corpus.documents) - 2))
    other += other >= number
    first, last = int(corpus.documents[other]), int(corpus.documents[other + 1])
    first = int(random.integers(first, last))
    start = int(corpus.sentences[first])
    stop = first + 1
    while stop < last and int(corpus.sentences[stop]) - start < wanted:
        stop += 1
    return start, int(corpus.sentences[stop])


def _fit_pair(
    a: tuple[int, int], b: tuple[int, int], most: int, random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Take tokens from the longer segment until both fit, each from its front or its back by chance."""
    long_a, long_b = a[1] - a[0], b[1] - b[0]
    excess = long_a + long_b - most
    if excess > 0:
        short = min(long_a, long_b)
        if max(long_a, long_b) - short >= excess:
            keep_a, keep_b = (long_a - excess, long_b) if long_a > long_b else (long_a, long_b - excess)
        else:
            keep_a, keep_b = most - most // 2, most // 2
        a, b = _fit(*a, keep_a, random), _fit(*b, keep_b, random)
    return (*a, *b)


def _fit(start: int, end: int, keep: int, random: np.random.Generator) -> tuple[int, int]:
    """The span without its excess, each excess token taken from the front with probability one half."""
    excess = end - start - keep
    if excess <= 0:
        return start, end
    front = int(random.binomial(excess, 0.5))
    return start + front, end - (excess - front)
