"""What a BERT that starts from nothing will have learned, by its size and by how much it reads."""

from __future__ import annotations

import math

from fusebert.model.trunk import SIZES

FLOOR, BY_SIZE, SIZE_POWER, BY_TOKENS, TOKENS_POWER = 0.25, 0.102, 0.34, 0.559, 0.228
"""L / H = FLOOR + BY_SIZE * parameters^-SIZE_POWER + BY_TOKENS * tokens^-TOKENS_POWER, both in millions: the form of
Hoffmann et al. 2022, eq. 2. The first and the third are taken as given, the others fitted to runs of tiny, mini and
medium on English (`benchmarks/pretrain_law.jsonl`, by `pretrain_law.py`), of which none is off by more than 7 %. Words
were masked whole; with `task.whole_words=false` they are easier to guess, by about a tenth."""
REUSE = 15.4
"""Tokens read again are worth less: so many passes are the most they can be worth (Muennighoff et al. 2023, eq. 5)."""


def expected_loss(entropy: float, parameters: int, tokens: float, corpus_tokens: int) -> float:
    """Held-out MLM loss in nats a piece of a BERT that starts from nothing.

    Args:
        entropy: cost of guessing by frequency alone, in nats.
        parameters: of the layers, without embeddings.
        tokens: read in training.
        corpus_tokens: that the corpus has; reading them again is worth less.
    """
    by_size = BY_SIZE * (parameters / 1e6) ** -SIZE_POWER
    by_tokens = BY_TOKENS * (worth(tokens, corpus_tokens) / 1e6) ** -TOKENS_POWER
    share: float = min(1.0, FLOOR + by_size + by_tokens)
    return entropy * share


def worth(tokens: float, corpus_tokens: float) -> float:
    """New tokens that would teach as much as these, of which many were read before."""
    unique = min(tokens, corpus_tokens)
    return unique + unique * REUSE * (1 - math.exp(-(tokens / unique - 1) / REUSE))


def layer_parameters(trunk: str) -> int:
    """Weights of the layers of a size by name."""
    layers, hidden = SIZES[trunk]
    return 12 * layers * hidden**2
