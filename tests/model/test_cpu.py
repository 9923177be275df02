"""Quicker arithmetic is the same arithmetic."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from fusebert.model.cpu import Dropout, _OneDnnLinear, linear, round_up


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="torch was built without oneDNN")
def test_onednn_products_have_the_same_values_and_gradients() -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(301, 64), torch.randn(96, 64), torch.randn(96)]
    ours = [leaf.clone().requires_grad_() for leaf in leaves]
    torchs = [leaf.clone().requires_grad_() for leaf in leaves]
    weights = torch.randn(301, 96)
    found, wanted = _OneDnnLinear.apply(*ours), F.linear(*torchs)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-4)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    for ours_leaf, torchs_leaf in zip(ours, torchs, strict=True):
        torch.testing.assert_close(ours_leaf.grad, torchs_leaf.grad, rtol=1e-4, atol=1e-3)


def test_nothing_gives_no_gradient() -> None:
    weight, bias = torch.randn(50, 8, requires_grad=True), torch.zeros(50, requires_grad=True)
    linear(torch.zeros(0, 8, requires_grad=True), weight, bias).sum().backward()
    assert weight.grad is not None and bias.grad is not None  # noqa: PT018
    assert not weight.grad.any()
    assert not bias.grad.any()


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot")
def test_training_takes_the_tiniest_numbers_for_zero_in_all_threads() -> None:
    script = (
        "import torch; from fusebert.model.cpu import prepare_to_train; prepare_to_train();"
        "print(int((torch.full((2**22,), 1e-30) * 1e-12).view(torch.int32).count_nonzero()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_few_shapes_are_given_to_onednn() -> None:
    counts = range(1, 10_000)
    assert all(count <= round_up(count) <= max(count + 15, count * 17 / 16) for count in counts)
    assert all(round_up(round_up(count)) == round_up(count) for count in counts)
    assert len({round_up(count) for count in counts}) < 120
    assert round_up(5, 1) == 5


def test_bf16_products_are_those_of_the_rows_given() -> None:
    torch.manual_seed(0)
    values, weight = torch.randn(301, 64, requires_grad=True), torch.randn(96, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(values, weight, None)
    assert found.shape == (301, 96)
    torch.testing.assert_close(found.float(), values @ weight.T, rtol=0.05, atol=0.2)
    found.float().sum().backward()
    torch.testing.assert_close(weight.grad, values.sum(0).expand(96, 64), rtol=0.02, atol=0.3)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    layer = Dropout(share)
    out = layer(torch.ones(1000, 1000))
    assert float((out == 0).float().mean()) == pytest.approx(share, abs=0.002)
    assert float(out.mean()) == pytest.approx(1.0, abs=0.005)
    torch.manual_seed(0)
    assert torch.equal(layer(torch.ones(1000, 1000)), out)
    assert torch.equal(layer.eval()(out), out)


def test_nearly_all_may_be_dropped() -> None:
    assert Dropout(1 - 1e-9)(torch.ones(1000)).isfinite().all()


def test_dropout_is_independent_between_neighbours() -> None:
    torch.manual_seed(0)
    kept = (Dropout(0.5)(torch.ones(2**20)) > 0).float() - 0.5
    for lag in (1, 2, 3, 4, 8):
        assert abs(float((kept[:-lag] * kept[lag:]).mean())) < 0.002


@pytest.mark.parametrize(
    ("rows", "inside", "outside"), [(800, 800, 1024), (800, 1024, 800), (800, 800, 800), (40, 24, 48)]
)
def test_products_in_bf16_are_those_of_torch(rows: int, inside: int, outside: int) -> None:
    torch.manual_seed(0)
    leaves = [torch.randn(rows, inside), torch.randn(outside, inside), torch.randn(outside)]
    found = []
    for function in (linear, F.linear):
        given = [leaf.clone().requires_grad_() for leaf in leaves]
        with torch.autocast("cpu", torch.bfloat16):
            product = function(*given)
        assert product.dtype == torch.bfloat16
        (product.float() ** 2).mean().backward()
        found.append([product, *(leaf.grad for leaf in given)])
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= 1e-2 * theirs.norm()


def test_a_bias_that_is_not_dense_is_read_right() -> None:
    values, weight = torch.randn(16, 8).bfloat16(), torch.randn(48, 8).bfloat16()
    for bias in (torch.randn(96).bfloat16()[::2], torch.randn(1).bfloat16().expand(48)):
        torch.testing.assert_close(linear(values, weight, bias), F.linear(values, weight, bias), rtol=0, atol=6e-2)


def test_numbers_of_64_bits_stay_so_under_autocast() -> None:
    values, weight = torch.randn(16, 8).double(), torch.randn(48, 8).double()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(values, weight, None).dtype == torch.float64


def test_bf16_computes_where_the_processor_has_none() -> None:
    script = (
        "import torch; from fusebert.model.cpu import linear\n"
        "leaves = [torch.randn(*shape, requires_grad=True) for shape in ((40, 24), (48, 24), (48,))]\n"
        "with torch.autocast('cpu', torch.bfloat16): found = linear(*leaves)\n"
        "found.float().sum().backward(); print(found.dtype, all(leaf.grad is not None for leaf in leaves))"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "torch.bfloat16 True"
