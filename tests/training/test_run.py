"""A run inside other programs, and one that is over."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fusebert.cli import main
from fusebert.errors import UsageError
from fusebert.training.run import train


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
    assert main(["train", str(folder / "recipe.yaml"), "--output", str(folder), "--resume"]) == 0
    assert "holds the finished run" in capsys.readouterr().err
    assert (folder / "manifest.json").read_bytes() == sealed
    with pytest.raises(UsageError, match="already holds a finished model"):
        train(tiny | {"training.seed": 5}, folder, resume=True)
    with pytest.raises(UsageError, match="already holds a finished model"):
        train(tiny, folder)


def test_a_run_with_other_settings_says_which(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("training.seed: 7\nmodel.trunk: mini\n")
    with pytest.raises(UsageError, match=r"with other settings \(data\.columns, .*, \.\.\.; see .*recipe.yaml\)"):
        train(tiny, tmp_path / "run", resume=True)
