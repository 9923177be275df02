"""A small training run gives the losses it gave before. A change that moves them says so here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).with_name("losses.json")
TOLERANCE = 2e-3
"""Processors add up in different orders; a changed computation moves the losses by far more."""


def test_the_losses_are_as_stored(trained: Path, tiny: dict[str, Any]) -> None:
    history = json.loads((trained / "metrics.json").read_text())["training"]["history"]
    found = [[epoch["train_loss"], epoch["validation"]["loss"]] for epoch in history]
    assert found == [pytest.approx(epoch, abs=TOLERANCE) for epoch in json.loads(GOLDEN.read_text())]
