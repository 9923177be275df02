"""Prepared rows -> one packed batch of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fusebert.modalities.base import Processor
from fusebert.types import TEXT, Example


class Collator:
    """Packs examples, in the order given. No padding: a modality that a row lacks takes zero tokens.

    The batch: `inputs` (modality -> field -> tensor, only modalities that some row has), `order` int64[N] (where each
    packed token stands among [CLS] of all rows, then all tokens of the first modality, ...), `cu_seqlens` int32[B + 1]
    (start of each row), `lengths` (the same on the host, so that no step waits for a device), `counts` (modality -> its
    tokens in each row, on the host), `labels` if known.

    Args:
        processors: by modality.
        collate_targets: the targets of the rows and the start of each row int64[B] -> an array, or arrays by name.
        text_alone: the trunk's sequence holds text only (concat, two_stream), so `starts` count text tokens only.
    """

    def __init__(
        self,
        processors: Mapping[str, Processor],
        collate_targets: Callable[[Sequence[Any], np.ndarray], Any],
        text_alone: bool = False,
    ) -> None:
        self.processors, self.collate_targets, self.text_alone = processors, collate_targets, text_alone

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        inputs: dict[str, dict[str, torch.Tensor]] = {}
        counts: dict[str, list[int]] = {}
        packed = [one for example in examples for one in example.packed()]
        sources = [np.ones(len(packed), dtype=np.int64)]
        for name, processor in self.processors.items():
            rows = [one.features[name] for one in packed if name in one.features]
            if rows:
                inputs[name] = {field: torch.from_numpy(array) for field, array in processor.collate(rows).items()}
                counts[name] = [self._length(name, one) for one in packed]
                sources.append(np.array(counts[name], dtype=np.int64))
        order, lengths = interleave(sources)
        starts = np.concatenate([[0], lengths.cumsum()])
        batch: dict[str, Any] = {
            "inputs": inputs,
            "order": torch.from_numpy(order),
            "cu_seqlens": torch.from_numpy(starts.astype(np.int32)),
            "lengths": lengths.tolist(),
            "counts": counts,
        }
        targets = [example.target for example in examples if example.target is not None]
        if len(targets) == len(examples):
            if self.text_alone:
                starts = np.concatenate([[0], np.cumsum([1 + self._length(TEXT, one) for one in packed])])
            labels = self.collate_targets(targets, starts[:-1])
            if isinstance(labels, Mapping):
                batch["labels"] = {name: torch.from_numpy(array) for name, array in labels.items()}
            else:
                batch["labels"] = torch.from_numpy(labels)
        return batch

    def _length(self, name: str, example: Example) -> int:
        return self.processors[name].length(example.features[name]) if name in example.features else 0


def interleave(lengths: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where the tokens of several packed sources go, so that each row's lie together, in the order given.

    Args:
        lengths: int64[B] for each source, 0 where a row has nothing of it.

    Returns:
        order int64[N]: places in the sources put one after another, for a gather; and the rows' lengths int64[B].
    """
    table = np.stack(lengths, axis=1)  # int[B, sources]
    starts = np.concatenate([[0], table.T.ravel().cumsum()[:-1]]).reshape(table.T.shape).T
    counts, firsts = table.ravel(), starts.ravel()
    before = np.concatenate([[0], counts.cumsum()[:-1]])
    order = np.repeat(firsts - before, counts) + np.arange(counts.sum())
    return order, table.sum(axis=1)
