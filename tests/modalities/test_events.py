"""Histories: what is read, in which order, what is left out, and what is refused."""

from __future__ import annotations

import csv
import json
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from torch import nn

from fusebert.cli import main
from fusebert.data.columns import guess_columns
from fusebert.data.tables import read_table
from fusebert.errors import InputError, UsageError
from fusebert.evaluation.trained_model import load as load_model
from fusebert.modalities.events.history import read_event, read_history
from fusebert.modalities.events.processor import MOST_PIECES, UNKNOWN, Config, Processor
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.training.run import train
from fusebert.types import Sample
from tests.conftest import Notes

HISTORY = [
    {"item": "tent", "type": "browse", "time": "2024-05-31T12:00", "value": 40},
    {"item": 7, "type": "buy", "time": "2024-05-31T12:01", "value": 10},
    {"item": "tent", "type": "buy", "time": 1717243200, "value": None},
]


def sample(**values: Any) -> Sample:
    return Sample(Path("rows.jsonl"), 1, values, None)


def fitted(*histories: Any, config: Config | None = None) -> Processor:
    return Processor.fit(config or Config(), ["history"], [sample(history=one) for one in histories], None)


def load(processor: Processor, history: Any) -> dict[str, np.ndarray]:
    found = processor.load(sample(history=history))
    assert found is not None
    return dict(found)


def test_an_event_is_an_item_a_type_a_gap_and_a_value() -> None:
    processor = fitted(HISTORY)
    assert (processor.items, processor.types) == (("tent", "7"), ("buy", "browse"))
    found = load(processor, HISTORY)
    assert found["items"].tolist() == [1, 2, 1]
    assert found["types"].tolist() == [2, 1, 1]
    assert found["gaps"].tolist() == [0, 1 + 5, 1 + 16]  # 60 s, 86,340 s
    assert found["ages"].tolist() == [2, 1, 0]
    assert found["values"].tolist() == [[1, 1], [-1, 1], [0, 0]]


def test_order_is_by_time_and_the_same_from_text() -> None:
    processor = fitted(HISTORY)
    for other in (HISTORY[::-1], json.dumps(HISTORY), np.array(HISTORY, dtype=object)):
        assert all(
            np.array_equal(a, b)
            for a, b in zip(load(processor, other).values(), load(processor, HISTORY).values(), strict=True)
        )
    assert load(processor, ["7", "tent"])["items"].tolist() == [2, 1]


def test_old_events_are_left_out_and_new_items_have_one_code() -> None:
    processor = fitted([{"item": n} for n in range(10)], config=Config(max_events=3, max_items=9))
    found = load(processor, [{"item": n, "time": n} for n in (5, 6, 9, 11)])
    assert found["items"].tolist() == [7, UNKNOWN, UNKNOWN]  # 6 has its code, 9 is too rare, 11 was never seen
    assert found["gaps"].tolist() == [2, 3, 2]  # the first gap is to the event that was left out
    assert found["ages"].tolist() == [2, 1, 0]


def test_what_training_does_not_know_says_nothing() -> None:
    """Also after steps that met unknown items, as they do where a catalogue is larger than `max_items`."""
    processor = fitted(HISTORY, config=Config(max_items=1))
    trunk = TrunkConfig.of_size("tiny", 5)
    modalities = {"events": {"columns": 1, "config": processor.config.model_dump(mode="json")}}
    embedder: Any = FusebertModel(FusebertConfig(trunk=trunk.model_dump(), modalities=modalities)).embedders["events"]
    batch = {name: torch.from_numpy(array) for name, array in processor.collate([load(processor, HISTORY)]).items()}
    assert UNKNOWN in batch["items"]
    embedder(batch, nn.Module()).sum().backward()
    for table in (embedder.items, embedder.types):
        assert not table.weight[UNKNOWN].any()
        assert not table.weight.grad[UNKNOWN].any()
        assert table.weight[1].any()


