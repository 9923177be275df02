"""What a finished folder shows of real rows: an example that runs, and values as they are."""

from __future__ import annotations

import json
import re
import runpy
from datetime import date
from pathlib import Path

import pytest

from fusebert.data.decimals import CommaNumber, PointNumber, UnclearNumber
from fusebert.evaluation.model_card import example_row
from fusebert.evaluation.publish import _shown
from fusebert.training.run import train
from fusebert.types import Sample
from tests.evaluation.test_report import Outline


def fenced(card: Path) -> dict[str, str]:
    """The blocks of a card by language."""
    return dict(re.findall(r"```(json|python)\n(.*?)\n```", card.read_text(encoding="utf-8"), re.DOTALL))


def run(code: str, model: Path, script: Path) -> bool:
    """Run the Python of a card; whether it came to its end."""
    script.write_text(code.replace("FOLDER", str(model)), encoding="utf-8")
    return "fusebert" in runpy.run_path(str(script))


def test_an_example_is_the_fullest_row_in_short() -> None:
    columns = {"clip": "audio", "scan": "image", "note": "text", "clicks": "events", "age": "table", "day": "table"}
    full = {
        "clip": {"bytes": b"RIFF" * 9999},
        "scan": "scans/1.png",
        "note": ["word " * 99, "more"],
        "clicks": json.dumps([{"item": n, "time": n} for n in range(9)]),
        "age": 0,
        "day": date(2024, 5, 31),
    }
    rows = [Sample(Path("rows.parquet"), 1, values, None) for values in ({"age": 5}, full)]
    found = example_row(columns, rows)
    assert found == {
        "clip": "sound.wav",
        "scan": "scans/1.png",
        "note": ("word " * 99)[:100] + "...",
        "clicks": [{"item": str(n), "type": "event", "time": n} for n in (6, 7, 8)],
        "age": 0,
        "day": "2024-05-31",
    }


def test_an_example_says_numbers_of_spreadsheets_as_json_does() -> None:
    cells = {"a": CommaNumber("2.697,50"), "b": CommaNumber("1.234"), "c": PointNumber("1,234.5")}
    cells |= {"d": UnclearNumber("1.234"), "e": CommaNumber("1,234.5"), "said": CommaNumber("2.697,50")}
    columns = dict.fromkeys(cells, "table") | {"said": "text"}
    found = example_row(columns, [Sample(Path("rows.csv"), 1, cells, None)])
    assert found == {"a": 2697.5, "b": 1234.0, "c": 1234.5, "d": "1.234", "e": "1,234.5", "said": "2.697,50"}


def test_the_example_of_a_card_runs_and_the_page_shows_what_is_zero(tmp_path: Path) -> None:
    rows = [
        {"visits": n % 2, "returns": n % 3 == 0, "clicks": [{"item": n % 5, "time": n}], "answer": "ab"[n % 2]}
        for n in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "data.train": str(tmp_path / "rows.jsonl"),
        "data.validation": 0.2,
        "data.target": "answer",
        "data.columns": {"visits": "table", "returns": "table", "clicks": "events"},
        "model.trunk": "tiny",
        "training.epochs": 1,
        "training.trackers": [],
    }
    model = train(settings, tmp_path / "model")
    codes = fenced(tmp_path / "model" / "README.md")
    assert model.predict(json.loads(codes["json"])).value in "ab"
    assert run(codes["python"], tmp_path / "model", tmp_path / "example.py")
    found = Outline((tmp_path / "model" / "report.html").read_text(encoding="utf-8"))
    assert {"0", "1", "True", "False"} <= set(found.words)


def test_long_values_are_shown_in_short() -> None:
    assert _shown("x" * 10_000) == "x" * 500 + "..."
    assert _shown([{"item": n} for n in range(100_000)]).startswith("[{'item': 99980}, ")


def test_a_file_that_stands_in_the_table_is_not_printed() -> None:
    assert _shown({"bytes": b"RIFF" * 9999}) == _shown(b"RIFF") == "a file in the table"
    assert _shown([{"bytes": b"RIFF" * 9999, "path": None}] * 2) == _shown([b"RIFF", b"RIFF"]) == "2 files in the table"
    assert [_shown(value) for value in (None, 0, 0.0, False, "")] == ["", "0", "0.0", "False", ""]


def test_the_example_of_a_card_names_files_beside_its_table(
    trained: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = fenced(trained / "README.md")
    assert set(json.loads(codes["json"])) == {"image", "question"}
    monkeypatch.chdir(world)
    assert run(codes["python"], trained, tmp_path / "example.py")
