"""A folder is read as its tables or as pictures by class; the doctor says which, or that there is nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from fusebert.cli import main


def pictures(folder: Path) -> None:
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for number in range(3):
            Image.effect_noise((20, 20), 50 + number).save(folder / kind / f"{number}.png")


def tables(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("text,label\nwhat is it,a\nwhat was it,b\n")


def test_it_says_how_a_folder_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures(tmp_path / "animals")
    tables(tmp_path / "animals", "notes.csv")
    assert main(["check", str(tmp_path / "animals"), "--target", "label", "--json"]) == 0
    out, err = capsys.readouterr()
    said = "has no table named train, so it is read as pictures of 2 classes, a folder each (cat, dog); its tables are "
    assert f"{tmp_path / 'animals'} {said}left alone (notes.csv)" in err
    assert said in json.loads(out)["notes"][0]
    tables(tmp_path / "split", "train.csv", "test.csv")
    (tmp_path / "split" / "train.md").write_text("about them")
    assert main(["check", str(tmp_path / "split"), "--target", "label"]) == 0
    assert f"{tmp_path / 'split'} is read as tables: train.csv, test.csv\n" in capsys.readouterr().err


@pytest.mark.parametrize("setting", [[], ["task.name=recommendation"]], ids=["rows", "events"])
def test_a_table_without_rows_is_named_and_no_other(
    setting: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.csv").write_text("user,item\n")
    (tmp_path / "test.csv").write_text("user,item\na,b,c\n")
    assert main(["check", str(tmp_path), *setting]) == 1
    assert f"{tmp_path / 'train.csv'} has no rows" in capsys.readouterr().err


def test_a_folder_with_nothing_to_look_at_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    assert main(["check", str(tmp_path / "empty")]) == 1
    err = capsys.readouterr().err
    assert "has no table named train (such as train.csv or train.jsonl), and no folders with pictures or sounds" in err
    assert "name it" not in err
    tables(tmp_path / "rows", "test.csv", "rows.csv")
    assert main(["check", str(tmp_path / "rows")]) == 1
    assert "to look at one of its tables, name it (rows.csv, test.csv)" in capsys.readouterr().err


def test_lists_of_bad_rows_are_no_split_and_two_tables_are_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables(tmp_path / "split", "train.csv", "val.csv", "train.v1.csv", "val.csv.bad_rows.jsonl")
    assert main(["check", str(tmp_path / "split"), "--target", "label"]) == 0
    assert "is read as tables: train.csv, val.csv\n" in capsys.readouterr().err
    (tmp_path / "split" / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    assert main(["check", str(tmp_path / "split"), "--target", "label"]) == 2
    assert "has train.csv and train.jsonl: which is train?" in capsys.readouterr().err


def test_two_tables_of_one_name_are_both_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    for folder, rows in (("old", 3), (".", 2)):
        (tmp_path / folder / "data.csv").write_text("x,y\n" + "1,2\n" * rows)
    monkeypatch.chdir(tmp_path)
    assert main(["check", "old/data.csv", "--against", "data.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 5
