"""Where a case of bad input is set up, and what a case is."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fusebert.model.pretrained import save_trunk
from fusebert.model.trunk import Trunk, TrunkConfig
from fusebert.storage import MANIFEST, file_hash

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TINY = (
    "model.trunk=tiny",
    "image.size_pixels=16",
    "image.patch_pixels=16",
    "training.epochs=1",
    "training.trackers=[]",
)
GOOD, BAD_ROW = "good.png", 4


@dataclass(frozen=True)
class Place:
    """Where a case is set up: an empty `folder`, and a trained `model` that it may copy but not change."""

    folder: Path
    model: Path

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write(self, name: str, data: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
        return path

    def jsonl(self, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        self.write(GOOD, png())
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def train(self, table: Path | str, *settings: str, target: str | None = "answer") -> list[str]:
        aim = ["--target", target] if target else []
        return ["train", str(table), *aim, "--output", str(self.output), *TINY, *settings]

    def predict(self, *arguments: Path | str, model: Path | None = None) -> list[str]:
        return ["predict", str(model or self.model), *map(str, arguments)]

    def damaged_model(self, damage: Callable[[Path], Any], seal: bool = False) -> list[str]:
        """Predict with a copy of the model after `damage`; `seal` makes the manifest vouch for it."""
        folder = Path(shutil.copytree(self.model, self.folder / "damaged"))
        damage(folder)
        if seal:
            hashes = json.loads((folder / MANIFEST).read_text())["sha256"]
            (folder / MANIFEST).write_text(json.dumps({"sha256": {name: file_hash(folder / name) for name in hashes}}))
        return self.predict("--question", "what is it", model=folder)

    def trunk(self, damage: Callable[[Path], Any], seal: bool = False, **config: Any) -> list[str]:
        """Train on a small pretrained BERT after `damage`; with a manifest only if it is to be sealed."""
        folder = self.folder / "bert"
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        save_trunk(Trunk(TrunkConfig(**{"vocab_size": 300} | sizes | config)), folder)
        shutil.copy(self.model / "tokenizer.json", folder)
        if not seal:
            (folder / MANIFEST).unlink()
        damage(folder)
        return self.train(self.jsonl(rows()), f"model.trunk={folder}")


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Args:
        name: the test's id.
        command: sets the place up and returns the command's arguments.
        code: the exit code.
        words: what the message must hold.
    """

    name: str
    command: Callable[[Place], list[str]]
    code: int
    words: tuple[str, ...]


def rows(*changes: dict[str, Any], start: int = BAD_ROW, count: int = 12) -> list[dict[str, Any]]:
    """Good rows; `changes` are made to those from row `start` (counted from 1) on."""
    found: list[dict[str, Any]] = [
        {"image": GOOD, "question": f"what is thing {word} here", "answer": ("red", "blue")[number % 2]}
        for number, word in enumerate(WORDS[:count])
    ]
    for row, change in zip(found[start - 1 :], changes, strict=False):
        row.update(change)
    return found


def answers(values: list[Any]) -> list[dict[str, Any]]:
    """Twelve rows whose targets repeat `values`."""
    return rows(*({"answer": values[number % len(values)]} for number in range(12)), start=1)


def png(picture: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture; a red top over a blue bottom where none is given."""
    file = io.BytesIO()
    (picture or two_halves()).save(file, kind, **options)
    return file.getvalue()


def two_halves() -> Image.Image:
    picture = Image.new("RGB", (32, 32), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 16, 32, 32))
    return picture
