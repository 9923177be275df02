"""In bf16 on a CPU, the weights of a normalisation get the gradients that they get in fp32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fusebert.model.layer_norm import LayerNorm
from tests.contracts.test_subsets import processors  # noqa: F401
from tests.model.test_fusion import model_with


@pytest.mark.parametrize("tokens", [64, 3072, 16_384])
@pytest.mark.parametrize("mean", [0.0, 0.5])
@pytest.mark.parametrize("level", [0.0, 10.0])
def test_gradients_of_bf16_are_those_of_fp32(tokens: int, mean: float, level: float) -> None:
    torch.manual_seed(0)
    norm, hidden = LayerNorm(64, eps=1e-12), (torch.randn(tokens, 64) + level).bfloat16()
    hidden[0] = 1.0  # its deviation is nothing
    grad_output = (torch.randn(tokens, 64) + mean).bfloat16()
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        norm.zero_grad()
        given = hidden.to(dtype).requires_grad_()
        out = norm(given)
        assert out.dtype == dtype
        out.backward(grad_output.to(dtype))
        assert norm.weight.grad is not None
        assert norm.bias.grad is not None
        assert given.grad is not None
        grads.append([norm.weight.grad.clone(), norm.bias.grad.clone(), given.grad.float()])
    for exact, found in zip(*grads, strict=True):
        assert (found - exact).norm() < 0.01 * exact.norm()


def test_no_normalisation_of_a_model_is_torchs_own(processors: dict[str, Any]) -> None:  # noqa: F811
    norms = [module for module in model_with(processors, "one_stream").modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) > 5
    assert {type(module) for module in norms} == {LayerNorm}
