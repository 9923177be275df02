"""`check` refuses what training with the same settings refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from fusebert.cli import main
from fusebert.doctor.check import check


def table(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_target_and_the_task_may_be_settings(tmp_path: Path) -> None:
    source = table(tmp_path, [{"text": f"word {n}", "score": n % 5} for n in range(40)])
    found, _ = check(source, None, False, (), {"data.target": "score", "task.name": "regression"})
    assert [(one["column"], one["kind"]) for one in found["columns"]] == [("text", "text"), ("score", "regression")]


def test_pre_training_leaves_the_target_alone(tmp_path: Path) -> None:
    source = table(tmp_path, [{"text": f"word {n}", "size": n / 3, "label": n % 2} for n in range(40)])
    found, _ = check(source, "label", False, (), {"task.name": "pretraining"})
    assert {one["column"]: one["kind"] for one in found["columns"]} == {
        "text": "text",
        "size": "table",
        "label": "ignore",
    }
    assert found["bad_rows"] == 0


@pytest.mark.parametrize(("name", "longest", "said"), [("matching", 9, 0), ("matching", 20, 1), (None, 9, 1)])
def test_texts_that_are_cut_are_said_and_sides_are_cut_apart(
    name: str | None, longest: int, said: int, tmp_path: Path
) -> None:
    rows = [{"q": "what " * longest, "a": "it " * 9, "y": "ab"[n % 2]} for n in range(40)]
    settings: dict[str, Any] = {"text.max_tokens": 16}
    settings |= {"task.name": name, "task.left": ["q"], "task.right": ["a"]} if name else {}
    found, _ = check(table(tmp_path, rows), None if name else "y", False, (), settings)
    assert sum("lose the end of their text" in note for note in found["notes"]) == said


def test_a_side_of_nothing_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"q": f"what is {n}", "a": f"it is {n}" if n % 2 else "", "note": "x"} for n in range(20)]
    settings = {"task.name": "matching", "task.left": ["q"], "task.right": ["a"]}
    found, _ = check(table(tmp_path, rows), None, False, (), settings)
    assert found["bad_rows"] == 10
    assert {one["column"]: one["kind"] for one in found["columns"]}["note"] == "ignore"


@pytest.mark.parametrize(("unseen", "bad"), [("refuse", 1), ("wrong", 0)])
def test_a_label_that_training_lacks_is_a_bad_row(unseen: str, bad: int, tmp_path: Path) -> None:
    train = table(tmp_path, [{"text": f"word {n}", "label": "ab"[n % 2]} for n in range(20)])
    test = table(tmp_path, [{"text": "word", "label": label} for label in "abc"], "test.jsonl")
    found, _ = check(train, "label", False, [test], {"task.unseen_labels": unseen})
    assert found["bad_rows"] == bad


def test_labels_that_would_be_missing_values_count(tmp_path: Path) -> None:
    labels = ["none"] * 50 + ["a"] * 49 + ["b"]
    rows = [{"text": f"word {n}", "label": label} for n, label in enumerate(labels)]
    _, findings = check(table(tmp_path, rows), "label", False)
    assert "one label prevails" not in {one.fault for one in findings}
    (rare,) = [one for one in findings if one.fault == "rare labels"]
    assert [row.row for row in rare.rows] == [100]


@pytest.mark.parametrize("shapes", [("only {n}",), ("many", "only {n}")])
def test_labels_of_a_single_row_are_named(shapes: tuple[str, ...], tmp_path: Path) -> None:
    labels = [shapes[n % len(shapes)].format(n=n) for n in range(40)]
    rows = [{"text": f"word {n}", "label": label} for n, label in enumerate(labels)]
    _, findings = check(table(tmp_path, rows), "label", False)
    (found,) = [one for one in findings if one.fault == "rare labels"]
    single = [number for number, label in enumerate(labels, 1) if label != "many"]
    assert [row.row for row in found.rows] == single
    assert f"{len(single)} labels have a single training row" in found.said


def test_lists_of_labels_are_counted_one_by_one(tmp_path: Path) -> None:
    rows = [{"text": f"word {n}", "label": ["a", f"b{n % 5}"]} for n in range(60)]
    _, findings = check(table(tmp_path, rows), "label", False)
    assert [one.said for one in findings if one.fault == "rare labels"] == []
    assert "100.0% of the rows have 'a'" in next(one.said for one in findings if one.fault == "one label prevails")


def test_events_with_text_are_read_with_the_trunk_that_is_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [[{"item": f"i{n % 4}", "text": "a red circle"}, {"item": "i1"}] for n in range(30)]
    source = table(tmp_path, [{"history": one, "y": "ab"[n % 2]} for n, one in enumerate(events)])
    assert main(["check", str(source), "--target", "y", f"model.trunk={trained}"]) == 0, capsys.readouterr().err


def test_a_hard_negative_of_nothing_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"q": f"what is {n}", "a": f"it is {n}", "n": "it was" if n != 3 else ""} for n in range(20)]
    settings = {"task.name": "matching", "task.left": ["q"], "task.right": ["a"], "task.hard_negative": "n"}
    found, _ = check(table(tmp_path, rows), None, False, (), settings)
    assert [one["row"] for one in found["problems"]] == [4]


def test_lists_of_the_same_labels_are_no_contradiction(tmp_path: Path) -> None:
    rows = [{"text": f"word {n}", "label": ["a", f"b{n % 5}"]} for n in range(60)]
    rows += [{"text": "word 0", "label": ["b0", "a"]}]
    _, findings = check(table(tmp_path, rows), "label", False)
    assert not [one for one in findings if one.fault == "contradiction"]


def test_tables_that_settings_name_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": f"word {n}", "label": "ab"[n % 2]} for n in range(20)]
    train, test = table(tmp_path, rows), table(tmp_path, [{"text": "word", "label": "c"}], "test.jsonl")
    for against in ([], [test]):
        found, _ = check(train, "label", False, against, {"data.test": str(test)})
        assert (found["rows"], found["bad_rows"]) == (21, 1)
    assert main(["check", str(train), "--target", "label", f"data.validation={tmp_path / 'none.csv'}"]) == 1
    assert "none.csv does not exist" in capsys.readouterr().err
    assert main(["check", str(train), "--target", "label", f"data.train={test}"]) == 2
    assert "name one of them" in capsys.readouterr().err


def test_a_value_that_few_rows_have_gives_nothing_away_where_most_answers_are_alike(tmp_path: Path) -> None:
    labels = ["yes" if n % 16 == 0 else "no" for n in range(1000)]
    rows = [{"x": n, "seldom": "s" if n % 40 == 1 else "", "y": label} for n, label in enumerate(labels)]
    said = {one.column: one.said for one in check(table(tmp_path, rows), "y", False)[1] if "gives" in one.fault}
    assert said == {}
    rows = [row | {"seldom": row["y"] if n % 4 == 0 else ""} for n, row in enumerate(rows)]
    said = {one.column: one.said for one in check(table(tmp_path, rows), "y", False)[1] if "gives" in one.fault}
    assert "in 100.0% of the 250 rows that have one" in said["seldom"]


def test_the_setting_that_settles_a_doubt_is_that_of_the_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"what is it {n}", "y": n % 5, "day": "soon" if n == 3 else "2024-05-31"} for n in range(30)]
    assert main(["check", str(table(tmp_path, rows)), "--target", "y"]) == 1
    err = capsys.readouterr().err
    assert "AMBIGUOUS; task.name=TASK says what it is" in err
    assert "rows.jsonl, row 4, column 'day': 'soon' is not a date" in err


@pytest.mark.parametrize("kind", ["image", "sound"])
def test_a_copy_of_a_file_under_another_name_is_a_copy(kind: str, tmp_path: Path) -> None:
    """Also of what is too plain to be looked for by its looks."""
    random = np.random.default_rng(0)
    for number in range(40):
        if kind == "image":
            colour = tuple(int(one) for one in random.integers(0, 255, 3))
            Image.new("RGB", (16, 16), colour).save(tmp_path / f"{number}.png")
        else:
            soundfile.write(tmp_path / f"{number}.wav", random.normal(size=4000) / 10, 16_000)
    end = "png" if kind == "image" else "wav"
    for number in range(10):
        shutil.copy(tmp_path / f"{number}.{end}", tmp_path / f"copy{number}.{end}")
    rows = [{"file": f"{number}.{end}", "label": "ab"[number % 2]} for number in range(40)]
    copies = [{"file": f"copy{number}.{end}", "label": "ba"[number % 2]} for number in range(10)]
    train, both = table(tmp_path, rows), table(tmp_path, [*rows, *copies[:4]], "both.jsonl")
    _, findings = check(train, "label", False, [table(tmp_path, copies, "test.jsonl")])
    (copied,) = (one for one in findings if one.fault == "copied row")
    assert [row.row for row in copied.rows] == list(range(1, 11))
    _, findings = check(both, "label", False)
    found = {one.fault: [row.row for row in one.rows] for one in findings}
    assert found["repeated row"] == [41, 42, 43, 44]
    assert len(found["contradiction"]) == 8
