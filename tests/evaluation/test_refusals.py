"""Commands that would destroy what is there, or answer what was not asked."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import fusebert
from fusebert.cli import main
from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, ModelError, RowError, UsageError
from fusebert.evaluation.trained_model import load
from fusebert.modalities.image.processor import decode
from fusebert.storage import MANIFEST, seal
from fusebert.tasks.regression.task import Config as RegressionConfig
from fusebert.tasks.regression.task import Task as Regression
from fusebert.training.run import train
from fusebert.types import Answer, Sample


def test_a_trunk_is_not_saved_over_other_files(trained: Path, tmp_path: Path) -> None:
    model = load(trained)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt", trained):
        with pytest.raises(UsageError, match="choose another folder for the trunk"):
            model.save_trunk(place)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    model.save_trunk(tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_answers_do_not_replace_the_questions(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Path(shutil.copy(world / "test.jsonl", tmp_path))
    before = table.read_bytes()
    assert main(["predict", str(trained), str(table), "--output", str(tmp_path / "." / "test.jsonl")]) == 2
    assert "is the table itself" in capsys.readouterr().err
    assert table.read_bytes() == before


def test_rows_of_a_program_are_called_what_they_are(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, good, bad = load(trained), {"question": "what is it"}, {"question": "what is it", "image": "none.png"}
    with pytest.raises(RowError, match=r"^the given row, column 'image': file 'none.png' does not exist"):
        model.predict(bad)
    with pytest.raises(RowError, match=r"^the given table, row 2, column 'image': file 'none.png' does not exist"):
        model.predict([good, bad])
    with pytest.raises(DataError, match=r"^the given table has no rows"):
        model.evaluate([])
    with pytest.raises(UsageError, match=r"^the given table has no column 'answer' to compare the answers with"):
        model.evaluate([good, good], bad_rows="skip")
    assert main(["predict", str(trained), "--image", "none.png"]) == 1
    assert "fusebert: the given row, column 'image'" in capsys.readouterr().err


def test_one_modality_may_stand_by_itself(trained: Path, world: Path) -> None:
    model = load(trained)
    table = world / "test.jsonl"
    for argument in ("shuffle", "without"):
        alone, listed = (model.evaluate(table, **{argument: one}) for one in ("image", ["image"]))
        assert alone == listed
    with pytest.raises(UsageError, match="'smell' is not a modality of this model; it has image, text"):
        model.evaluate(table, shuffle="smell")
    with pytest.raises(UsageError, match="only a recommender reads what is known"):
        model.evaluate(table, known=str(table))
    with pytest.raises(UsageError, match="a list of them expected, found NoneType"):
        model.evaluate(table, known=None)
    with pytest.raises(UsageError, match="bad_rows='skp' is none of 'refuse', 'skip' and 'blank'"):
        model.evaluate(table, bad_rows="skp")


def test_a_row_without_any_of_the_columns_is_not_answered(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"user": 1, "item": 2}\n')
    assert main(["predict", str(trained), str(tmp_path / "other.jsonl")]) == 1


def test_a_target_that_is_infinite_on_the_common_scale() -> None:
    task = Regression.fit(RegressionConfig(), [1.0, 2.0])
    with pytest.raises(InputError, match=r"too far from the training targets, whose mean is 1\.5"):
        task.target(1e60)


def test_the_picture_that_is_handed_over_stays_as_it_is() -> None:
    data = io.BytesIO()
    Image.new("RGB", (640, 480), "red").save(data, "JPEG")
    picture = Image.open(data)
    decode(picture, 16)
    assert picture.size == (640, 480)


def test_rows_that_are_no_rows(trained: Path) -> None:
    model = load(trained)
    with pytest.raises(DataError, match="the given table, row 1: a dict expected, found str"):
        model.evaluate(["what shape is it?"])
    with pytest.raises(RowError, match="the given row, column 'image'"):
        model.predict({"image": 3, "question": "what shape is it?"})


def test_missing_values_of_pandas_are_missing(trained: Path, world: Path) -> None:
    model, picture = load(trained), str(world / "images" / "test_0000.png")
    wanted = model.predict({"question": "what colour is it?"})
    for missing in (float("nan"), np.float32("nan"), pd.NaT, pd.NA, None):
        assert model.predict({"question": "what colour is it?", "image": missing}) == wanted
        assert model.predict({"question": missing, "image": picture}) == model.predict({"image": picture})


def test_values_of_numpy_are_those_of_a_file(trained: Path, world: Path) -> None:
    model, picture = load(trained), str(world / "images" / "test_0000.png")
    wanted = model.predict({"question": ["what", "colour", 3]})
    for given in (("what", "colour", 3), np.array(["what", "colour", 3], object), ["what", "colour", np.int64(3)]):
        assert model.predict({"question": given}) == wanted
    assert model.predict({"question": np.float64(2.5), "image": picture}).value is not None
    rows = [{"question": "what is it?", "image": None}, {"question": "which colour?", "image": None}]
    assert model.predict(pyarrow.Table.from_pylist(rows)) == model.predict(pd.DataFrame(rows)) == model.predict(rows)
    beside = {"question": "what is it?", "image": {"path": picture, "bytes": None}}
    assert model.predict(beside) == model.predict(beside | {"image": picture})
    with pytest.raises(RowError, match="nothing to read"):
        model.predict({"question": " \u00a0"})


@pytest.mark.parametrize("there", [True, False])
def test_columns_of_a_side_that_a_table_lacks_are_said(
    there: bool, two_sided: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One side is asked for: nothing is said of the other one, nor of a column that is empty."""
    pytest.importorskip("lancedb")
    rows = [{"id": n, "question": f"how many {n}?"} | ({"image": None} if there else {}) for n in range(3)]
    table, caption = tmp_path / "rows.jsonl", tmp_path / "captions.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    caption.write_text('{"id": 1, "caption": "a red circle"}\n')
    model, index, captions = (str(one) for one in (two_sided, tmp_path / "index", tmp_path / "captions"))
    said = "no row has 'image', which the model reads"

    def told(*arguments: str, absent: bool = not there) -> None:
        assert main([*arguments, "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out).get("absent_columns") == (["image"] if absent else None)
        assert (said in err) == absent

    told("embed", model, str(table), "--side", "left", "--output", str(tmp_path / "vectors.parquet"))
    told("index", model, str(table), "--side", "left", "--key", "id", "--output", index)
    told("index", model, str(table), "--update", index)
    told("index", model, str(caption), "--side", "right", "--output", captions, absent=False)
    told("find", model, captions, str(table))
    told("find", model, index, str(caption), absent=False)
    predictor = load(two_sided)
    for ask in (
        lambda: predictor.embed(table, "left"),
        lambda: predictor.embed(pd.DataFrame(rows), "left"),
        lambda: predictor.write_index(tmp_path / "again", table, "left"),
        lambda: predictor.index(captions).find(table),
    ):
        with nullcontext() if there else pytest.warns(UserWarning, match=said):
            ask()
    predictor.embed(rows, "left")  # dicts need not have all


def test_categories_that_training_did_not_have_are_warned_of(tmp_path: Path) -> None:
    rows = [{"member": bool(n % 2), "colour": "rb"[n % 3 % 2], "y": ["no", "yes"][n % 2]} for n in range(60)]
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"data.train": str(tmp_path / "train.jsonl"), "data.target": "y", "model.trunk": "tiny"}
    model = train(settings | {"training.epochs": 1, "training.trackers": []}, tmp_path / "model")
    assert "unknown_columns" not in model.evaluate([row | {"member": int(row["member"])} for row in rows])
    strange = [row | {"member": "ja", "colour": None} for row in rows]
    assert model.evaluate(strange)["unknown_columns"] == ["member"]
    with pytest.raises(DataError, match="one value expected, found dict"):
        model.evaluate([rows[0] | {"colour": {"a": 1}}])
    with pytest.warns(UserWarning, match="nearly all values of member are unknown to the model"):
        model.predict(strange)


def test_answers_do_not_overwrite_a_finished_model(
    trained: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / "model.safetensors").read_bytes()
    assert main(["predict", str(trained), str(world / "test.jsonl"), "--output", str(trained / "metrics.json")]) == 2
    assert "is a file of the finished" in capsys.readouterr().err
    weights = trained / "model.safetensors"
    assert main(["predict", str(trained), str(world / "test.jsonl"), "--output", str(weights)]) == 2
    assert weights.read_bytes() == before


def test_a_frame_without_a_column_is_warned_of(trained: Path) -> None:
    with pytest.warns(UserWarning, match="no row has 'image'"):
        load(trained).predict(pd.DataFrame({"question": ["what colour is it?"]}))


@pytest.mark.parametrize("folder", [None, 3])
def test_what_is_no_folder_is_said(folder: Any) -> None:
    with pytest.raises(UsageError, match="is not the path of a model folder"):
        load(folder)


def test_pictures_as_arrays_are_pictures(trained: Path, world: Path) -> None:
    model = load(trained)
    with Image.open(world / "images" / "test_0000.png") as picture:
        given = picture.convert("RGB")
    assert model.predict({"image": np.array(given)}) == model.predict({"image": given})
    for wrong in (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(RowError, match=r"uint8\[H, W, 3\]"):
            model.predict({"image": wrong})


@pytest.mark.parametrize(
    ("rows", "top", "said"),
    [
        (3, 1, "a dict, a list of dicts, a DataFrame or a path expected, found int"),
        ("what is it? " * 30, 1, "^the table what is it"),
        (pd.DataFrame([["x", "y"]], columns=["question", "question"]), 1, "'question' more than once"),
        ({"question": "x"}, 2.5, "top=2.5"),
        ({"question": "x"}, 0, "top=0"),
    ],
    ids=["number", "words", "doubled", "half", "none"],
)
def test_what_cannot_be_predicted_is_said(trained: Path, rows: Any, top: Any, said: str) -> None:
    with pytest.raises(fusebert.FusebertError, match=said):
        load(trained).predict(rows, top)


def test_a_target_far_from_all_others_is_scored() -> None:
    task = Regression(RegressionConfig(), 0.5, 0.3)
    targets = np.stack([task.target(raw) for raw in (0.2, -(2**63))])
    found = task.evaluate(np.zeros((2, 1), dtype=np.float32), targets)["metrics"]
    assert np.isfinite(list(found.values())).all()
    assert found["loss"] == pytest.approx((2**63 / 0.3) ** 2 / 2)


def test_a_target_that_is_always_the_same_fraction_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to learn"):
        Regression.fit(RegressionConfig(), [0.1] * 3)  # whose deviation is 1.4e-17


@pytest.mark.parametrize("raw", ["2023_01", "1_000", True, "inf"])
def test_what_only_python_reads_as_a_number_is_none(raw: Any) -> None:
    with pytest.raises(InputError):
        Regression.read(raw)


def test_a_path_with_brackets_is_shown(trained: Path, world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world, tmp_path / "[" / "old]"))
    assert main(["evaluate", str(trained), str(folder / "val.jsonl")]) == 0


def test_the_same_rows_count_whatever_is_taken_away_or_dealt_out(trained: Path, world: Path) -> None:
    """A broken picture that is dealt out would spoil another row, and taken away its own would count."""
    model = load(trained)
    rows = [dict(row.values) for row in read_table(world / "test.jsonl") if isinstance(row, Sample)][:12]
    for row in rows:
        row["image"] = str(world / row["image"])
    rows[3]["image"] = "none.png"
    rows[7] = {"answer": rows[7]["answer"], "image": None, "question": ""}
    asked: list[dict[str, Any]] = [{}, {"without": "image"}, {"shuffle": "image"}, {"shuffle": "text"}]
    found = [model.evaluate(rows, bad_rows="skip", **more) for more in asked]
    assert {(one["rows"], one["bad_rows"]) for one in found} == {(10, 2)}
    with pytest.raises(DataError, match="row 4, column 'image'"):
        model.evaluate(rows, without="image")


def test_targets_of_another_kind_are_named(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("text,answer\n" + "".join(f"words {n},{'yes' if n % 2 else 'no'}\n" for n in range(8)))
    settings = {"data.train": str(table), "data.target": "answer", "task.name": "regression"}
    with pytest.raises(DataError, match="no value will do for regression: 'no' is not a number"):
        fusebert.train(settings, tmp_path / "out")


def test_a_model_that_lacks_a_weight_is_refused(trained: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(trained, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    del weights["trunk.pooler.dense.bias"]
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    (other / MANIFEST).unlink()
    seal(other)
    with pytest.raises(
        ModelError, match=r"another version of fusebert, with other weights: 'trunk\.pooler\.dense\.bias'"
    ):
        load(other)


def test_greys_with_fractions_are_read_over_the_range_they_use() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for given in (Image.fromarray(values), Image.fromarray((values * 255).astype(np.uint8)).convert("I")):
        pixels = decode(given, 8)
        assert (pixels.min(), pixels.max()) == (0, 255)
    sixteen = Image.fromarray((values * 65535 / 2).astype(np.uint16))
    assert 120 <= decode(sixteen, 8).max() <= 128
    assert decode(Image.fromarray((values * 4095).astype(np.uint16)), 8).max() == 255
    values[0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        decode(Image.fromarray(values), 8)


@pytest.mark.parametrize("device", ["gpu", "cuda"])
def test_a_device_that_is_not_there_is_not_the_folders_fault(device: str, trained: Path) -> None:
    with pytest.raises(UsageError, match="device='"):
        load(trained, device=device)


def test_a_model_of_links_is_whole(trained: Path, tmp_path: Path) -> None:
    """As the cache of the Hugging Face Hub holds it."""
    for path in trained.rglob("*"):
        if path.is_file():
            (tmp_path / path.relative_to(trained)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(trained)).symlink_to(path)
    assert load(tmp_path).columns == load(trained).columns


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../b"])
def test_a_manifest_names_nothing_outside(name: str, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "model")
    manifest = tmp_path / "model" / MANIFEST
    found = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(found | {"sha256": {**found["sha256"], name: "0"}}))
    with pytest.raises(ModelError, match="lies outside the folder"):
        load(tmp_path / "model")


def test_targets_that_differ_by_too_little_are_refused() -> None:
    with pytest.raises(DataError, match="smaller unit"):
        Regression.fit(RegressionConfig(), [1e-200, 2e-200, 3e-200])


def test_all_files_of_a_model_are_as_readable_as_its_folder(trained: Path, tmp_path: Path) -> None:
    load(trained).save_trunk(tmp_path / "trunk")
    (tmp_path / "own").mkdir(mode=0o700)
    load(trained).save_trunk(tmp_path / "own" / "trunk")
    for folder in (trained, tmp_path / "trunk", tmp_path / "own" / "trunk"):
        rights = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
        assert set(rights.values()) == {folder.stat().st_mode & 0o666}


@pytest.mark.parametrize(
    ("targets", "far"),
    [
        ([*range(20), 1e9], [20]),
        ([0] * 80 + [*range(1, 21), 1e9, -1e9], [100, 101]),
        ([1, 2, 3, 4, 20], []),
        ([0] * 999 + [1], []),
        ([], []),
    ],
)
def test_targets_far_away_from_all_others(targets: list[float], far: list[int]) -> None:
    assert Regression.far_targets(targets) == far
    if far:
        (said,) = Regression.fit(RegressionConfig(), targets).doubts(targets)
        assert said.startswith(f"{len(far)} of {len(targets)} targets lie far away from the others")


def test_answers_tell_what_is_wrong_with_each_row(trained: Path) -> None:
    good, bad = {"question": "what is it"}, {"question": ""}
    model = load(trained)
    answers = [answer for _, answer in model.answers([good, bad, good])]
    assert [isinstance(answer, RowError) for answer in answers] == [False, True, False]
    assert {answer.value for answer in answers if isinstance(answer, Answer)} == {model.predict(good).value}
    assert str(answers[1]).startswith("the given table, row 2: nothing to read")


def test_of_a_table_that_is_refused_all_bad_rows_are_told_and_none_is_scored(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = {"question": "what is it", "answer": "red"}, {"question": "", "answer": "red"}
    model = load(trained)
    scored: list[int] = []
    monkeypatch.setattr(model.model, "forward", lambda **batch: scored.append(len(batch["lengths"])))
    with pytest.raises(DataError, match=r"^2 of 5 rows cannot be used"):
        model.evaluate([bad, good, good, bad, good], listed_in=tmp_path / "bad.jsonl")
    assert not scored
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 2
