"""Tables of events and catalogues: what is read of them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from fusebert.config import Recipe
from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, RowError, UsageError
from fusebert.modalities.events.history import Event, read_event
from fusebert.tasks.recommendation.config import HISTORY
from fusebert.tasks.recommendation.histories import UserEvent, hold_out_newest, read_events
from fusebert.tasks.recommendation.task import Config, Task
from fusebert.training.prepare_histories import prepare_histories
from fusebert.training.progress import Silence
from fusebert.types import Sample
from tests.conftest import Notes


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_times_of_a_parquet_table_are_read(tmp_path: Path) -> None:
    times = [datetime(2024, 5, 31, hour, tzinfo=UTC) for hour in (12, 13)]
    table = pyarrow.table({"user": ["u", "u"], "item": ["a", "b"], "when": times})
    parquet.write_table(table, tmp_path / "events.parquet")
    done, bad = read_events(read_table(tmp_path / "events.parquet"), Config(time="when"))
    assert bad == []
    assert [one.seconds for one in done] == [1717156800, 1717160400]


def test_a_large_catalogue_is_gone_through_once(tmp_path: Path) -> None:
    size = 20_000
    rows = [{"user": f"u{n % 50}", "item": f"i{n}"} for n in range(size)]
    events = write(tmp_path / "events.jsonl", rows)
    items = write(tmp_path / "items.jsonl", [{"item": f"i{n}"} for n in range(size)])
    settings = {"data.train": str(events), "data.validation": 0.2, "task.catalogue": str(items)}
    recipe = Recipe.from_flat({"task.name": "recommendation", "model.trunk": "tiny"} | settings)
    started = time.process_time()
    names = prepare_histories(recipe, tmp_path, Silence()).processors["events"].items
    assert time.process_time() - started < 5
    assert (len(names), set(names)) == (size, {f"i{n}" for n in range(size)})


def with_catalogue(folder: Path, names: list[str]) -> list[str]:
    """What is said before a recommender of the items 0 to 9 is trained with a catalogue."""
    events = write(folder / "events.jsonl", [{"user": f"u{n % 4}", "item": n % 10} for n in range(40)])
    items = write(folder / "items.jsonl", [{"item": name, "title": f"thing {name}"} for name in names])
    settings = {"data.train": str(events), "data.validation": 0.2, "task.catalogue": str(items)}
    recipe = Recipe.from_flat({"task.name": "recommendation", "model.trunk": "tiny"} | settings)
    prepare_histories(recipe, folder, notes := Notes())
    return notes.lines


def test_a_catalogue_that_has_no_item_of_the_events_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items\.jsonl: none of the 10 items .* '0', .* '000'; write both"):
        with_catalogue(tmp_path, [f"{n:03}" for n in range(10)])


@pytest.mark.parametrize(("known", "warned"), [(4, True), (5, False)])
def test_a_catalogue_that_lacks_most_items_of_the_events_is_warned_of(known: int, warned: bool, tmp_path: Path) -> None:
    said = with_catalogue(tmp_path, [*map(str, range(known)), "new"])
    (note,) = [line for line in said if f"{10 - known} of the 10 items of the training events are not among" in line]
    assert note.startswith("Warning: ") is warned


def test_times_some_of_which_name_a_zone_are_warned_of(tmp_path: Path) -> None:
    times = [f"2024-05-{10 + n % 18}T12:00{'+08:00' if n < 10 else ''}" for n in range(40)]
    rows = [{"user": f"u{n % 4}", "item": n % 9, "at": time} for n, time in enumerate(times)]
    settings = {"data.train": str(write(tmp_path / "events.jsonl", rows)), "data.validation": 0.2, "task.time": "at"}
    recipe = Recipe.from_flat({"task.name": "recommendation", "model.trunk": "tiny"} | settings)
    prepared = prepare_histories(recipe, tmp_path, notes := Notes())
    said = "column 'at': some times name a time zone (10) and others do not (30); these count as UTC"
    assert [warning for warning in prepared.warnings if warning.startswith(said)]
    assert [note for note in notes.lines if note.startswith(f"Warning: {said}")]


def test_a_table_is_judged_by_all_its_rows(tmp_path: Path) -> None:
    rows = [{"user": "u", "item": "a"}, {"user": "u", "item": "b", "worth": 3}]
    done, bad = read_events(read_table(write(tmp_path / "events.jsonl", rows)), Config(value="worth"))
    assert (len(done), bad) == (2, [])
    (tmp_path / "broken.jsonl").write_text("{\n" + "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UsageError, match=r"no column 'knid', only user, item, worth; .* task\.type=COLUMN"):
        read_events(read_table(tmp_path / "broken.jsonl"), Config(type="knid"))


def test_a_bad_first_row_does_not_hide_a_table_of_events() -> None:
    task = Task(Config(), ["a", "b"])
    events = [Sample(Path("t"), row, {"user": "u", "item": item}, None) for row, item in ((2, "a"), (3, "b"))]
    asked = [*task.questions(iter([RowError("broken", Path("t"), 1), *events]))]
    assert [type(row) for row in asked] == [RowError, Sample, Sample]
    assert all(HISTORY in row.values for row in asked[1:] if isinstance(row, Sample))


def test_those_held_out_are_cut_between_two_moments() -> None:
    events = [Event("a", "", float(day), None) for day in (1, 1, 1, 2, 2, 2, 2, 3, 3, 4)]
    done = [UserEvent("u", event, Path("t"), row, None) for row, event in enumerate(events, 1)]
    older, newer = hold_out_newest(done, 0.5)
    assert max(one.seconds for one in older) < min(one.seconds for one in newer)
    assert len(older) == 7


def events_of(user: str, *moments: float | None) -> list[UserEvent]:
    return [UserEvent(user, Event("a", "", when, None), Path("t"), row, None) for row, when in enumerate(moments, 1)]


def test_some_are_held_out_where_a_share_is_less_than_the_last_moment() -> None:
    older, newer = hold_out_newest(events_of("u", 1, 1, 2, 2, 3, 3, 3), 0.1)
    assert [one.seconds for one in newer] == [3, 3, 3]
    assert len(older) == 4


def test_events_of_one_moment_have_no_newest() -> None:
    with pytest.raises(DataError, match=r"all events are of one moment.*leave out task\.time"):
        hold_out_newest(events_of("u", 5, 5, 5), 0.2)


def test_some_are_held_out_of_users_with_few_events() -> None:
    older, newer = hold_out_newest([*events_of("u", None, None, None), *events_of("v", None)], 0.1)
    assert [(one.user, one.row) for one in newer] == [("u", 3)]
    assert len(older) == 3


def test_eight_digits_are_a_day_or_refused() -> None:
    day, same = (read_event({"item": "a", "time": text}) for text in ("20240531", "2024-05-31"))
    assert day == same
    assert read_event({"item": "a", "time": 86_400_000}).seconds == 86_400_000
    assert read_event({"item": "a", "time": "12345678.0"}).seconds == 12_345_678
    with pytest.raises(InputError, match="20240531 may be a day or seconds"):
        read_event({"item": "a", "time": 20240531})
    for text in ("12345678", "10000101"):
        with pytest.raises(InputError, match=f"{text} has eight digits.*{text}.0"):
            read_event({"item": "a", "time": text})
