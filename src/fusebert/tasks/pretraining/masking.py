"""Which pieces the model has to guess, and what stands in their place (Devlin et al. 2018, 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from tokenizers import Tokenizer

from fusebert.modalities.text.tokenizer import special_tokens

MASKED, KEPT = 0.8, 0.1
"""Of the chosen pieces, 80 % become [MASK], 10 % stay, 10 % become a random piece."""


@dataclass(frozen=True, slots=True)
class Masking:
    """How pieces are chosen.

    Args:
        share: of the pieces of a row, in (0, 1).
        whole_words: choose all pieces of a word, or none.
        mask_id: of [MASK].
        ordinary: int64[V'], ids of the pieces that are not special; random pieces come from these.
    """

    share: float
    whole_words: bool
    mask_id: int
    ordinary: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, share: float, whole_words: bool) -> Self:
        """With the pieces of a vocabulary."""
        special = special_tokens(tokenizer)
        ordinary = np.setdiff1d(list(tokenizer.get_vocab().values()), list(special.values()))
        return cls(share, whole_words, special["[MASK]"], ordinary)

    def __call__(
        self, ids: np.ndarray, inside: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Choose pieces and replace them.

        Args:
            ids: int64[T], text without special pieces.
            inside: bool[T], pieces that continue a word.

        Returns:
            The replaced ids int64[T], and the places of the chosen pieces int64[M], rising; M is at least one.
        """
        chosen = self._choose(inside, random)
        fate = random.random(len(chosen))
        replaced = ids.copy()
        replaced[chosen[fate < MASKED]] = self.mask_id
        at_random = chosen[fate >= MASKED + KEPT]
        replaced[at_random] = self.ordinary[random.integers(len(self.ordinary), size=len(at_random))]
        return replaced, chosen

    def _choose(self, inside: np.ndarray, random: np.random.Generator) -> np.ndarray:
        wanted = max(1, round(self.share * len(inside)))
        if not self.whole_words:
            return np.sort(random.permutation(len(inside))[:wanted])
        starts = np.flatnonzero(~inside)
        starts = starts if len(starts) and starts[0] == 0 else np.concatenate([[0], starts])
        ends = np.append(starts[1:], len(inside))
        order = random.permutation(len(starts))
        sizes = (ends - starts)[order]
        ends_at = sizes.cumsum()
        fitting = int(np.searchsorted(ends_at, wanted, side="right"))
        taken = np.zeros(len(order), dtype=np.bool_)
        taken[order[:fitting]] = True
        left = wanted - int(ends_at[fitting - 1]) if fitting else wanted
        for place in range(fitting + 1, len(order)):  # a word that no longer fits is passed over, as in BERT's script
            if not left:
                break
            if sizes[place] <= left:
                taken[order[place]], left = True, left - sizes[place]
        if not taken.any():  # one word longer than the share: better it than nothing
            taken[order[0]] = True
        return np.flatnonzero(np.repeat(taken, ends - starts))
