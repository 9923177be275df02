"""What a training does where its settings do not say how long and how fast."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn

from fusebert.config import TrainingSettings
from fusebert.recipe_yaml import read_settings
from fusebert.settings import all_settings
from fusebert.training.defaults import in_words, with_defaults
from fusebert.training.run import train
from tests.conftest import Notes


def prepared(tokens: int, pretrained: bool = False, **task: Any) -> Any:
    train = SimpleNamespace(lengths=np.full(tokens // 10, 10))
    return SimpleNamespace(
        splits={"train": train}, trunk_folder="a folder" if pretrained else None, task=SimpleNamespace(**task)
    )


def model(width: int = 256, taken_over: tuple[str, ...] = (), **encoders: nn.Module | None) -> Any:
    """One that reads text, and pictures or sound through these encoders; None is one that is not published."""
    embedders = {"text": SimpleNamespace()} | {
        name: SimpleNamespace(published=encoder) for name, encoder in encoders.items()
    }
    trunk = SimpleNamespace(trunk={"hidden_size": width})
    return SimpleNamespace(config=trunk, embedders=embedders, taken_over=taken_over)


@pytest.mark.parametrize(
    ("tokens", "pretrained", "batch", "epochs"),
    [
        (1_000, False, 512, 40),  # few rows: no more than forty passes
        (40_000, False, 512, 26),
        (200_000, False, 1024, 10),
        (1_000_000, False, 4096, 8),
        (50_000_000, False, 4096, 3),
        (40_000, True, 512, 13),
        (200_000, True, 1024, 5),
    ],
)
def test_small_tables_are_read_more_often_and_in_smaller_batches(
    tokens: int, pretrained: bool, batch: int, epochs: int
) -> None:
    completed = with_defaults(TrainingSettings(), prepared(tokens, pretrained), model())
    assert (completed.tokens_per_batch, completed.epochs) == (batch, epochs)


def test_what_is_set_stays_and_the_rest_follows_from_it() -> None:
    rows = prepared(200_000)
    assert with_defaults(TrainingSettings(epochs=2), rows, model()).tokens_per_batch == 512
    assert with_defaults(TrainingSettings(epochs=2), rows, model()).epochs == 2
    assert with_defaults(TrainingSettings(tokens_per_batch=1000), rows, model()).epochs == 10
    twice = TrainingSettings(tokens_per_batch=1000, gradient_accumulation=2)
    assert with_defaults(twice, rows, model()).epochs == 20
    assert (
        with_defaults(TrainingSettings(learning_rate=1e-5), prepared(200_000, True), model()).new_learning_rate is None
    )
    all_set = TrainingSettings(epochs=2, tokens_per_batch=1000, learning_rate=1e-5)
    assert with_defaults(all_set, rows, model()) == all_set


def test_the_rate_falls_with_the_width() -> None:
    rows, tuned = prepared(1000), prepared(1000, pretrained=True)
    assert with_defaults(TrainingSettings(), rows, model(128)).learning_rate == pytest.approx(1e-3)
    assert with_defaults(TrainingSettings(), rows, model(768)).learning_rate == pytest.approx(1.67e-4, rel=0.01)
    completed = with_defaults(TrainingSettings(), tuned, model(384))
    assert completed.learning_rate == pytest.approx(2e-4)
    published = model(128, image=nn.Linear(1, 1))
    assert with_defaults(TrainingSettings(), rows, published).learning_rate == 3e-4


def test_pictures_from_nothing_join_a_pretrained_trunk_at_their_own_rate() -> None:
    rows = prepared(200_000, pretrained=True)
    joined = with_defaults(TrainingSettings(), rows, model(384, image=None))
    assert (joined.learning_rate, joined.new_learning_rate) == (pytest.approx(2e-4), pytest.approx(1e-3))
    assert joined.epochs == with_defaults(TrainingSettings(), prepared(200_000), model()).epochs
    for other in (model(384), model(384, image=nn.Linear(1, 1)), model(384, ("image",), image=None)):
        alone = with_defaults(TrainingSettings(), rows, other)
        assert (alone.new_learning_rate, alone.epochs) == (None, 5)
    given = TrainingSettings(learning_rate=1e-5)
    assert with_defaults(given, rows, model(384, image=None)).new_learning_rate is None
    of_two = model(384, ("image",), image=None, audio=None)
    assert with_defaults(TrainingSettings(), rows, of_two).new_learning_rate == pytest.approx(1e-3)


def test_matching_keeps_large_batches() -> None:
    assert with_defaults(TrainingSettings(), prepared(1000, sides=None), model()).tokens_per_batch == 2048


def test_what_is_chosen_is_said_and_not_taken_for_set() -> None:
    completed = with_defaults(TrainingSettings(new_learning_rate=0.001), prepared(40_000, pretrained=True), model(384))
    assert completed.model_dump(exclude_unset=True) == {"new_learning_rate": 0.001}
    assert in_words(completed, 4000) == (
        "training: epochs 13 of 4,000 rows, tokens a batch 512, learning rate 0.0002 (0.001 of new parts)"
    )
    assert {one.key: one.default for one in all_settings()["training"]}["training.epochs"] is None


def test_a_run_that_is_told_nothing_says_what_it_does_and_can_be_resumed(tmp_path: Path) -> None:
    rows, folder, heard = tmp_path / "rows.csv", tmp_path / "model", Notes()
    said = "".join(f"{'dogs bark' if n % 2 else 'cats purr'} {n},{'dog' if n % 2 else 'cat'}\n" for n in range(20))
    rows.write_text("text,label\n" + said)
    settings = {"data.train": str(rows), "data.target": "label", "model.trunk": "tiny", "training.trackers": []}
    trained = train(settings, folder, progress=heard).metrics["training"]
    assert (trained["epochs"], trained["tokens_per_batch"], trained["learning_rate"]) == (40, 512, 0.001)
    assert "training: epochs 40 of 18 rows, tokens a batch 512, learning rate 0.001" in heard.lines
    assert read_settings(folder / "recipe.yaml").keys() == settings.keys()
    assert "batches of about 512 tokens, learning rate 0.001" in (folder / "README.md").read_text(encoding="utf-8")
    train(settings, folder, resume=True, progress=heard)
    assert heard.lines[-1] == f"{folder} holds the finished run"
