"""`blank`: a row is used without the input that cannot be read, and each such input is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fusebert.cli import main
from fusebert.data import dataset
from fusebert.errors import DataError, RowError
from fusebert.evaluation.trained_model import load
from fusebert.training.pretrain_table import pretrain_table
from fusebert.training.progress import Silence
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
    assert "inputs of test that cannot be read, and so are left out of their rows: 1" in model.metrics["warnings"]
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


def test_a_row_without_anything_left_is_skipped_and_one_is_told_from_the_other(
    damaged: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in (damaged / "train.jsonl").read_text().splitlines()]
    lines[1]["question"], lines[4]["answer"], lines[4]["image"] = "", "", "images/gone.png"
    (damaged / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train(tiny | {"data.root": str(damaged), "training.epochs": 1, "data.bad_rows": "blank"}, tmp_path / "model")
    listed = [json.loads(line) for line in (tmp_path / "model" / "bad_rows.jsonl").read_text().splitlines()]
    assert [(row["row"], row["row_is_used"]) for row in listed] == [
        *((1, True), (1, True)),  # of test, and of train
        *((2, False), (3, True), (5, False)),
    ]


def test_a_picture_that_goes_while_it_trains_is_not_passed_over(
    damaged: Path, tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "KEPT_BYTES", 0)  # rows are prepared each time

    class Takes(Silence):
        def epoch(self, entry: dict[str, Any]) -> None:  # noqa: ARG002
            shutil.rmtree(damaged / "images", ignore_errors=True)

    settings = tiny | {"data.root": str(damaged), "training.epochs": 2, "data.bad_rows": "blank"}
    with pytest.raises(RowError, match="does not exist"):
        train(settings, tmp_path / "model", progress=Takes())


@pytest.mark.parametrize("task", ["matching", "pretraining"])
def test_what_is_lost_is_not_read_again(task: str, damaged: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (damaged / "train.jsonl").read_text().splitlines()]
    lines[5]["caption"] = {"a": 1}
    (damaged / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {"image": "image", "caption": "text", "question": "text"}
    ignored = dict.fromkeys(("language", "shapes", "colours", "answer", "id"), "ignore")
    kept = {key: value for key, value in tiny.items() if key not in ("data.target", "data.columns", "data.test")}
    settings = kept | {"data.root": str(damaged), "data.bad_rows": "blank", "data.columns": columns | ignored}
    if task == "matching":
        sides = {"task.left": ["image", "question"], "task.right": "caption", "training.epochs": 1}
        train(settings | {"task.name": "matching"} | sides, tmp_path / "model")
    else:
        short = {"task.passes": 1.0, "task.rounds": 1}
        gone = {key: value for key, value in settings.items() if key != "training.epochs"}
        pretrain_table(gone | short, tmp_path / "model")
    listed = [json.loads(line) for line in (tmp_path / "model" / "bad_rows.jsonl").read_text().splitlines()]
    assert (6, "caption") in [(row["row"], row["column"]) for row in listed]


def test_a_row_that_has_nothing_else_is_still_refused(trained: Path) -> None:
    rows = [{"question": "what is it", "image": "gone.png"}, {"image": "gone.png"}]
    lost: dataset.Lost = {}
    answers = [answer for _, answer in load(trained).answers(rows, lost=lost)]
    assert not isinstance(answers[0], RowError)
    assert isinstance(answers[1], RowError)
    assert str(answers[1]) == "the given table, row 2, column 'image': file 'gone.png' does not exist"
    assert [(row, list(columns)) for (_, row), columns in lost.items()] == [(1, ["image"])]
