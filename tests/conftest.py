"""Small worlds and models that many tests share. Nothing here needs the network or the real data sets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from fusebert.data.tables import read_table
from fusebert.data.toyworld import write_toyworld
from fusebert.training.checkpoint import State
from fusebert.training.progress import Silence
from fusebert.types import Sample

TINY: dict[str, Any] = {
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
    "image.size_pixels": 16,
    "image.patch_pixels": 8,
    "image.width": 8,
    "training.epochs": 2,
    "training.tokens_per_batch": 2048,
    "training.learning_rate": 1e-3,
    "training.trackers": [],
    "training.precision": "fp32",
}


class Notes(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


class Stop(Notes):
    """Breaks a run off after some seconds."""

    def __init__(self, seconds: float = float("inf")) -> None:
        super().__init__()
        self.seconds = seconds

    def step(self, state: State, _: float) -> None:
        if state.seconds > self.seconds:
            raise KeyboardInterrupt


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Afterwards it is gone, with all that it began, also where the test has failed."""
    try:
        yield
    finally:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()


def pytest_configure(config: pytest.Config) -> None:
    """The suite tests the CPU, also where there is a GPU, which would round otherwise; `-m cuda` tests the GPU."""
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if hasattr(config, "workerinput"):  # beside other tests (pytest -n), which want the other cores
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy world of a few dozen pictures."""
    return write_toyworld(tmp_path_factory.mktemp("toy") / "world", pictures={"train": 24, "val": 8, "test": 8})


@pytest.fixture(scope="session")
def tiny(world: Path) -> dict[str, Any]:
    """Settings of a training run of a few seconds."""
    return TINY | {"data.root": str(world)}


@pytest.fixture(scope="session")
def trained(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model folder. Tests copy it before they change it."""
    from fusebert.training.run import train

    folder = tmp_path_factory.mktemp("trained") / "model"
    train(tiny, folder)
    return folder


@pytest.fixture(scope="session")
def samples(world: Path) -> list[Sample]:
    return [row for row in read_table(world / "train.jsonl") if isinstance(row, Sample)]


@pytest.fixture
def random() -> np.random.Generator:
    """A generator whose seed is printed when a test fails."""
    seed = int(os.environ.get("FUSEBERT_TEST_SEED", np.random.SeedSequence().entropy % 2**32))  # type: ignore[operator]
    print(f"FUSEBERT_TEST_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; tests that need it skip by name when it is absent."""
    for place in (os.environ.get("FUSEBERT_DATA"), Path(__file__).parents[1] / ".." / "shared" / "data"):
        if place and (Path(place) / "easy_vqa").is_dir():
            return Path(place).resolve()
    pytest.skip("the real data set easy_vqa is not here; set FUSEBERT_DATA to its folder")
