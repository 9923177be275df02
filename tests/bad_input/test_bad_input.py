"""Bad input, kind by kind: one clear message, the right exit code, nothing half-written. And odd input that works."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusebert.cli import main
from fusebert.evaluation.trained_model import load
from fusebert.modalities.image.processor import decode
from fusebert.types import Sample
from tests.bad_input.cases import CASES
from tests.bad_input.data_cases import RED_OR_BLUE, delimited, lines
from tests.bad_input.place import BAD_ROW, TINY, Case, Place, answers, png, rows, two_halves


def run(*arguments: Path | str) -> int:
    """The command line, here; what argparse refuses itself counts like the rest."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as refused:
        return int(refused.code or 0)


def one_message(stderr: str) -> str:
    """The one line that says what is wrong."""
    found = [line for line in stderr.splitlines() if line.startswith("fusebert")]
    assert len(found) == 1, stderr
    assert "Traceback" not in stderr
    return found[0].casefold()


def assert_nothing_half_written(place: Place) -> None:
    assert not [path for path in place.folder.rglob("*") if path.name.endswith((".part", ".old"))]
    assert not (place.output / "manifest.json").exists()
    assert not place.output.is_file()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_bad_input(case: Case, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = case.command(place)
    code = run(*arguments)
    message = one_message(capsys.readouterr().err)
    assert code == case.code, message
    assert [word for word in case.words if word.casefold() not in message] == [], message
    assert_nothing_half_written(place)


def test_json_reports_failure_on_stdout(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "none.csv", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 1
    assert "none.csv" in found["error"]


# Odd input that works


def upright() -> np.ndarray:
    return decode(png(), 16)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter clockwise
    return png(two_halves().rotate(90), "JPEG", exif=exif, quality=100, subsampling=0)


def see_through() -> bytes:
    """A palette picture, red on its upper half; the lower half is transparent black."""
    picture = Image.new("P", (32, 32), 0)
    picture.putpalette([255, 0, 0, 0, 0, 0])
    picture.paste(1, (0, 16, 32, 32))
    return png(picture, transparency=1)


RED, BLUE, WHITE, GREY = (255, 0, 0), (0, 0, 255), (255, 255, 255), (128, 128, 128)
PICTURES = {
    "animated gif: first frame": (
        "a.gif",
        png(two_halves(), "GIF", save_all=True, append_images=[Image.new("RGB", (32, 32))]),
        (RED, BLUE),
    ),
    "tiff of two pages: the first": (
        "a.tif",
        png(two_halves(), "TIFF", save_all=True, append_images=[Image.new("RGB", (32, 32))]),
        (RED, BLUE),
    ),
    "packed cmyk tiff": ("a.tiff", png(two_halves().convert("CMYK"), "TIFF", compression="tiff_lzw"), (RED, BLUE)),
    "16-bit grey tiff": ("a.tif", png(Image.fromarray(np.full((32, 32), 0x8080, np.uint16)), "TIFF"), (GREY, GREY)),
    "fax": ("a.tif", png(Image.new("1", (32, 32), 1), "TIFF", compression="group4"), (WHITE, WHITE)),
    "cmyk jpeg": ("a.jpg", png(two_halves().convert("CMYK"), "JPEG", quality=100), (RED, BLUE)),
    "16-bit grey png": ("a.png", png(Image.fromarray(np.full((32, 32), 0x8080, np.uint16))), (GREY, GREY)),
    "transparent palette: on white": ("a.png", see_through(), (RED, WHITE)),
    "turned jpeg: upright": ("a.jpg", turned(), (RED, BLUE)),
    "one pixel": ("a.png", png(Image.new("RGB", (1, 1), RED)), (RED, RED)),
}


@pytest.mark.parametrize(("name", "data", "colours"), PICTURES.values(), ids=PICTURES.keys())
def test_odd_picture_works(name: str, data: bytes, colours: tuple[tuple[int, ...], ...], place: Place) -> None:
    place.write(name, data)
    assert run(*place.predict(place.jsonl(rows({"image": name})), "--output", "answers.jsonl")) == 0
    assert len(answered(place)) == 12
    pixels = decode(data, 16)
    for row, colour in zip((2, 13), colours, strict=True):
        assert np.abs(pixels[:, row, 8].astype(int) - colour).max() < 12


def test_a_row_may_have_several_pictures(place: Place) -> None:
    table = place.jsonl(rows({"image": ["good.png", "good.png"]}, {"image": []}))
    assert run(*place.predict(table, "--output", "answers.jsonl")) == 0
    assert len(answered(place)) == 12


TABLES = {
    "byte order mark, csv": ("rows.csv", b"\xef\xbb\xbf" + delimited(), 12),
    "byte order mark, jsonl": ("rows.jsonl", b"\xef\xbb\xbf" + lines('{"question": "hi"}'), 12),
    "newlines in quotes": ("rows.csv", delimited('"what\nis\nit",a'), 12),
    "windows line ends": ("rows.csv", delimited().replace(b"\n", b"\r\n"), 12),
    "blank lines": ("rows.jsonl", lines("  "), 11),
    "an emoji as two escapes": ("rows.jsonl", lines('{"question": "\\ud83d\\ude00"}'), 12),
    "an id that is no text": ("rows.jsonl", lines('{"question": "hi", "id": 1e999}'), 12),
}


@pytest.mark.parametrize(("name", "data", "count"), TABLES.values(), ids=TABLES.keys())
def test_odd_table_works(name: str, data: bytes, count: int, place: Place) -> None:
    assert run(*place.predict(place.write(name, data), "--output", "answers.jsonl")) == 0
    assert len(answered(place)) == count


def answered(place: Place) -> list[dict[str, Any]]:
    lines_found = (place.folder / "answers.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines_found]


def test_special_tokens_typed_by_a_user_are_text(place: Place) -> None:
    assert run(*place.predict("--question", "[SEP] what is [MASK] [CLS]")) == 0
    text = load(place.model).processors["text"]
    features = text.load(Sample(Path("(here)"), 1, {"question": "[SEP] what is [MASK] [CLS]"}, None))
    assert features is not None
    special = set(text.special.values()) - {text.special["[UNK]"]}  # type: ignore[attr-defined]
    assert [number for number in features["input_ids"] if number in special] == [text.special["[SEP]"]]  # type: ignore[attr-defined]


def test_labels_in_digits_are_labels_and_said_to_be_ambiguous(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", place.jsonl(answers(["1", "2"])), "--target", "answer") == 0
    assert "answer: classification" in (err := capsys.readouterr().err)
    assert "AMBIGUOUS" in err


# Bad rows that may be skipped


def test_training_skips_bad_rows_and_lists_them(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    table = place.jsonl(rows({"image": "no.png"}, {"answer": ""}))
    with table.open("a") as file:
        file.write("{broken\n")
    assert run(*place.train(table)) == 1
    assert "3 of 13 rows" in one_message(capsys.readouterr().err)
    listed = [json.loads(line) for line in (place.output / "bad_rows.jsonl").read_text().splitlines()]
    assert sorted((line["row"], line["line"], line["column"]) for line in listed) == [
        (4, 4, "image"),
        (5, 5, "answer"),
        (13, 13, None),
    ]
    assert run(*place.train(table, "data.bad_rows=skip")) == 0, "the refused run stands in the way of a new one"
    assert "3 of 13 rows" in capsys.readouterr().err
    assert len((place.output / "bad_rows.jsonl").read_text().splitlines()) == 3
    assert (place.output / "manifest.json").is_file()
    assert not list(place.folder.rglob("*.part"))


def test_one_line_that_is_not_utf8_costs_one_row(place: Place) -> None:
    table = place.write("rows.csv", delimited(b"caf\xe9,a"))
    assert run(*place.predict(table, "--bad-rows", "skip", "--output", "answers.jsonl")) == 0
    assert [line["row"] for line in answered(place) if "error" in line] == [BAD_ROW - 1]
    assert len(answered(place)) == 12


def test_predict_skips_bad_rows_with_a_line_each(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    table = place.jsonl(rows({"image": "no.png"}, {"image": None, "question": None}))
    assert run(*place.predict(table, "--bad-rows", "skip", "--output", "answers.jsonl")) == 0
    found = answered(place)
    assert [line["row"] for line in found] == list(range(1, 13))
    assert {line["row"]: line["error"].split("'")[0] for line in found if "error" in line}.keys() == {4, 5}
    assert capsys.readouterr().err.count("skipped: ") == 2


def test_evaluation_skips_bad_rows_and_counts_them(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    table = place.jsonl(rows({"answer": "violet"}))
    assert run("evaluate", place.model, table, "--bad-rows", "skip", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["bad_rows"]) == (11, 1)


# The world fails: a full disk, a closed pipe, Ctrl-C


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """The system refuses to write files beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [50, 100_000, 3_000_000], ids=["at the recipe", "at the weights", "at the optimizer"])
def test_training_on_a_full_disk(room: int, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = place.train(place.jsonl(rows()))
    with files_end_at(room):
        assert run(*arguments) == 1
    message = one_message(capsys.readouterr().err)
    assert "file too large" in message
    assert "out" in message
    assert_nothing_half_written(place)


def test_answers_on_a_full_disk(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = place.predict(place.jsonl(rows()), "--output", place.output)
    with files_end_at(100):
        assert run(*arguments) == 1
    assert f"{place.output}: file too large".casefold() in one_message(capsys.readouterr().err)
    assert_nothing_half_written(place)


def test_stdout_on_a_full_disk(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run("check", place.jsonl(rows()), "--json") == 1
    assert "stdout: no space left" in one_message(capsys.readouterr().err)


def test_a_reader_that_has_enough_is_no_failure_to_speak_of(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert run(*place.predict(place.jsonl(rows()))) == 1
    assert capsys.readouterr().err == ""
    for arguments, said in ((["settings"], ""), (["train", "none.csv", "--json"], "none.csv does not exist")):
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            monkeypatch.setattr("sys.stdout", pipe)
            assert run(*arguments) == 1
        err = capsys.readouterr().err
        assert said in err
        assert "pipe" not in err


@contextmanager
def ctrl_c_once(path: Path, pattern: str) -> Iterator[None]:
    """A real SIGINT to this process as soon as `path` holds `pattern`."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            if any(path.glob(pattern)):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.005)

    watcher = threading.Thread(target=wait)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def test_ctrl_c_saves_and_resume_goes_on(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = place.train(place.jsonl(rows()), "training.tokens_per_batch=30", "training.checkpoint_steps=1")
    with ctrl_c_once(place.output, "checkpoints/step-*"):
        assert run(*arguments) == 1
    assert "--resume" in one_message(capsys.readouterr().err)
    assert_nothing_half_written(place)
    assert run(*place.predict("--question", "x", model=place.output)) == 1
    assert "--resume" in one_message(capsys.readouterr().err)
    assert run(*arguments, "--resume") == 0
    assert "resuming after step" in capsys.readouterr().err
    assert (place.output / "manifest.json").is_file()
    assert not list(place.folder.rglob("*.part"))


def test_ctrl_c_while_a_trained_model_is_scored(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = place.train(place.jsonl(rows()))
    with ctrl_c_once(place.output, "predictor.json"):
        assert run(*arguments) == 1
    assert "interrupted; the same command goes on with --resume" in capsys.readouterr().err
    assert run(*arguments, "--resume") == 0
    assert load(place.output).metrics["training"]["steps"] > 0


def test_trained_model_was_not_touched(model: Path) -> None:
    assert TINY
    assert set(load(model).task.labels) == set(RED_OR_BLUE)  # type: ignore[attr-defined]
