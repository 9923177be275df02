"""A run inside other programs, and one that is over."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fusebert.cli import main
from fusebert.config import without_places
from fusebert.errors import UsageError
from fusebert.evaluation.trained_model import load
from fusebert.recipe_yaml import as_yaml, read_settings
from fusebert.storage import read_json, write_json
from fusebert.training.run import train
from tests.conftest import Notes


def test_what_the_program_around_has_set_changes_nothing(tiny: dict[str, Any], tmp_path: Path) -> None:
    short = tiny | {"training.epochs": 1}
    train(short, tmp_path / "plain")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.inference_mode():
            train(short, tmp_path / "within")
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(before)
    plain, within = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "within"))
    assert all(torch.equal(value, within[name]) for name, value in plain.items())


def test_a_finished_run_is_resumed_at_its_end(
    trained: Path, tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(trained, tmp_path / "model")
    sealed = (folder / "manifest.json").read_bytes()
    row = {"question": "what is it"}
    assert train(tiny, folder, resume=True).predict(row).value is not None
    asked = ["train", str(folder / "recipe.yaml"), "--output", str(folder), "--resume"]
    assert main([*asked, f"data.root={tiny['data.root']}"]) == 0
    assert "holds the finished run" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == sealed
    with pytest.raises(UsageError, match="already holds a finished model"):
        train(tiny | {"training.seed": 5}, folder, resume=True)
    with pytest.raises(UsageError, match="already holds a finished model"):
        train(tiny, folder)
    metrics = read_json(folder / "metrics.json")
    del metrics["training"]["sources"]  # a folder that does not say on what it was trained
    write_json(folder / "metrics.json", metrics)
    with pytest.raises(UsageError, match="already holds a finished model"):
        train(tiny, folder, resume=True)


def test_a_finished_folder_does_not_say_where_its_maker_keeps_things(
    trained: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    files = [path for path in trained.rglob("*") if path.is_file()]
    assert not [path for path in files if str(tiny["data.root"]).encode() in path.read_bytes()]
    recipe = tiny | {"training.epochs": 1, "training.trackers": ["tensorboard"]}
    train(recipe, tmp_path / "model")
    (hparams,) = (tmp_path / "model" / "logs").rglob("hparams.yml")
    assert "train.jsonl" in hparams.read_text()
    assert str(tiny["data.root"]) not in hparams.read_text()


def test_a_finished_run_is_one_on_the_same_tables(tiny: dict[str, Any], tmp_path: Path) -> None:
    world = Path(shutil.copytree(tiny["data.root"], tmp_path / "elsewhere" / Path(tiny["data.root"]).name))
    short, moved = tiny | {"training.epochs": 1}, {"data.root": str(world)}
    train(short, tmp_path / "model")
    train(short | moved, tmp_path / "model", resume=True)  # the same files, in another place
    (world / "val.jsonl").write_text("".join((world / "val.jsonl").read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UsageError, match="already holds a finished model"):
        train(short | moved, tmp_path / "model", resume=True)


def test_a_finished_run_is_one_on_the_same_pictures_and_trunk(trained: Path, tmp_path: Path) -> None:
    """Others of the same name elsewhere are others."""
    random = np.random.default_rng(0)
    for here, kinds in (("one", ("cat", "dog")), ("two", ("cow", "pig"))):
        load(trained).save_trunk(tmp_path / here / "trunk")
        for kind in kinds:
            (tmp_path / here / "pets" / kind).mkdir(parents=True)
            for number in range(8):
                pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / here / "pets" / kind / f"{number}.png")

    def settings(pets: str, trunk: str) -> dict[str, Any]:
        places = {"data.train": str(tmp_path / pets / "pets"), "model.trunk": str(tmp_path / trunk / "trunk")}
        return places | {"data.target": "label", "training.epochs": 1, "training.device": "cpu"}

    train(settings("one", "one"), tmp_path / "model")
    train(settings("one", "one"), tmp_path / "model", resume=True)
    for pets, trunk in (("two", "one"), ("one", "two")):
        with pytest.raises(UsageError, match="already holds a finished model"):
            train(settings(pets, trunk), tmp_path / "model", resume=True)


class AnEpoch(Notes):
    """Breaks a run off after its first epoch."""

    def epoch(self, _: object) -> None:
        raise KeyboardInterrupt


def test_a_run_that_was_killed_while_it_was_sealed_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    folder, notes = tmp_path / "model", Notes()
    tiny = tiny | {"training.parallel": "fsdp"}
    with pytest.raises(KeyboardInterrupt):
        train(tiny, folder, progress=AnEpoch())
    assert str(tiny["data.root"]) in (folder / "recipe.yaml").read_text()  # to be resumed from
    settings = read_settings(folder / "recipe.yaml")
    (folder / "recipe.yaml").write_text(as_yaml(without_places(settings)))
    train(settings, folder, resume=True, progress=notes)
    assert any(line.startswith("resuming after step") for line in notes.lines)
    assert any("training.parallel=fsdp: one process holds the whole model" in line for line in notes.lines)


STREAMS = """
import sys
import numpy as np

made, default_rng = {}, np.random.default_rng

def recording(seed=None):
    if isinstance(seed, list):
        while seed and seed[-1] == 0:  # as numpy does
            seed = seed[:-1]
        caller = sys._getframe(1).f_code.co_qualname
        made.setdefault(tuple(seed), set()).add(caller)
    return default_rng(seed or 0)

np.random.default_rng = recording
from fusebert.cli import main
assert main(sys.argv[1:]) == 0
assert len({caller for callers in made.values() for caller in callers}) > 1
print({seed: callers for seed, callers in made.items() if len(callers) > 1})
"""


@pytest.mark.parametrize(
    "settings",
    [
        ["train", "data.target=answer", "model.modality_dropout=0.5", "training.epochs=2"],
        ["pretrain", "task.passes=2", "task.rounds=2"],
        ["train", "task.name=recommendation", "task.user=language", "task.item=answer", "task.objective=masked"],
    ],
)
def test_no_two_things_are_drawn_from_one_stream(settings: list[str], world: Path, tmp_path: Path) -> None:
    given = [settings[0], str(world / "train.jsonl"), "--output", str(tmp_path / "model"), *settings[1:]]
    command = [sys.executable, "-c", STREAMS, *given, "training.trackers=[]", "model.trunk=tiny", "training.seed=0"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "{}"


def test_a_run_with_other_settings_says_which(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("training.seed: 7\nmodel.trunk: mini\n")
    with pytest.raises(UsageError, match=r"with other settings \(data\.columns, .*, \.\.\.; see .*recipe.yaml\)"):
        train(tiny, tmp_path / "run", resume=True)
