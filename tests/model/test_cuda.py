"""The CUDA kernels against the padded twin. Skipped where there is no CUDA device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fusebert.model.packed import attention, padded_attention
from fusebert.training.run import train
from fusebert.types import Layout

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
LENGTHS = (1, 3, 17, 64, 64, 130)


def layout() -> Layout:
    lengths = torch.tensor(LENGTHS)
    cumulative = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to("cuda", torch.int32)
    return Layout(cumulative, LENGTHS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_packed_attention_and_its_gradient_equal_the_padded_twin(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    source = torch.randn(sum(LENGTHS), 3, 4, 64, device="cuda")
    weights = torch.randn(sum(LENGTHS), 256, device="cuda")
    found = []
    for function, kind in ((attention, dtype), (padded_attention, torch.float32)):
        qkv = source.clone().requires_grad_()
        out = function(qkv.to(kind), layout()).float()
        (out * weights).sum().backward()
        found.append((out, qkv.grad))
    exact = 1e-5 if dtype == torch.float32 else 3e-2
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=exact * max(1.0, float(theirs.abs().max())))


def test_a_model_trains_there_and_answers_as_on_a_cpu(tiny: dict[str, Any], tmp_path: Path) -> None:
    from fusebert.evaluation.predictor import load

    trained = train(tiny | {"training.device": "cuda"}, tmp_path / "model")
    assert trained.model.device.type == "cuda"
    row = {"question": "what shape is it?"}
    there, here = (load(tmp_path / "model", device).predict(row).probability for device in ("cuda", "cpu"))
    assert there == pytest.approx(here, abs=1e-3)
