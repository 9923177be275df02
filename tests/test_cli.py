"""The fixed forms that others' scripts rely on."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from fusebert.cli import main
from fusebert.cli.common import print_line, print_table, run_folder, say
from fusebert.errors import UsageError
from fusebert.evaluation.trained_model import load
from fusebert.training.progress import Terminal


def test_evaluate_prints_one_object(trained: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), str(world / "test.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 32
    assert {"accuracy", "f1_macro", "auroc"} <= set(found["metrics"])


def test_predict_answers_each_row_in_order(trained: Path, world: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.jsonl"
    keep = ["--keep", "language", "--keep", "colours", "--keep", "answer"]
    asked = ["predict", str(trained), str(world / "test.jsonl"), "--output", str(output), "--top", "2", *keep]
    assert main(asked) == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    rows = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    for name in ("id", "language", "colours"):
        assert [line[name] for line in lines] == [row[name] for row in rows]
    assert [line["given_answer"] for line in lines] == [row["answer"] for row in rows]
    assert all(len(line["top"]) == 2 and line["top"][0]["label"] == line["answer"] for line in lines)


def test_what_is_kept_of_a_row_is_json(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.loads((world / "test.jsonl").read_text().splitlines()[0])
    kept = {"shop": "上海", "boxes": [{"size": 1.5}, None]}
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": row["question"], "meta": kept}))
    assert main(["predict", str(trained), str(tmp_path / "rows.jsonl"), "--keep", "meta", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["meta"] == kept


def test_a_bad_row_may_have_a_name_that_is_not_utf_8(
    trained: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "new" / "x").mkdir(parents=True)
    shutil.copy(world / "images" / "test_0000.png", tmp_path / "new" / "x" / "a.png")
    name = os.fsdecode(b"\xcb\xb5\xc3\xf7.txt")
    try:
        (tmp_path / "new" / "x" / name).touch()
    except OSError:
        pytest.skip("this disk takes no such name")
    output = tmp_path / "answers.jsonl"
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), errors="backslashreplace"))  # as Python has it
    assert main(["predict", str(trained), str(tmp_path / "new"), "--bad-rows", "skip", "--output", str(output)]) == 0
    answered, bad = map(json.loads, output.read_text().splitlines())
    assert answered["row"] == 1
    assert bad["error"].startswith(f"x/{name} is no picture")


@pytest.mark.parametrize("name", ["answers.csv", "answers.CSV", "answers.jsonl.gz"])
def test_answers_are_not_written_as_what_they_are_not(
    name: str, trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / name
    assert main(["predict", str(trained), str(world / "test.jsonl"), "--output", str(output)]) == 2
    assert ".jsonl" in capsys.readouterr().err
    assert not output.exists()


def test_a_row_typed_in_is_the_row_of_the_table(
    trained: Path, world: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    row = json.loads((world / "test.jsonl").read_text().splitlines()[0])
    picture = str(world / row["image"])
    assert main(["predict", str(trained), "--question", row["question"], f"--image={picture}", "--json"]) == 0
    typed = json.loads(capsys.readouterr().out)
    (tmp_path / "one.jsonl").write_text(json.dumps({"question": row["question"], "image": "x.png"}))
    (tmp_path / "x.png").write_bytes(Path(picture).read_bytes())
    assert main(["predict", str(trained), str(tmp_path / "one.jsonl"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)["answers"][0]
    assert (answer["answer"], answer["probability"]) == (typed["answer"], typed["probability"])


@pytest.mark.parametrize("column", ["image", "question"])
def test_a_row_without_one_modality_is_answered(
    trained: Path, world: Path, column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = str(world / "images" / "test_0000.png") if column == "image" else "how many shapes are there?"
    assert main(["predict", str(trained), f"--{column}", value, "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["probability"] <= 1


def test_without_and_shuffle_change_the_score_of_what_is_used(
    trained: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = []
    for more in ([], ["--without", "image"], ["--shuffle", "text"]):
        assert main(["evaluate", str(trained), str(world / "test.jsonl"), "--json", *more]) == 0
        losses.append(json.loads(capsys.readouterr().out)["metrics"]["loss"])
    assert len(set(losses)) == 3


@pytest.mark.parametrize("there", [True, False])
def test_columns_that_a_table_lacks_are_said(
    there: bool, trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty column is there."""
    rows = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    others = [{name: value for name, value in row.items() if name != "image"} for row in rows]
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(row | {"image": None} if there else row) + "\n" for row in others))
    said = "no row has 'image', which the model reads"
    for command in ("evaluate", "predict"):
        assert main([command, str(trained), str(table), "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out).get("absent_columns") == (None if there else ["image"])
        assert (said in captured.err) != there
    with nullcontext() if there else pytest.warns(UserWarning, match=said):
        load(trained).predict(table)


def test_only_a_recommender_reads_what_is_known(trained: Path, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = str(world / "test.jsonl")
    train = str(world / "train.jsonl")
    assert main(["evaluate", str(trained), table, "--known", train]) == 2
    assert "only a recommender reads what is known; the task of this model is classification" in capsys.readouterr().err
    assert main(["evaluate", str(trained), table, "--known", table]) == 2
    assert "is what is scored" in capsys.readouterr().err


def test_an_error_is_one_object_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path / "none"), str(tmp_path / "none.csv"), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 1
    assert "Traceback" not in err


def test_names_and_labels_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b]0;title\x07\x9b31m\u202eb\n\tc"
    print_line({evil: evil})
    say(evil)
    print_table(evil, {evil: {evil: 1.0}, "b": {}})
    print_table(evil, {f"{evil}{number}": {evil: 1.0} for number in range(9)})
    Terminal().note(evil)
    printed = capsys.readouterr()
    assert not set("\x1b\x07\x9b\u202e") & set(printed.out + printed.err)
    assert json.loads(printed.out) == {evil: evil}
    assert "a\\u001b]0;title\\u0007\\u009b31m\\u202eb\n\tc\n" in printed.err


def test_a_doubt_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table, output = Path("rows.csv"), tmp_path / "model"
    table.write_text("words,answer\n" + "".join(f"it is number {n},{'no' if n % 3 else 'yes'}\n" for n in range(40)))
    asked = ["train", str(table), "--target", "answer", "--output", str(output), f"data.test={table}"]
    asked += ["model.trunk=tiny", "training.epochs=1", "training.device=cpu", "--resume"]
    said = "Warning: test is the table of the training rows"
    assert main(asked) == 0
    of_training = capsys.readouterr().err
    assert of_training.count(said) == 1
    assert "1 more warning on the data" in of_training.partition("Scores")[2]
    assert main(asked) == 0  # nothing is prepared any more
    assert capsys.readouterr().err.count(said) == 1


def test_what_would_be_lost_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = ["predict", str(trained), "--question", "what is it"]
    assert main([*row, "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "that of one row goes to stdout" in capsys.readouterr().err
    assert main([*row, "--question", "and what is that"]) == 2
    assert "--question is given twice" in capsys.readouterr().err
    assert main(["train", "none.csv", "--time-limit", "5m", "training.time_limit=9m"]) == 2
    assert "--time-limit 5m and training.time_limit=9m: which of them?" in capsys.readouterr().err


def test_a_table_without_rows_lacks_no_columns(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.csv").write_text("question,image\n")
    assert main(["predict", str(trained), str(tmp_path / "empty.csv"), "--output", str(tmp_path / "out.jsonl")]) == 0
    said = capsys.readouterr().err
    assert "empty.csv has no rows" in said
    assert "no row has" not in said


def test_help_is_quick() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    code = "from fusebert.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5
    assert not {"torch", "numpy", "pydantic"} & {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


def test_check_shows_what_it_found_also_when_rows_are_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nwhat is it,a\nwhat was it,b\n")
    (tmp_path / "test.csv").write_text("question,answer\nwhat is it,a\nwhat,b,c\n")
    tables = [str(tmp_path / "rows.csv"), "--against", str(tmp_path / "test.csv")]
    assert main(["check", *tables, "--target", "answer", "--json"]) == 1
    out = capsys.readouterr()
    found = json.loads(out.out)
    assert found["bad_rows"] == 1
    assert found["problems"][0]["row"] == 2
    assert found["columns"][0]["column"] == "question"
    assert "first: test.csv, row 2 (line 3): 3 cells" in found["error"]
    assert len([line for line in out.err.splitlines() if line.startswith("fusebert: ")]) == 1


def test_settings_may_stand_behind_the_tables_to_check_against(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [str(world / f"{part}.jsonl") for part in ("train", "test")]
    given = ["check", tables[0], "--target", "answer", "--against", tables[1], "data.columns.caption=ignore"]
    assert main(given) == 0
    said = capsys.readouterr().err
    assert "caption: ignore (as set)" in said


def test_check_says_how_to_settle_a_doubt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rows.jsonl"
    rows = [{"what": f"thing{n % 15}", "n": n, "answer": "ab"[n % 2]} for n in range(60)]
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["check", str(table), "--target", "answer"])
    assert "AMBIGUOUS; data.columns.what=MODALITY says what it is" in capsys.readouterr().err


def test_an_answer_can_be_printed_in_any_encoding(trained: Path, world: Path) -> None:
    command = [sys.executable, "-m", "fusebert.cli", "predict", str(trained), "--question", "什么颜色", "--json"]
    for encoding in ("utf-8", "latin-1"):
        found = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
        assert found.returncode == 0, found.stderr
        assert "answer" in json.loads(found.stdout.decode(encoding))


def test_wrong_use_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "model", "table.csv", "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["exit_code"] == 2
    assert "--side" in json.loads(out)["error"]
    assert err.startswith("usage: fusebert embed")


def test_rows_that_evaluate_skips_are_listed_beside_no_model(
    trained: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained, model)
    rows = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()[:4]]
    lines = [{name: row[name] for name in ("question", "answer")} for row in rows]
    lines.append({"question": "?", "answer": "no such"})
    (tmp_path / "one_bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(model)
    assert main(["evaluate", ".", "../one_bad.jsonl", "--bad-rows", "skip"]) == 0
    listed = Path("one_bad.jsonl.bad_rows.jsonl")
    assert json.loads(listed.read_text())["row"] == 5
    other = tmp_path / "other" / "one_bad.jsonl"
    other.parent.mkdir()
    other.write_text("".join(json.dumps(line) + "\n" for line in [*lines, lines[-1]]))
    assert main(["evaluate", ".", str(other), "--bad-rows", "skip"]) == 0
    assert len(Path("one_bad.jsonl-2.bad_rows.jsonl").read_text().splitlines()) == 2
    assert len(listed.read_text().splitlines()) == 1
    (tmp_path / "one_bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    assert main(["evaluate", ".", "../one_bad.jsonl"]) == 0
    assert not listed.exists()
    load(model)


def test_words_are_read_in_a_locale_without_them(trained: Path) -> None:
    command = [sys.executable, "-m", "fusebert.cli", "predict", str(trained), "--question", "什么颜色", "--json"]
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    answers = [
        subprocess.run(command, capture_output=True, env={**os.environ, **changed}).stdout for changed in ({}, bare)
    ]
    assert answers[0] == answers[1] != b""


def test_nested_settings_are_told_from_unknown_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("data:\n  train: rows.csv\n")
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert "write data.NAME: value" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vectors.csv", "vectors.TSV", "vectors.jsonl.gz"])
def test_vectors_are_not_written_as_what_they_are_not(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "model", "rows.csv", "--side", "left", "--output", name]) == 2
    assert ".parquet" in capsys.readouterr().err


@pytest.mark.parametrize(("source", "name"), [("a/b.tar.jsonl", "b"), (".", "here"), (".hidden.csv", "hidden")])
def test_where_a_model_goes_by_default(source: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run_folder(Path(source)) == Path("runs") / name
    with pytest.raises(UsageError, match="give --output"):
        run_folder(Path("/"))
