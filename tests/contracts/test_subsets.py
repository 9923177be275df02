"""Any subset of modalities in a row, however they meet and whatever the head reads."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch

from fusebert.types import Sample
from tests.contracts.test_modalities import COLUMNS, MODALITIES, logits, processor_of, without
from tests.model.test_fusion import FUSIONS, model_with

SUBSETS = [set(kept) for size in range(1, len(MODALITIES) + 1) for kept in combinations(MODALITIES, size)]


@pytest.fixture(scope="module")
def processors(samples: list[Sample]) -> dict[str, Any]:
    return {name: processor_of(name, samples) for name in MODALITIES}


def rows_of_every_subset(sample: Sample) -> list[Sample]:
    lacking = [[column for name in set(MODALITIES) - kept for column in COLUMNS[name]] for kept in SUBSETS]
    return [without(sample, columns) for columns in lacking]


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_subset(fusion: str, pooling: str, processors: dict[str, Any], samples: list[Sample]) -> None:
    """Finite, the same when asked again, the same as the row alone, and another than that of any other subset."""
    model = model_with(processors, fusion, pooling)
    rows = rows_of_every_subset(samples[0])
    together = logits(model, processors, rows)
    assert together.isfinite().all()
    torch.testing.assert_close(logits(model, processors, rows), together, rtol=0, atol=0)
    alone = torch.cat([logits(model, processors, [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    apart = torch.cdist(together.double(), together.double()).fill_diagonal_(1)
    assert apart.min() > 1e-4
