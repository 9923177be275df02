"""Tables of events and catalogues: what is read of them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from fusebert.config import Recipe
from fusebert.data.tables import read_table
from fusebert.tasks.recommendation.histories import read_events
from fusebert.tasks.recommendation.task import Config
from fusebert.training.prepare_histories import prepare_histories
from fusebert.training.progress import Silence


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
