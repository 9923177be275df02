"""`blank`: a row is used without the input that cannot be read, and each such input is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fusebert.cli import main
from fusebert.errors import DataError, RowError
from fusebert.evaluation.predictor import load
from fusebert.training.run import train

BROKEN = 3


@pytest.fixture
def damaged(world: Path, tmp_path: Path) -> Path:
    """The world with BROKEN pictures in train and one in test that are gone."""
    folder = shutil.copytree(world, tmp_path / "world")
    for split, count in (("train", BROKEN), ("test", 1)):
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        for row in rows[:count]:
            row["image"] = "images/gone.png"
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_trained_scored_and_answered_without_what_is_gone(
    damaged: Path, tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny | {"data.root": str(damaged), "training.epochs": 1, "data.test": "test.jsonl"}
    with pytest.raises(DataError, match=f"^{BROKEN + 1} of .* rows cannot be used"):
        train(settings, tmp_path / "refused")
    model = train(settings | {"data.bad_rows": "blank"}, tmp_path / "model")
    listed = [json.loads(line) for line in (tmp_path / "model" / "bad_rows.jsonl").read_text().splitlines()]
    assert [(row["row"], row["column"]) for row in listed] == [(1, "image"), (1, "image"), (2, "image"), (3, "image")]
    assert model.metrics["evaluations"]["test"]["rows"] == len((damaged / "test.jsonl").read_text().splitlines())
    assert "image shuffled" in model.metrics["ledger"]

    table = damaged / "test.jsonl"
    with pytest.raises(DataError, match=r"gone\.png"):
        model.evaluate(table)
    found = model.evaluate(table, bad_rows="blank", listed_in=tmp_path / "lost.jsonl")
    assert (found["lost_values"], found.get("bad_rows")) == (1, None)
    assert found["metrics"] == model.metrics["evaluations"]["test"]["metrics"]
    assert json.loads((tmp_path / "lost.jsonl").read_text())["column"] == "image"
    assert model.evaluate(table, bad_rows="blank", shuffle="image")["lost_values"] == 1

    capsys.readouterr()
    assert main(["predict", str(model.folder), str(table), "--bad-rows", "blank", "--json"]) == 0
    out, err = capsys.readouterr()
    answers = json.loads(out)["answers"]
    assert answers[0]["left_out"] == ["image"]
    assert all("left_out" not in answer for answer in answers[1:])
    assert "left out: " in err
    question = json.loads(table.read_text().splitlines()[0])["question"]
    assert answers[0]["answer"] == load(model.folder).predict({"question": question}).value


def test_a_row_that_has_nothing_else_is_still_refused(trained: Path) -> None:
    rows = [{"question": "what is it", "image": "gone.png"}, {"image": "gone.png"}]
    lost: dict[Any, RowError] = {}
    answers = [answer for _, answer in load(trained).answers(rows, lost=lost)]
    assert not isinstance(answers[0], RowError)
    assert isinstance(answers[1], RowError)
    assert str(answers[1]) == "the given table, row 2, column 'image': file 'gone.png' does not exist"
    assert [(row, column) for _, row, column in lost] == [(1, "image")]
