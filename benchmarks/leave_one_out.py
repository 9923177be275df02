"""How well does a recipe do on people, devices or places that it has not seen? One run for each value of a column.

Each run trains on the recipe's training rows with other values and is tested on those with this one, so the recipe's
own test part is not touched. What is chosen by validation is chosen on rows with the other values.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import common
from fusebert.config import read_recipe
from fusebert.data.tables import read_table
from fusebert.recipe_yaml import parse_overrides
from fusebert.storage import read_json
from fusebert.training.run import train
from fusebert.types import Sample

FEW, SECONDS = 2, "20s"
"""With --quick: values tried, and the time for each."""


def without(rows: list[Sample], column: str, value: Any, folder: Path) -> dict[str, Any]:
    """Settings of a run that has not seen `value`: two tables beside the media files."""
    settings: dict[str, Any] = {"data.root": str(folder)}
    for name in ("train", "test"):
        chosen = [row.values for row in rows if (row.values[column] == value) == (name == "test")]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen), encoding="utf-8")
        settings[f"data.{name}"] = path.name
    return settings


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("recipe", type=Path)
    options.add_argument("column")
    options.add_argument("overrides", nargs="*", metavar="key=value")
    given = options.parse_args()
    common.prepare_process()
    root = common.data_folder()
    recipe = read_recipe(given.recipe, {"data.root": str(root), **parse_overrides(given.overrides)})
    assert recipe.data.train is not None
    table = recipe.table(recipe.data.train)
    rows = [row for row in read_table(table) if isinstance(row, Sample)]
    values = sorted({row.values[given.column] for row in rows})[: FEW if given.quick else None]
    fixed = recipe.flat() | {"data.validation": 0.1, "training.trackers": []}
    if given.quick:
        fixed["training.time_limit"] = SECONDS
    scores = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "data"
        shutil.copytree(table.parent, folder)  # a row's files have to lie in its table's folder
        for value in values:
            model = train(fixed | without(rows, given.column, value, folder), Path(name) / f"without {value}")
            found = read_json(model.folder / "metrics.json")["evaluations"]["test"]
            scores[str(value)] = round(found["metrics"][model.task.primary_metric], 4)
            common.note(f"  {value}: {scores[str(value)]} of {found['rows']} rows")
    common.show(
        {
            "machine": common.machine(),
            "recipe": str(given.recipe),
            "column": given.column,
            "scores": scores,
            "mean": round(statistics.mean(scores.values()), 4),
            "min": min(scores.values()),
        },
        given.json,
    )


if __name__ == "__main__":
    main()
