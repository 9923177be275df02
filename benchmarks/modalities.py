"""What sound, pictures and rows of five modalities cost: prepared, loaded beside training, and in a batch.

`log_mel` and `picture`: from file to array on one core, beside what a user of transformers would write: soundfile, soxr
and ASTFeatureExtractor with 80 bins; ViTImageProcessorPil. `loader`: of a recipe's training time, the share in which
the model computes and does not wait for rows. `five`: forward and backward on rows of five modalities, beside as many
tokens of text alone in rows of the same lengths; 1 is what the tokens say.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from PIL import Image
from torch.utils.data import dataloader
from transformers import ASTFeatureExtractor, ViTImageProcessorPil

import common
from fusebert.config import read_recipe
from fusebert.data.collate import Collator
from fusebert.data.dataset import Preparer
from fusebert.data.tables import read_table
from fusebert.data.toyworld import write_toyworld
from fusebert.modalities.audio.processor import Config as AudioConfig
from fusebert.modalities.audio.processor import Processor as AudioProcessor
from fusebert.modalities.audio.signal import RATE_HZ
from fusebert.modalities.events.processor import Config as EventsConfig
from fusebert.modalities.events.processor import Processor as EventsProcessor
from fusebert.modalities.image.processor import Config as ImageConfig
from fusebert.modalities.image.processor import Processor as ImageProcessor
from fusebert.modalities.table.processor import Config as TableConfig
from fusebert.modalities.table.processor import Processor as TableProcessor
from fusebert.modalities.text.processor import Config as TextConfig
from fusebert.modalities.text.processor import Processor as TextProcessor
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.training.run import train
from fusebert.training.trainer import Trainer
from fusebert.types import Sample

PIXELS = 128
FILES, QUICK_FILES = 300, 10
ROWS, QUICK_ROWS = 64, 8
RECIPES = ("fsdd_digits", "speech_commands", "easy_vqa", "pomological", "online_shoppers")
SECONDS, QUICK_SECONDS = 30, 3

Files = list[str]


def files(table: str, column: str) -> tuple[Path, Files]:
    """A table's folder, and the media files that its column names."""
    path = common.data_folder(table) / table
    named = (json.loads(line)[column] for line in path.read_text(encoding="utf-8").splitlines())
    return path.parent, list(dict.fromkeys(named))


def sounds(root: Path) -> dict[str, Callable[[Files], object]]:
    """Both ways from a sound file to log-mel frames."""
    extractor = ASTFeatureExtractor(num_mel_bins=80, max_length=100)

    def ours(names: Files) -> None:
        processor = AudioProcessor(AudioConfig(), ["audio"])
        for number, name in enumerate(names, 1):
            processor.load(Sample(root / "rows", number, {"audio": name}, root))

    def theirs(names: Files) -> None:
        for name in names:
            samples, rate = soundfile.read(root / name, dtype="float32", always_2d=True)
            extractor(soxr.resample(samples.mean(axis=1), rate, RATE_HZ), sampling_rate=RATE_HZ, return_tensors="np")

    return {"fusebert": ours, "transformers": theirs}


def pictures(root: Path) -> dict[str, Callable[[Files], object]]:
    """Both ways from a picture file to pixels of one size; ours stay bytes, and are scaled where the model is."""
    preparer = ViTImageProcessorPil(size={"height": PIXELS, "width": PIXELS})

    def ours(names: Files) -> None:
        processor = ImageProcessor(ImageConfig(size_pixels=PIXELS), ["image"])
        for number, name in enumerate(names, 1):
            found = processor.load(Sample(root / "rows", number, {"image": name}, root))
            assert found is not None
            (found["pixel_values"][0].astype(np.float32) / 255 - 0.5) / 0.5

    def theirs(names: Files) -> None:
        for name in names:
            preparer(Image.open(root / name).convert("RGB"), return_tensors="np")

    return {"fusebert": ours, "transformers": theirs}


def prepared(sides: dict[str, Callable[[Files], object]], names: Files, repeats: int) -> dict[str, Any]:
    """Both sides on one thread."""
    torch.set_num_threads(1)
    found = common.compare(common.alternate(sides, names[:5], [names] * repeats), "fusebert", {"transformers": ""})
    rates = {name: round(len(names) / seconds) for name, seconds in found["cpu_seconds"].items()}
    return found | {"files": len(names), "files_per_core_second": rates}


