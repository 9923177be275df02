"""The metric that chooses the epoch whose weights are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusebert.errors import FusebertError, UsageError
from fusebert.storage import read_json
from fusebert.training.run import train


def test_the_metric_that_a_recipe_names_chooses_the_weights(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    train(tiny | {"task.metric": "auroc", "training.epochs": 4}, folder)
    found = read_json(folder / "metrics.json")
    history = {entry["step"]: entry["validation"]["auroc"] for entry in found["training"]["history"]}
    assert history[found["training"]["best_step"]] == max(history.values())
    assert {next(iter(one["metrics"])) for one in found["evaluations"].values()} == {"auroc"}
    assert {next(iter(entry["validation"])) for entry in found["training"]["history"]} == {"auroc"}


def test_among_equal_scores_the_least_loss_chooses(tiny: dict[str, Any], tmp_path: Path) -> None:
    train(tiny | {"training.learning_rate": 1e-6, "training.epochs": 4}, tmp_path / "model")
    training = read_json(tmp_path / "model" / "metrics.json")["training"]
    history = {entry["step"]: entry["validation"] for entry in training["history"]}
    assert len({entry["accuracy"] for entry in history.values()}) == 1
    assert training["best_step"] == min(history, key=lambda step: history[step]["loss"]) > min(history)


def test_a_metric_of_lists_is_refused_for_single_labels(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lists of labels"):
        train(tiny | {"task.metric": "f1_micro"}, tmp_path / "model")


def test_validation_rows_of_one_label_have_no_curve(tiny: dict[str, Any], world: Path, tmp_path: Path) -> None:
    rows = (world / "val.jsonl").read_text(encoding="utf-8").splitlines()
    alike = tmp_path / "val.jsonl"
    alike.write_text("\n".join(line for line in rows if '"answer": "yes"' in line) + "\n", encoding="utf-8")
    columns = tiny["data.columns"] | {"image": "ignore"}
    settings = tiny | {"data.validation": str(alike), "data.columns": columns, "task.metric": "auroc"}
    with pytest.raises(FusebertError, match=r"task\.metric"):
        train(settings, tmp_path / "model")
