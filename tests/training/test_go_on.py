"""Training goes on from a model that fusebert has trained, whatever it reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from fusebert.config import Recipe
from fusebert.errors import ModelError
from fusebert.evaluation.trained_model import load
from fusebert.modalities.text.tokenizer import SPECIAL_TOKENS
from fusebert.storage import MANIFEST, verify
from fusebert.training.build import build_model
from fusebert.training.prepare import prepare
from fusebert.training.run import train
from tests.conftest import Notes

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def begun(settings: dict[str, Any], folder: Path, where: Path) -> tuple[Any, list[str]]:
    """The model that `fusebert train model.trunk=FOLDER` begins with, and what is said."""
    notes = Notes()
    recipe = Recipe.from_flat(settings | {"model.trunk": str(folder)})
    prepared = prepare(recipe, where, False, notes)
    return build_model(recipe, prepared, notes), notes.lines


@pytest.mark.parametrize("fusion", ["one_stream", "concat", "two_stream"])
def test_everything_but_the_head_goes_on(fusion: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = tiny | {"model.fusion": fusion, "training.epochs": 1}
    train(settings, tmp_path / "first")
    model, said = begun(settings, tmp_path / "first", tmp_path)
    learnt = load_file(tmp_path / "first" / "model.safetensors")
    goes_on = {name for name, value in model.state_dict().items() if torch.equal(value, learnt[name])}
    assert goes_on >= {name for name in learnt if not name.startswith("head.")}
    assert "head.classifier.weight" not in goes_on
    assert any("image is taken over" in line for line in said)
    assert model.taken_over == ("image",)
    assert begun(settings | {"image.width": 16}, tmp_path / "first", tmp_path)[0].taken_over == ()


def test_a_model_without_text_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    columns = dict.fromkeys(tiny["data.columns"], "ignore") | {"image": "image"}
    settings = tiny | {"data.columns": columns, "training.epochs": 1}
    train(settings, tmp_path / "first")
    assert not (tmp_path / "first" / "tokenizer.json").exists()
    second = train(settings | {"model.trunk": str(tmp_path / "first")}, tmp_path / "second")
    assert second.evaluate(tiny["data.root"] + "/val.jsonl")["rows"] > 0
    model, _ = begun(settings, tmp_path / "first", tmp_path)
    learnt = load_file(tmp_path / "first" / "model.safetensors")
    assert all(torch.equal(value, learnt[name]) for name, value in model.trunk.state_dict(prefix="trunk.").items())
    with pytest.raises(ModelError, match=r"neither tokenizer\.json nor vocab\.txt"):
        begun(tiny, tmp_path / "first", tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"trunk": {"width": 3}}, "is damaged"),
        ({"trunk": 3}, "has no usable trunk"),
        ({"fusion": None}, "has no usable fusion"),
        ({"modalities": 3}, "has no usable modalities"),
    ],
)
def test_a_damaged_model_is_named(
    change: dict[str, Any], problem: str, trained: Path, tiny: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "model")
    (tmp_path / "model" / MANIFEST).unlink()
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text()) | change
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(ModelError, match=rf"config\.json {problem}"):
        begun(tiny, tmp_path / "model", tmp_path)


def test_modalities_of_another_version_are_named(trained: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "model")
    (tmp_path / "model" / MANIFEST).unlink()
    path = tmp_path / "model" / "processors" / "image.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"config": saved["config"] | {"polarised": True}}))
    with pytest.raises(ModelError, match=r"processors/image\.json is damaged, or of another version .*polarised"):
        begun(tiny, tmp_path / "model", tmp_path)


def test_the_trunk_of_a_model_without_text_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    columns = dict.fromkeys(tiny["data.columns"], "ignore") | {"image": "image"}
    settings = tiny | {"data.columns": columns, "training.epochs": 1}
    first = train(settings, tmp_path / "first")
    first.save_trunk(tmp_path / "trunk")
    learnt, goes_on = (
        one.trunk.state_dict() for one in (first.model, begun(settings, tmp_path / "trunk", tmp_path)[0])
    )
    assert all(torch.equal(value, learnt[name]) for name, value in goes_on.items())


def test_a_trunk_is_sealed_with_its_vocabulary(trained: Path, tmp_path: Path) -> None:
    load(trained).save_trunk(tmp_path / "trunk")
    path = tmp_path / "trunk" / "tokenizer.json"
    path.write_text(path.read_text().replace("[MASK]", "[KSAM]", 1))
    with pytest.raises(ModelError, match=r"tokenizer\.json has changed"):
        verify(tmp_path / "trunk")


def test_a_trunk_with_one_token_type_reads_two_texts(tiny: dict[str, Any], world: Path, tmp_path: Path) -> None:
    config = BertConfig(vocab_size=60, type_vocab_size=1, **SMALL)
    BertModel(config).save_pretrained(tmp_path / "bert")
    words = [*SPECIAL_TOKENS, *ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(words))
    columns = dict.fromkeys(tiny["data.columns"], "ignore") | {"question": "text", "caption": "text"}
    settings = tiny | {"data.columns": columns, "training.epochs": 1, "model.trunk": str(tmp_path / "bert")}
    assert train(settings, tmp_path / "model").evaluate(str(world / "val.jsonl"))["rows"] > 0
