"""A rare label, from training to the folder, the scores, the answers and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusebert.cli import main
from fusebert.errors import UsageError
from fusebert.evaluation.trained_model import TrainedModel, load
from fusebert.storage import read_json
from fusebert.training.run import train


def write_rows(path: Path, rows: int, seed: int) -> Path:
    """One in eight is rare; a number says so, and not always."""
    random = np.random.default_rng(seed)
    rare = random.random(rows) < 0.125
    numbers = random.normal(size=rows) + 1.5 * rare
    lines = [
        {"x": round(float(x), 3), "y": "rare" if is_rare else "common"}
        for x, is_rare in zip(numbers, rare, strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("rare")
    settings: dict[str, Any] = {
        "data.train": str(write_rows(folder / "train.jsonl", 600, 0)),
        "data.validation": str(write_rows(folder / "val.jsonl", 300, 1)),
        "data.test": str(write_rows(folder / "test.jsonl", 600, 2)),
        "data.target": "y",
        "task.class_weights": "balanced",
        "model.trunk": "tiny",
        "training.epochs": 3,
        "training.trackers": [],
    }
    return train(settings, folder / "model")


def test_what_validation_rows_chose_is_kept_and_scored_alike_everywhere(model: TrainedModel) -> None:
    threshold = read_json(model.folder / "task.json")["thresholds"][1]
    assert 0.15 < threshold < 0.5
    test, loaded = model.folder.parent / "test.jsonl", load(model.folder)
    scores = model.metrics["evaluations"]["test"]
    assert loaded.evaluate(test)["metrics"] == pytest.approx(scores["metrics"])
    shuffled = loaded.evaluate(test, shuffle="table")
    assert shuffled["decision"]["rule"] == scores["decision"]["rule"]
    answers = loaded.predict(test, top=2)
    rare = [dict(answer.top)["rare"] for answer in answers]
    assert [answer.value for answer in answers] == ["rare" if p > threshold else "common" for p in rare]
    assert np.mean(rare) == pytest.approx(0.125, abs=0.04)  # as often as it occurs, though it weighed more
    assert scores["metrics"]["f1_macro"] > scores["decision"]["otherwise"]["f1_macro"]
    card = (model.folder / "README.md").read_text()
    assert f"above {threshold:.3g} (chosen on validation rows for F1, macro)" in card


def test_a_threshold_by_hand_counts_in_answers_and_scores(
    model: TrainedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, test = str(model.folder), str(model.folder.parent / "test.jsonl")
    given = {}
    for threshold in ("0.05", "0.95"):
        assert main(["predict", folder, test, "--threshold", threshold, "--json"]) == 0
        given[threshold] = [row["answer"] for row in json.loads(capsys.readouterr().out)["answers"]].count("rare")
        assert main(["evaluate", folder, test, "--threshold", threshold, "--json"]) == 0
        captured = capsys.readouterr()
        (row,) = [row for row in json.loads(captured.out)["per_class"] if row["label"] == "rare"]
        assert row["threshold"] == float(threshold)
        assert f"'rare' is the answer where its probability is above {threshold} (set by hand)" in captured.err
    assert given["0.05"] > given["0.95"]
    assert main(["predict", folder, test, "--threshold", "2"]) == 2
    assert "between 0 and 1" in capsys.readouterr().err


def test_only_labels_have_a_threshold(model: TrainedModel, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"x": number, "y": number / 3}) + "\n" for number in range(40)))
    settings = {"data.train": str(rows), "data.target": "y", "data.validation": 0.2, "data.columns": {"x": "table"}}
    numbers = train(settings | {"model.trunk": "tiny", "training.epochs": 1}, tmp_path / "numbers")
    with pytest.raises(UsageError, match="the task of this model is regression"):
        numbers.answering_from(0.3)


def test_labels_that_one_part_lacks_are_said(tmp_path: Path) -> None:
    def rows(name: str, labels: list[Any]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps({"x": number, "y": label}) + "\n" for number, label in enumerate(labels)))
        return str(path)

    settings = {
        "data.train": rows("train.jsonl", [200, 404, 500] * 10),
        "data.target": "y",
        "model.trunk": "tiny",
        "training.epochs": 1,
        "training.trackers": [],
    }
    model = train(settings | {"data.validation": rows("val.jsonl", [200] * 20)}, tmp_path / "model")
    assert "no validation row has the label 404, 500: scores on them say nothing of it" in model.metrics["warnings"]
    once = rows("once.jsonl", [*"aabb", *"cdefghijklmnopqrstuvwxyz"])
    model = train(settings | {"data.train": once, "task.name": "classification"}, tmp_path / "held_out")
    assert any(said.startswith("only validation rows have the label ") for said in model.metrics["warnings"])
