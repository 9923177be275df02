"""What is learnt from the table before training, and from which of its rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from fusebert.config import Recipe, read_recipe
from fusebert.errors import DataError, RecipeError, UsageError
from fusebert.evaluation.catalogue import _text
from fusebert.evaluation.trained_model import load
from fusebert.storage import read_json, seal
from fusebert.training.prepare import _hash, prepare
from fusebert.training.progress import Silence, Terminal
from fusebert.training.run import train
from fusebert.types import Sample

ROWS = 80


def settings(folder: Path, targets: list[Any], **more: Any) -> dict[str, Any]:
    """A table whose groups are held out whole: group 0 has other targets than the rest."""
    rows = [{"x": number % 7, "group": number % 10, "y": target} for number, target in enumerate(targets)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "data.train": str(folder / "rows.jsonl"),
        "data.target": "y",
        "data.validation": 0.2,
        "data.validation_group": "group",
        "data.columns": {"x": "table", "group": "ignore"},
        "model.trunk": "tiny",
        "training.epochs": 1,
        "training.trackers": [],
    } | more


def learnt(folder: Path, targets: list[Any], **more: Any) -> tuple[dict[str, Any], np.ndarray]:
    """The task's file, and the targets of the rows that were not held out."""
    model = train(settings(folder, targets, **more), folder / "model")
    recipe = read_recipe(folder / "model" / "recipe.yaml", {"data.train": str(folder / "rows.jsonl")})
    prepared = prepare(recipe, folder, strict=False, progress=Silence())
    kept = [sample.values["y"] for sample in prepared.splits["train"].samples]
    assert len(kept) < len(targets)
    return read_json(model.folder / "task.json"), np.array(kept)


def test_the_scale_is_that_of_the_training_rows(tmp_path: Path) -> None:
    task, kept = learnt(tmp_path, [float(number % 10) ** 3 + number / 100 for number in range(ROWS)])
    assert task["mean"] == pytest.approx(kept.mean())
    assert task["std"] == pytest.approx(kept.std())


def test_the_frequencies_are_those_of_the_training_rows_and_the_labels_those_of_the_table(tmp_path: Path) -> None:
    targets = ["rare" if number == 0 else "ab"[number % 10 > 6] for number in range(ROWS)]
    task, kept = learnt(tmp_path, targets, **{"task.class_weights": "balanced"})
    assert task["labels"] == ["a", "b", "rare"]
    counts = [(kept == label).sum() for label in "ab"]
    assert task["frequencies"][:2] == pytest.approx(np.array(counts) / len(kept))


@pytest.mark.parametrize(
    ("usual", "odd"), [(["a", "b"], ["a"]), (["a", "b"], 1), ([["a"], ["a", "b"], []], "a"), ([1.5, 2.5, 3.5], ["a"])]
)
def test_a_target_of_another_kind_is_a_bad_row(usual: list[Any], odd: Any, tmp_path: Path) -> None:
    given = settings(tmp_path, [odd if number == 7 else usual[number % len(usual)] for number in range(ROWS)])
    if not isinstance(usual[0], float):
        given |= {"task.class_weights": "balanced"}
    with pytest.raises(DataError, match=r"1 of \d+ rows cannot be used.*row 8, column 'y'"):
        train(given, tmp_path / "model")
    model = train(given | {"data.bad_rows": "skip"}, tmp_path / "model")
    evaluations = model.metrics["evaluations"]
    assert sum(part["rows"] for part in evaluations.values()) < ROWS
    (line,) = (model.folder / "bad_rows.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == 8


def test_rows_that_are_not_scored_are_counted_and_named(tmp_path: Path) -> None:
    given = settings(tmp_path, [number % 2 for number in range(ROWS)], **{"data.bad_rows": "skip"})
    (tmp_path / "test.jsonl").write_text('{"x": 1, "y": 0}\n{"x": 1, "y": 3}\n{"x": 2, "y": 1}\n{"x": 3, "y": 0}\n')
    model = train(given | {"data.test": str(tmp_path / "test.jsonl")}, tmp_path / "model")
    found = read_json(model.folder / "metrics.json")
    assert (found["evaluations"]["test"]["rows"], found["evaluations"]["test"]["bad_rows"]) == (3, 1)
    said = "rows of test that cannot be used, and so are not scored: 1"
    assert said in found["warnings"]
    assert said in (model.folder / "README.md").read_text(encoding="utf-8")


def test_a_table_is_looked_for_where_the_data_are_and_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, name = tmp_path / "far", Path("rows.csv")
    far.mkdir()
    (tmp_path / name).write_text("x,y\n1,2\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSEBERT_DATA", str(far))
    anywhere, here = Recipe.from_flat({}), Recipe.from_flat({"data.root": "."})
    assert (anywhere.table(name), here.table(name)) == (name, name)
    (far / name).write_text("x,y\n1,2\n")
    assert (anywhere.table(name), here.table(name)) == (far / name, name)
    with pytest.raises(DataError, match=r"far/none\.csv does not exist"):
        train({"data.train": "none.csv", "data.target": "y"}, tmp_path / "model")


def test_settings_of_a_modality_that_the_table_lacks_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(tmp_path, ["ab"[number % 10 > 6] for number in range(ROWS)])
    recipe = Recipe.from_flat(given | {"audio.max_seconds": 3.0, "table.max_categories": 9})
    prepare(recipe, tmp_path, strict=False, progress=Terminal())
    said = capsys.readouterr().err
    assert "audio.max_seconds is set, but no column is audio" in said
    assert "table." not in said


def test_columns_that_the_test_rows_lack_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = settings(tmp_path, ["ab"[number % 10 > 6] for number in range(ROWS)])
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps({"X": n, "group": 1, "y": "ab"[n % 2]}) + "\n" for n in range(9))
    )
    found = prepare(
        Recipe.from_flat(
            given | {"data.test": str(tmp_path / "test.jsonl"), "data.columns": {"x": "table", "group": "table"}}
        ),
        tmp_path,
        strict=False,
        progress=Terminal(),
    )
    few = "no validation row has the label 'b': scores on them say nothing of it"
    assert found.warnings == ["test: no row has 'x', which the model reads", few]
    assert found.warnings[0] in capsys.readouterr().err


