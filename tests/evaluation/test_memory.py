"""Scoring and predicting take the memory of a window of rows, however long the table."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusebert.evaluation import encode
from fusebert.evaluation.encode import Encoder
from fusebert.evaluation.inference import (
    LIST_BYTES,
    WINDOW_BYTES,
    WINDOW_OUTPUTS,
    WINDOW_ROWS,
    example_bytes,
    value_bytes,
    windows,
)
from fusebert.evaluation.trained_model import load
from fusebert.tasks.recommendation.task import Config, Task
from fusebert.types import Example, Sample

WINDOWS = 8
BALLAST = "x" * 8192
"""In a column that the model does not read: cheap to compute on, costly to keep."""
MARGIN_BYTES = 32 * 2**20
"""A quarter of what keeping the rows of the longer table would take."""
PROGRAM = """
import resource, sys
from fusebert.evaluation.trained_model import load
from fusebert.data.tables import read_table
from pathlib import Path
predictor = load(sys.argv[2])
if sys.argv[1] == "evaluate":
    rows = predictor.evaluate(sys.argv[3])["rows"]
else:
    rows = sum(1 for _ in predictor.answers(read_table(Path(sys.argv[3]))))
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def peak_bytes(verb: str, model: Path, table: Path) -> tuple[int, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, verb, str(model), str(table)], capture_output=True, text=True, check=True
    )
    rows, peak = done.stdout.split()
    return int(rows), int(peak)


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_memory_does_not_grow_with_the_table(verb: str, trained: Path, tmp_path: Path) -> None:
    labels = json.loads((trained / "task.json").read_text())["labels"]
    peaks = {}
    for rows in (WINDOW_ROWS, WINDOWS * WINDOW_ROWS):
        with (tmp_path / f"{rows}.jsonl").open("w") as table:
            for row in range(rows):
                values = {"question": f"which shape? {row}", "answer": labels[row % len(labels)], "notes": BALLAST}
                table.write(json.dumps(values) + "\n")
        found, peaks[rows] = peak_bytes(verb, trained, tmp_path / f"{rows}.jsonl")
        assert found == rows
    assert peaks[WINDOWS * WINDOW_ROWS] - peaks[WINDOW_ROWS] < MARGIN_BYTES, peaks


def test_large_pictures_make_smaller_windows() -> None:
    picture = np.empty(1, dtype=object)
    picture[0] = np.zeros(WINDOW_BYTES // 8, dtype=np.uint8)
    examples = [Example({"image": {"pixel_values": picture}}, None, 5)] * 20
    assert [len(window) for window in windows(examples, example_bytes)] == [8, 8, 4]
    assert [len(window) for window in windows(range(2 * WINDOW_ROWS + 1), lambda _: 0)] == [2048, 2048, 1]


def test_texts_are_encoded_a_portion_at_a_time(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(trained).save_trunk(tmp_path / "trunk")
    encoder = Encoder(str(tmp_path / "trunk"))
    texts = ["which shape is red? " * (1 + number * 7 % 5) + str(number) for number in range(20)]
    whole = encoder.encode(texts)
    monkeypatch.setattr(encode, "TEXTS_AT_ONCE", 8)
    apart = [encoder.encode(texts[start : start + 8]) for start in (0, 8, 16)]
    assert (encoder.encode(texts) == np.concatenate(apart)).all()
    np.testing.assert_allclose(encoder.encode(texts), whole, atol=1e-5)
    assert encoder.encode([]).shape == (0, whole.shape[1])


def test_a_large_catalogue_makes_smaller_windows() -> None:
    rows = range(3)
    assert [len(window) for window in windows(rows, lambda _: 0, WINDOW_OUTPUTS // 2)] == [2, 1]
    assert [len(window) for window in windows(rows, lambda _: 0, 2 * WINDOW_OUTPUTS)] == [1, 1, 1]


def test_decoding_takes_less_memory_than_the_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(100, 20_000)).astype(np.float32)
    task = Task(Config(), [str(item) for item in range(logits.shape[1])])
    tracemalloc.start()
    task.decode(logits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < logits.nbytes / 4


@pytest.mark.parametrize("top", [1, 7, 40, 90])
def test_answers_are_those_of_a_sort_of_all_items(top: int, random: np.random.Generator) -> None:
    logits = random.integers(5, size=(30, 40)).astype(np.float32)  # most are equal to others
    task = Task(Config(), [f"i{item}" for item in range(40)])
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for answer, places, row in zip(task.decode(logits, top), order, shares, strict=True):
        found = answer.top if top > 1 else [(answer.value, answer.probability)]
        assert [label for label, _ in found] == [f"i{place}" for place in places]
        assert [share for _, share in found] == pytest.approx(row[places])


@pytest.mark.parametrize(
    "value",
    [
        {"bytes": bytes(2**22)},
        {"array": [0.5] * (2**22 // LIST_BYTES), "sampling_rate": 16_000},
        np.zeros(2**22, np.uint8),
        ["x" * 2**21, "y" * (2**21 - 2 * LIST_BYTES)],
    ],
)
def test_media_in_the_rows_make_smaller_windows(value: Any) -> None:
    rows = [Sample(Path("rows.parquet"), n, {"image": value, "x": 1}, None) for n in range(100)]
    found = list(windows(rows, lambda row: value_bytes(row.values)))
    fitting = WINDOW_BYTES // 2**22
    assert [len(window) for window in found] == [fitting, 100 - fitting]
