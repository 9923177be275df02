"""The processor's own cross-entropy against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusebert.evaluation.inference import autocast
from fusebert.model.cross_entropy import ROWS_AT_ONCE, linear_cross_entropy_sum

CPU = torch.device("cpu")


def given(rows: int, scale: float = 1.0) -> tuple[list[Tensor], Tensor]:
    """Hidden states, weights and bias that want a gradient, and the answers."""
    torch.manual_seed(0)
    made = [scale * torch.randn(rows, 32), torch.randn(501, 32), torch.randn(501)]
    return [one.requires_grad_() for one in made], torch.randint(501, (rows,))


def outcome(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    (0.3 * loss).backward()
    return [loss.detach(), *(one.grad for one in leaves)]  # type: ignore[list-item]


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 2e-2)])
@pytest.mark.parametrize("rows", [1, ROWS_AT_ONCE, 3 * ROWS_AT_ONCE + 5])
def test_equals_torch(precision: str, near: float, rows: int) -> None:
    leaves, answers = given(rows)
    with autocast(CPU, precision):
        found = outcome(linear_cross_entropy_sum(*leaves, answers), leaves)
    leaves, answers = given(rows)
    wanted = outcome(F.cross_entropy(F.linear(leaves[0], *leaves[1:]), answers, reduction="sum"), leaves)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= near * theirs.norm()


def test_an_answer_taken_for_impossible_has_a_finite_loss_and_a_gradient() -> None:
    leaves, answers = given(20, scale=100.0)
    found = outcome(linear_cross_entropy_sum(*leaves, answers), leaves)
    leaves, answers = given(20, scale=100.0)
    logits = F.linear(leaves[0], *leaves[1:])
    assert F.cross_entropy(logits, answers, reduction="none").max() > 1000
    for ours, theirs in zip(found, outcome(F.cross_entropy(logits, answers, reduction="sum"), leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)


def test_nothing_asked_costs_nothing_and_still_has_a_gradient() -> None:
    leaves, answers = given(0)
    found = outcome(linear_cross_entropy_sum(*leaves, answers), leaves)
    assert all(float(one.sum()) == 0 for one in found)


def test_without_a_gradient_the_loss_is_the_same() -> None:
    leaves, answers = given(40)
    with torch.no_grad():
        plain = linear_cross_entropy_sum(*leaves, answers)
    torch.testing.assert_close(plain, linear_cross_entropy_sum(*leaves, answers).detach())


@pytest.mark.parametrize("frozen", [0, 1, 2], ids=["hidden", "weight", "bias"])
def test_what_is_frozen_is_left_alone(frozen: int) -> None:
    found = []
    for loss in (
        linear_cross_entropy_sum,
        lambda *parts: F.cross_entropy(F.linear(*parts[:3]), parts[3], reduction="sum"),
    ):
        leaves, answers = given(40)
        leaves[frozen].requires_grad_(False)
        loss(*leaves, answers).backward()
        assert leaves[frozen].grad is None
        found.append([one.grad for one in leaves if one.requires_grad])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_in_bf16_only_the_product_is_rounded() -> None:
    leaves, answers = given(40)
    with autocast(CPU, "bf16"):
        found, logits = linear_cross_entropy_sum(*leaves, answers), F.linear(*leaves)
    wanted = F.cross_entropy(logits.float(), answers, reduction="sum")
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