def test_a_pooler_that_the_trunk_does_not_bring_is_not_frozen(
    tiny: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    load(trained).save_trunk(tmp_path / "trunk")
    weights = load_file(tmp_path / "trunk" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "pooler" not in name}
    save_file(kept, tmp_path / "trunk" / "model.safetensors", metadata={"format": "pt"})
    seal(tmp_path / "trunk")
    given = tiny | {"model.trunk": str(tmp_path / "trunk"), "training.freeze": "trunk", "training.epochs": 1}
    with pytest.raises(UsageError, match=r"task\.pooling=mean"):
        train(given, tmp_path / "first")
    train(given | {"task.pooling": "mean"}, tmp_path / "mean")


def test_what_a_catalogue_says_has_zeros_and_no_missing_values() -> None:
    row = {"title": "film", "price": 0, "year": float("nan"), "old": False, "tags": ["a", "b"], "other": [], "of": None}
    assert _text(row.values()) == "film. 0. False. a, b"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("training.lr", "training.learning_rate"),
        ("training.batch_size", "training.tokens_per_batch"),
        ("training.dropout", "model.dropout"),
        ("training.epoch", "training.epochs"),
        ("image.size", "image.size_pixels"),
    ],
)
def test_the_setting_that_was_meant_is_named(key: str, meant: str) -> None:
    with pytest.raises(RecipeError, match=f"did you mean '{meant}'"):
        Recipe.from_flat({key: 1})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"task.name": "matching", "task.left": "a", "task.right": "a"},
            "settings: task.left and task.right both name a",
        ),
        ({"task.name": "regression", "task.class_weights": "none"}, "task.class_weights is a setting of another task"),
        ({"training.time_limit": "abc"}, "training.time_limit='abc' will not do: not a time"),
        ({"data.validation": 1.5}, "data.validation=1.5 will not do: it must be a table or a share"),
        ({"data.train": [{"x": 1}]}, "it must be the path of a table; of a DataFrame, write one with its to_parquet"),
        ({"data.target": False}, "data.target=False will not do: YAML reads some words"),
    ],
)
def test_wrong_settings_are_told_before_anything_is_read(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe.from_flat(settings)


def test_a_column_may_be_called_by_a_number() -> None:
    recipe = Recipe.from_flat({"data.target": 2020, "task.name": "matching", "task.left": 1, "task.right": [2, "b"]})
    assert (recipe.data.target, recipe.task_config().left, recipe.task_config().right) == ("2020", ("1",), ("2", "b"))


def test_a_table_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name one of them"):
        read_recipe(tmp_path / "rows.csv", {"data.train": "other.csv"})
    assert read_recipe(tmp_path / "rows.csv").data.train == tmp_path / "rows.csv"


def test_a_wrong_value_of_several_kinds_is_called_by_its_setting() -> None:
    with pytest.raises(RecipeError, match=r"^settings: data\.validation=\[1\] will not do"):
        Recipe.from_flat({"data.validation": [1]})


def test_a_changed_byte_of_a_picture_in_a_row_changes_the_hash() -> None:
    def told(*values: dict[str, Any]) -> str:
        samples = [Sample(Path("t"), number, one, None) for number, one in enumerate(values)]
        one: Any = SimpleNamespace(lengths=np.full(len(values), 5), samples=samples)
        return _hash({"train": one, "validation": one}, {})

    picture = b"\x89PNG" * 1000
    given = {"text": "a", "image": {"bytes": picture, "path": "a.png"}}
    changed = picture[:2000] + b"x" + picture[2001:]
    others = [given | {"image": {"bytes": changed, "path": "a.png"}}, given | {"text": "b"}]
    assert len({told(one) for one in [given, *others]}) == 3
    assert told(given | {"image": picture}) == told(given)
    plain = {"text": "a", "number": 2.0, "image": {"bytes": None, "path": "a.png"}}
    wanted = hashlib.sha256()
    for _ in range(2):
        wanted.update(np.full(1, 5).tobytes())
        wanted.update(repr(sorted(plain.items())).encode())
    assert told(plain) == wanted.hexdigest()
