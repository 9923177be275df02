"""The demo: a drawn world, a model trained on it, and a look at what it learnt. Needs no data and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusebert.data.tables import read_table
from fusebert.data.toyworld import write_toyworld
from fusebert.evaluation.trained_model import load
from fusebert.storage import MANIFEST, METRICS, read_json, refuse_in_finished
from fusebert.training.progress import Terminal
from fusebert.training.run import train
from fusebert.types import Sample

PICTURES = {"train": 1500, "val": 150, "test": 150}
ROWS_SHOWN = 6
SETTINGS = {
    "data.train": "train.jsonl",
    "data.validation": "val.jsonl",
    "data.test": "test.jsonl",
    "data.target": "answer",
    "data.columns": {
        "image": "image",
        "question": "text",
        "language": "ignore",
        "caption": "ignore",
        "shapes": "ignore",
        "colours": "ignore",
    },
    "model.trunk": "tiny",
    "model.dropout": 0.0,
    "image.width": 16,
    "training.epochs": 10,
    "training.learning_rate": 5e-4,
    "training.tokens_per_batch": 1024,
}


def run_demo(folder: Path) -> dict[str, Any]:
    """Train on the toy world in `folder/world`, once; score the test part with and without each modality.

    Returns:
        `folder` of the model, `ledger`, `predictions` on a few test rows, and the path of the `report`.
    """
    refuse_in_finished(folder)
    world = write_toyworld(folder / "world", pictures=PICTURES)
    model = folder / "model"
    if not (model / MANIFEST).is_file():
        train(SETTINGS | {"data.root": str(world.absolute())}, model, resume=model.exists(), progress=Terminal())
    predictor = load(model)
    test = world / "test.jsonl"
    found = read_json(model / METRICS)["ledger"]
    rows = [row for row in read_table(test) if isinstance(row, Sample)][:ROWS_SHOWN]
    predictions = [
        {"question": row.values["question"], "target": row.values["answer"]} | answer.to_json()
        for row, (_, answer) in zip(rows, predictor.answers(iter(rows)), strict=True)
    ]
    return {"folder": str(model), "ledger": found, "predictions": predictions, "report": str(model / "report.html")}
