"""Tables of events are looked at as such, where a recommender is to be trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fusebert.cli import main
from fusebert.doctor.check import check

SETTINGS = {"task.name": "recommendation", "task.time": "when"}


def write(path: Path, rows: list[tuple[Any, ...]]) -> None:
    names = ("user", "item", "when", "colour")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=False))) + "\n" for row in rows))


@pytest.fixture
def events(tmp_path: Path) -> Path:
    train = [(f"u{n % 4}", f"i{n % 6}", 86_400 * n, "red") for n in range(24)]
    write(tmp_path / "train.jsonl", train)
    write(tmp_path / "test.jsonl", [(f"u{n}", f"i{4 + n}", 86_400 * (30 + n)) for n in range(4)])
    return tmp_path


def test_columns_and_new_items_are_named(events: Path) -> None:
    found, findings = check(events, None, strict=False, settings=SETTINGS)
    assert {column["column"]: column["kind"] for column in found["columns"]} == {
        "user": "user",
        "item": "item",
        "when": "time",
        "colour": "ignore",
    }
    assert found["columns"][2]["why"] == "1970-01-01 to 1970-01-24"
    assert (found["rows"], found["bad_rows"]) == (28, 0)
    assert [(one.fault, [row.row for row in one.rows]) for one in findings if one.rows] == [("new items", [3, 4])]


def test_what_leaks_or_cannot_be_read_is_named(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (events / "train.jsonl").open("a") as file:
        file.write('{"user": "u0", "item": "i0", "when": 0}\n{"user": null, "item": "i0", "when": 5}\n')
        file.write('{"user": "u9", "item": "i5", "when": 86400000}\n')
    with (events / "test.jsonl").open("a") as file:
        file.write('{"user": "u0", "item": "i0", "when": 0}\n')
    command = ["check", str(events), *(f"{key}={value}" for key, value in SETTINGS.items()), "--json"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [(one["row"], one["column"]) for one in found["problems"]] == [(26, "user")]
    faults = {one["fault"]: one for one in found["findings"]}
    assert [row["row"] for row in faults["repeated event"]["rows"]] == [25]
    assert "1 of 5 test events are training events, too" in err
    assert "train.jsonl, row 26, column 'user': it has no user" in err


def test_times_without_a_zone_beside_others_are_named(events: Path) -> None:
    write(events / "test.jsonl", [("u0", "i0", "2024-05-31T12:00"), ("u1", "i1", "2024-05-31T12:00+08:00")])
    _, findings = check(events, None, strict=False, settings=SETTINGS)
    (found,) = [one for one in findings if one.fault == "mixed time zones"]
    assert (found.column, [row.row for row in found.rows]) == ("when", [1])


def test_wrong_use_is_said(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(events), "task.name=recommendation", "task.user=who"]) == 2
    assert "has no column 'who', only user, item, when, colour" in capsys.readouterr().err
    assert main(["check", str(events), "task.name=recommendation", "--target", "item"]) == 2
    assert "the target is given, but task.name=recommendation" in capsys.readouterr().err


def test_it_says_how_to_look_at_events(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(events)]) == 0
    assert "look at it for a recommender with task.name=recommendation" in capsys.readouterr().err
    assert main(["check", str(events), "task.name=recommendation"]) == 0
    assert "task.time is not set: events are taken in the order of the rows" in capsys.readouterr().err
