"""One tiny trained model, made by the command line itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from fusebert.cli import main
from tests.bad_input.place import Place, rows


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = Place(tmp_path_factory.mktemp("trained"), Path())
    assert main(place.train(place.jsonl(rows()))) == 0
    return place.output


@pytest.fixture
def place(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty folder to work in, with the Hub out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return Place(tmp_path, model)
