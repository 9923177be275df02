"""Is a pre-trained BERT worth its time? Fine-tuned on clinc150 from its folder, and from random weights of its size.

Both sides have the same tokenizer, size, settings and seeds. Each has the learning rate of RATES that is best for it on
the validation part with a seed of its own; `accuracy_gain` is the mean test accuracy from the folder minus the mean
from random weights.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertModel

import common
from fusebert.storage import read_json
from fusebert.training.run import train

SETTINGS = {
    "data.train": "clinc150/train.jsonl",
    "data.validation": "clinc150/val.jsonl",
    "data.test": "clinc150/test.jsonl",
    "data.target": "label",
    "data.columns": {"text": "text", "domain": "ignore", "id": "ignore"},
    "text.max_tokens": 48,
    "task.name": "classification",
    "task.pooling": "mean",
    "training.tokens_per_batch": 1024,
    "training.trackers": [],
}
EPOCHS = 5
RATES = (2e-4, 5e-4, 1e-3, 2e-3)
TUNING_SEED = 100


def random_weights(folder: Path, target: Path, seed: int) -> Path:
    """A BERT folder of the same size and vocabulary that has learned nothing."""
    torch.manual_seed(seed)
    BertModel(BertConfig.from_pretrained(folder)).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, target / name)
    return target


def accuracy(trunk: Path, rate: float, seed: int, epochs: int, room: Path) -> dict[str, float]:
    """On the validation and the test part."""
    settings = SETTINGS | {"data.root": str(common.data_folder()), "model.trunk": str(trunk)}
    folder = room / f"{trunk.name}-{rate:g}-{seed}"
    train(settings | {"training.learning_rate": rate, "training.epochs": epochs, "training.seed": seed}, folder)
    found = read_json(folder / "metrics.json")["evaluations"]
    return {part: round(float(found[part]["metrics"]["accuracy"]), 4) for part in ("validation", "test")}


def measure(trunk_of: Callable[[int], Path], given: Any, room: Path) -> dict[str, Any]:
    """One side: its rate, then its seeds."""
    epochs, rates = (1, RATES[1:2]) if given.quick else (EPOCHS, RATES)
    trunk = trunk_of(TUNING_SEED)
    tried = {rate: accuracy(trunk, rate, TUNING_SEED, epochs, room)["validation"] for rate in rates}
    rate = max(tried, key=lambda one: tried[one])
    seeds = range(1 if given.quick else given.seeds)
    found = [accuracy(trunk_of(seed), rate, seed, epochs, room)["test"] for seed in seeds]
    return {"rate": rate, "validation_by_rate": tried, "accuracy": found, "mean": round(statistics.mean(found), 4)}


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("folder", type=Path, help="a pre-trained BERT")
    options.add_argument("--seeds", type=int, default=3)
    given = options.parse_args()
    common.prepare_process()
    result: dict[str, Any] = {"machine": common.machine(), "folder": str(given.folder)}
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        sides: dict[str, Callable[[int], Path]] = {
            "pretrained": lambda _: given.folder.absolute(),
            "random": lambda seed: random_weights(given.folder, room / f"random-{seed}", seed),
        }
        for side, trunk_of in sides.items():
            result[side] = measure(trunk_of, given, room)
            common.note(f"  {side}: {result[side]}")
    result["accuracy_gain"] = round(result["pretrained"]["mean"] - result["random"]["mean"], 4)
    common.show(result, given.json)


if __name__ == "__main__":
    main()