def busy(recipe: Path, seconds: float) -> dict[str, float]:
    """How a recipe's time goes, from the first step on: in steps, and waiting for rows."""
    spent = {"steps": 0.0, "waits": 0.0}

    def timed(owner: Any, method: str, key: str) -> Callable[[], None]:
        original = getattr(owner, method)

        def wrapper(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return original(*arguments)
            finally:
                spent[key] += time.perf_counter() - started

        setattr(owner, method, wrapper)
        return lambda: setattr(owner, method, original)

    undo = [timed(Trainer, "_step", "steps"), timed(dataloader._BaseDataLoaderIter, "__next__", "waits")]
    try:
        settings = {"data.root": str(common.data_folder()), "training.time_limit": seconds, "training.trackers": []}
        with tempfile.TemporaryDirectory() as folder:
            train(read_recipe(recipe, settings), Path(folder) / "model")
    finally:
        for one in undo:
            one()
    share = spent["steps"] / (spent["steps"] + spent["waits"])
    return {"busy_share": round(share, 4), **{name: round(value, 2) for name, value in spent.items()}}


def five(folder: Path, size: str, rows: int, repeats: int) -> dict[str, Any]:
    """Steps on five modalities and on text of the same lengths."""
    world = write_toyworld(folder / "world", pictures={"train": rows, "val": 2, "test": 2}, sounds=True)
    random = np.random.default_rng(0)
    found = [row for row in read_table(world / "train.jsonl") if isinstance(row, Sample)][:rows]
    kinds = ("click", "browse", "buy")
    samples = []
    for row in found:
        history = [
            {"item": int(random.integers(200)), "type": str(random.choice(kinds)), "time": 60 * minute}
            for minute in range(20)
        ]
        samples.append(Sample(row.table, row.row, {**row.values, "history": history}, row.root))
    processors: dict[str, Any] = {
        "audio": AudioProcessor(AudioConfig(), ["audio"]),
        "events": EventsProcessor.fit(EventsConfig(), ["history"], samples, None),
        "image": ImageProcessor(ImageConfig(), ["image"]),
        "table": TableProcessor.fit(TableConfig(), ["shapes", "language"], samples, None),
        "text": TextProcessor.fit(TextConfig(vocabulary_size=300), ["caption", "question"], samples, None),
    }
    examples = [example for row in samples if not isinstance(example := Preparer(processors)(row), Exception)]
    together = Collator(processors, _no_targets)(examples)
    words = TextProcessor.fit(TextConfig(vocabulary_size=300, max_tokens=500), ["text"], samples, None)
    words.tokenizer = processors["text"].tokenizer
    texts = []
    for number, length in enumerate(together["lengths"], 1):
        text = " ".join(["a"] * (length - 2))  # beside [CLS] and [SEP]
        texts.append(Preparer({"text": words})(Sample(Path("rows"), number, {"text": text}, None)))
    alone = Collator({"text": words}, _no_targets)(texts)
    assert alone["lengths"] == together["lengths"]
    jobs = {"text": ({"text": words}, alone), "five": (processors, together)}
    sides = {name: _steps(made, batch, size) for name, (made, batch) in jobs.items()}
    measured = common.compare(common.alternate(sides, 1, [1] * repeats), "text", {"five": ""})
    parts = {name: sum(counts) for name, counts in together["counts"].items()}
    return measured | {"rows": len(examples), "tokens": sum(together["lengths"]), "tokens_by_modality": parts}


def _no_targets(targets: Any, starts: np.ndarray) -> np.ndarray:  # noqa: ARG001
    return np.zeros(len(targets))


def _steps(processors: dict[str, Any], batch: dict[str, Any], size: str) -> Callable[[int], object]:
    """Forward and backward over the batch."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    trunk = TrunkConfig.of_size(size, processors["text"].vocabulary_size)
    config = FusebertConfig(
        trunk=trunk.model_dump(),
        modalities={
            name: {"columns": len(one.columns), "config": one.config.model_dump(mode="json")}
            for name, one in processors.items()
        },
        task={"name": "classification", "outputs": 2, "pooling": "mean"},
    )
    model = FusebertModel(config).train()

    def step(count: int) -> None:
        for _ in range(count):
            model(**batch)["logits"].sum().backward()
            model.zero_grad(set_to_none=True)

    return step


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--recipes", nargs="*", default=list(RECIPES), help="whose loading is measured")
    given = options.parse_args()
    common.prepare_process()
    result: dict[str, Any] = {"machine": common.machine()}
    count, repeats = (QUICK_FILES if given.quick else FILES), given.repeats
    for name, sides, table in (("log_mel", sounds, "speech_commands_mini"), ("picture", pictures, "pomological")):
        root, names = files(f"{table}/train.jsonl", "audio" if name == "log_mel" else "image")
        common.note(name)
        result[name] = prepared(sides(root), names[:count], repeats)
    with tempfile.TemporaryDirectory() as folder:
        sizes = ("tiny",) if given.quick else ("mini", "base")
        for size in sizes:
            common.note(f"five modalities, {size}")
            made = five(Path(folder) / size, size, QUICK_ROWS if given.quick else ROWS, repeats)
            result[f"five_{size}"] = made
    result["loader"] = {}
    for name in given.recipes[:1] if given.quick else given.recipes:
        result["loader"][name] = busy(
            common.ROOT / "recipes" / f"{name}.yaml", QUICK_SECONDS if given.quick else SECONDS
        )
        common.note(f"{name}: {result['loader'][name]}")
    result["least_busy_share"] = min((one["busy_share"] for one in result["loader"].values()), default=None)
    result["five_ratio_cpu"] = statistics.median([result[f"five_{size}"]["ratio_cpu"] for size in sizes])
    common.show(result, given.json)


if __name__ == "__main__":
    main()
