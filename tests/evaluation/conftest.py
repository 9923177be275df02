"""Models that match pictures and captions, which several tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fusebert.evaluation.trained_model import TrainedModel
from fusebert.training.run import train

SIDES = {"task.name": "matching", "task.left": ["image"], "task.right": ["caption"], "task.vector_size": 16}


def matching_settings(tiny: dict[str, Any]) -> dict[str, Any]:
    columns = {"image": "image", "caption": "text"}
    kept = {key: value for key, value in tiny.items() if key != "data.target"}
    return kept | SIDES | {"data.columns": columns, "training.epochs": 12}


@pytest.fixture(scope="session")
def matching(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train(matching_settings(tiny), tmp_path_factory.mktemp("matching") / "model")


@pytest.fixture(scope="session")
def two_sided(tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that matches a picture and its question with its caption."""
    sides = {"task.name": "matching", "task.left": ["image", "question"], "task.right": ["caption"]}
    columns = tiny["data.columns"] | {"caption": "text"}
    settings = {key: value for key, value in tiny.items() if key != "data.target"}
    folder = tmp_path_factory.mktemp("two_sided") / "model"
    train(settings | sides | {"data.columns": columns, "training.epochs": 1}, folder)
    return folder
