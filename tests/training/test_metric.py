"""The metric that chooses the epoch whose weights are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusebert.cli import main
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


def of_one_label(world: Path, split: str, folder: Path) -> Path:
    rows = (world / split).read_text(encoding="utf-8").splitlines()
    alike = folder / split
    alike.write_text("\n".join(line for line in rows if '"answer": "yes"' in line) + "\n", encoding="utf-8")
    return alike


def test_validation_rows_of_one_label_have_no_curve(tiny: dict[str, Any], world: Path, tmp_path: Path) -> None:
    columns = tiny["data.columns"] | {"image": "ignore"}
    alike = of_one_label(world, "val.jsonl", tmp_path)
    settings = tiny | {"data.validation": str(alike), "data.columns": columns, "task.metric": "auroc"}
    with pytest.raises(FusebertError, match=r"task\.metric"):
        train(settings, tmp_path / "model")


def test_test_rows_of_one_label_have_no_curve_but_a_report(
    tiny: dict[str, Any], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, alike = tmp_path / "model", of_one_label(world, "test.jsonl", tmp_path)
    columns = tiny["data.columns"] | {"image": "ignore"}
    settings = {"data.test": str(alike), "data.columns": columns, "task.metric": "auroc", "training.epochs": 1}
    metrics = train(tiny | settings, folder).metrics
    validation, test = (metrics["evaluations"][split]["metrics"] for split in ("validation", "test"))
    assert "auroc" in validation
    assert "auroc" not in test
    said = "test are too much alike to tell AUROC"
    assert any(said in line for line in metrics["warnings"])
    for name in ("report.html", "README.md"):
        assert said in (folder / name).read_text(encoding="utf-8")
    assert main(["evaluate", str(folder), str(alike)]) == 0
    assert "test.jsonl are too much alike to tell AUROC" in capsys.readouterr().err