def test_rows_without_events() -> None:
    processor = fitted(HISTORY)
    for nothing in (None, "", [], "[]", float("nan")):
        assert processor.load(sample(history=nothing)) is None


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ("no list", "not a list of events in JSON"),
        ("[" * 100_000, "not a list of events in JSON"),
        ({"item": 1}, "a list of events expected, found dict"),
        ('{"item": 1}', "a list of events expected, found dict"),
        (5, "a list of events expected, found int"),
        ([{"type": "buy"}], "event 1: it has no item"),
        ([{"item": ""}], "event 1: it has no item"),
        ([{"item": ["a"]}], "event 1: one value expected, found list"),
        ([{"item": "a" * 300}], "event 1: a category of 300 characters"),
        ([{"item": 1, "when": 5}], "event 1: 'when' is not one of item, type, time, value, text"),
        ([{"item": 1}, {"item": 1, "time": "soon"}], "event 2: 'soon' is not a time"),
        ([{"item": 1, "time": "2024-02-30"}], "event 1: '2024-02-30' is not a time"),
        ([{"item": 1, "time": [1]}], "event 1: .* is not a time"),
        ([{"item": 1, "time": 1717243200000}], "in milliseconds"),
        ([{"item": 1, "time": -7e10}], "in milliseconds"),
        ([{"item": 1, "time": float("inf")}], "is not a time"),
        ([{"item": 1, "time": 5}, {"item": 2}], "event 2 has no time"),
        ([{"item": 1, "value": "much"}], "event 1: 'much' is not a number"),
        ([{"item": 1, "text": {"a": 1}}], "event 1: text expected, found dict"),
        ([{"item": 1, "value": 1e300}], "event 1: .* is not a finite number"),
        ([1] * 100_001, "a history of 100,001 events"),
        ([None], "event 1: it has no item"),
    ],
)
def test_what_cannot_be_read_is_said(history: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_history(history)


def test_moments_need_not_be_text(tmp_path: Path) -> None:
    moments = [
        datetime(2024, 5, 31, 12),
        datetime(2024, 5, 31, 14, tzinfo=timezone(timedelta(hours=2))),
    ]
    assert {read_event({"item": 1, "time": moment}).seconds for moment in moments} == {1717156800}
    assert read_event({"item": 1, "time": date(2024, 5, 31)}).seconds == 1717113600
    table = pyarrow.table({"history": [[{"item": "tent", "time": moment} for moment in moments[:1]]]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    (row,) = read_table(tmp_path / "rows.parquet")
    assert isinstance(row, Sample)
    assert [event.seconds for event in read_history(row.values["history"])] == [1717156800]


def test_moments_of_pandas_are_read() -> None:
    pandas = pytest.importorskip("pandas")
    moments = [
        pandas.Timestamp("2024-05-31T12:00:00.000000001"),
        pandas.Timestamp("2024-05-31T05:00", tz="America/Los_Angeles"),
    ]
    assert {read_event({"item": 1, "time": moment}).seconds for moment in moments} == {1717156800}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trunk that knows the words good and bad."""
    folder = tmp_path_factory.mktemp("bert")
    rows = [{"said": word, "answer": word} for word in ("good", "bad") * 20]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"data.train": str(folder / "rows.jsonl"), "data.validation": 0.2, "data.target": "answer"}
    settings |= {"data.columns": {"said": "text"}, "model.trunk": "tiny"}
    train(settings | {"training.epochs": 1, "training.trackers": []}, folder / "model").save_trunk(folder / "trunk")
    return folder / "trunk"


def test_text_of_events_is_read_with_the_words_of_the_trunk(bert: Path, tmp_path: Path) -> None:
    told = [{"item": "tent", "text": "good good bad"}, {"item": "tent"}, {"item": "tent", "text": "bad " * 99}]
    processor = Processor.fit(Config(asks_next=True), ["history"], [sample(history=told)], bert)
    found = load(processor, told)
    assert found["piece_counts"].tolist() == [3, 0, MOST_PIECES, 0]
    good, bad = found["pieces"][1:3].tolist()
    assert found["pieces"].tolist() == [good, good, bad] + [bad] * MOST_PIECES
    processor.save(tmp_path)
    again = Processor.load_from(tmp_path)
    assert again.fitted == processor.fitted
    assert np.array_equal(load(again, told)["pieces"], found["pieces"])
    with pytest.raises(UsageError, match=r"events have text, .* name one with model\.trunk"):
        fitted(told)
    with pytest.raises(InputError, match="an event has text, but those that the model was trained on had none"):
        load(fitted(HISTORY), told)
    with pytest.raises(InputError, match="lone surrogate"):
        load(processor, [{"item": 1, "text": "\ud800"}])
    with pytest.raises(InputError, match="its item contains half a character"):
        load(processor, [{"item": "\ud800"}])
    signs = [{"item": 1, "text": "[SEP] [MASK]"}]
    assert np.array_equal(load(again, signs)["pieces"], load(processor, signs)["pieces"])


def test_what_events_say_answers_a_question_about_it(bert: Path, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    rows = []
    for n in range(400):
        said = chance.choice(["good", "bad"], size=2).tolist()
        history = [{"item": n % 3, "text": said[0]}, {"item": n % 5, "text": said[1]}]
        rows.append({"history": history, "answer": said[1]})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"data.train": str(tmp_path / "rows.jsonl"), "data.validation": 0.2, "data.target": "answer"}
    settings |= {"model.trunk": str(bert), "training.epochs": 6, "training.learning_rate": 1e-3}
    train(settings | {"training.trackers": []}, tmp_path / "model")
    found = load_model(tmp_path / "model").evaluate(tmp_path / "rows.jsonl")
    assert found["metrics"]["accuracy"] > 0.95
    assert not (tmp_path / "model" / "tokenizer.json").exists()
    more = {"model.trunk": str(tmp_path / "model"), "training.epochs": 1, "training.trackers": []}
    notes = Notes()
    train(settings | more, tmp_path / "second", progress=notes)
    assert any("events is taken over" in line for line in notes.lines)
    found = load_model(tmp_path / "second").evaluate(tmp_path / "rows.jsonl")
    assert found["metrics"]["accuracy"] > 0.95  # after one epoch


def test_columns_of_events_are_known_as_such() -> None:
    rows = [sample(clicks=HISTORY[: 1 + n % 3], tags=["a", "b"], text=json.dumps(HISTORY)) for n in range(20)]
    assert [guess.kind for guess in guess_columns(rows, None, {})] == ["events", "ignore", "events"]


def test_events_in_a_csv_are_known_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON text, also of nothing and over several lines; what is broken is a bad row, not a column of text."""
    cells = [json.dumps(HISTORY[: 1 + n % 3], indent=n % 2 or None) for n in range(20)]
    cells[4], cells[6], cells[9] = "[]", json.dumps(HISTORY)[:-3], "no list"
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("clicks", "answer"), *((cell, "ab"[n % 2]) for n, cell in enumerate(cells))])
    assert main(["check", str(tmp_path / "rows.csv"), "--target", "answer", "--strict", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["columns"][0]["kind"], found["columns"][0]["ambiguous"]) == ("events", False)
    broken = [problem for problem in found["problems"] if "not a list of events in JSON" in problem["problem"]]
    assert [(problem["row"], problem["column"]) for problem in broken] == [(7, "clicks"), (10, "clicks")]
    assert all(problem["table"] == str(tmp_path / "rows.csv") for problem in broken)


def test_behaviour_alone_answers_a_question_about_it(tmp_path: Path) -> None:
    """Whether the last thing bought was bought before: order, type and item all matter."""
    random = np.random.default_rng(0)
    for split, count in (("train", 1500), ("val", 200), ("test", 200)):
        rows = []
        for _ in range(count):
            items = random.integers(6, size=4).tolist()
            types = random.choice(["click", "buy"], size=4).tolist()
            events = [{"item": i, "type": t, "time": 60 * n} for n, (i, t) in enumerate(zip(items, types, strict=True))]
            rows.append({"history": random.permutation(np.array(events, dtype=object)).tolist(), "answer": types[-1]})
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "data.train": str(tmp_path / "train.jsonl"),
        "data.validation": str(tmp_path / "val.jsonl"),
        "data.test": str(tmp_path / "test.jsonl"),
        "data.target": "answer",
        "model.trunk": "tiny",
        "training.epochs": 4,
        "training.learning_rate": 1e-3,
        "training.trackers": [],
    }
    found = train(settings, tmp_path / "model").evaluate(tmp_path / "test.jsonl")
    assert found["metrics"]["accuracy"] > 0.95


def test_times_may_be_written_with_the_year_first() -> None:
    wanted = read_event({"item": 1, "time": "2024-05-31T10:30"}).seconds
    for when in ("2024/5/31 10:30", "2024.5.31 10:30", "2024年5月31日 10:30:00"):
        assert read_event({"item": 1, "time": when}).seconds == wanted


def test_histories_in_which_some_times_name_a_zone_are_doubted() -> None:
    """Seconds are those of UTC, and no doubt."""
    zoned, plain, seconds = ({"item": "a", "time": time} for time in ("2024-05-31T12:00Z", "2024-05-31", 1717243200))

    def doubts(*histories: Any) -> list[str]:
        return fitted(*histories).doubts([sample(history=one) for one in histories])

    (said,) = doubts([zoned, plain], [seconds], [plain, 3.5j])
    assert said.startswith(
        "column 'history': some times name a time zone (1) and others do not (1); these count as UTC"
    )
    assert doubts([zoned, seconds], [zoned]) == doubts([plain, seconds], ["a"]) == []
    assert read_event(zoned | {"time": "2024-05-31T00:00Z"}) == read_event(plain)


def test_a_value_far_from_all_others_leaves_numbers_finite() -> None:
    """float32 ends at 3e38."""
    found = load(fitted(HISTORY), [{"item": 1, "value": 1e60}])
    assert np.isfinite(found["values"]).all()


def test_one_slip_does_not_make_all_values_equal() -> None:
    rated = [[{"item": "a", "value": 1 + number % 5}] for number in range(500)]
    slip = [{"item": "a", "value": 99_999_999}]
    clean, dirty = (
        Processor.fit(Config(), ["h"], [Sample(Path("t"), 1, {"h": one}, None) for one in rows], None)
        for rows in (rated, [*rated, slip])
    )
    assert (clean.mean, clean.deviation) == (dirty.mean, dirty.deviation)


@pytest.mark.parametrize("when", [20240531103000, "20240531103000", "2024/5/31 10:30", "2024年5月31日 10:30"])
def test_moments_as_china_writes_them_are_times(when: Any) -> None:
    (event,) = read_history([{"item": "a", "time": when}])
    assert event.seconds == datetime(2024, 5, 31, 10, 30, tzinfo=UTC).timestamp()
