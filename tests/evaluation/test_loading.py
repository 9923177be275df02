"""What a model folder from elsewhere may not do: run code, bring other weights, or take all memory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fusebert.cli import main
from fusebert.errors import ModelError, UsageError
from fusebert.evaluation.trained_model import load
from fusebert.storage import MANIFEST, file_hash, finish, verify, write_json

ROW = {"question": "what colour is the circle?"}


def sealed(trained: Path, folder: Path, change: Callable[[Path], Any]) -> Path:
    """A copy of a model after a change, whose manifest vouches for it."""
    shutil.copytree(trained, folder)
    (folder / MANIFEST).unlink()
    change(folder)
    finish(folder)
    return folder


def configured(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


class Planted:
    """A pickle that makes a folder where it is opened."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def test_adapters_shards_and_pickles_in_a_model_folder_are_not_read(trained: Path, tmp_path: Path) -> None:
    def plant(folder: Path) -> None:
        adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["classifier"], "task_type": None}
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
        torch.save({"x": Planted(tmp_path / "ran")}, folder / "adapter_model.bin")
        weights = load_file(folder / "model.safetensors")
        save_file({name: value * 0 for name, value in weights.items()}, folder / "other.safetensors", {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "other.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        names = {"transformers_weights": "adapter_model.bin", "quantization_config": {"quant_method": "bitsandbytes"}}
        configured(lambda config: config.update(names))(folder)

    planted = sealed(trained, tmp_path / "planted", plant)
    assert load(planted).predict(ROW) == load(trained).predict(ROW)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["trunk"].update(num_hidden_layers=3_000_000),
        lambda config: config["trunk"].update(num_hidden_layers=200),
        lambda config: config["trunk"].update(hidden_size=16_384, intermediate_size=131_072),
        lambda config: config["trunk"].update(vocab_size=2_000_000),
        lambda config: config["task"].update(outputs=10**13),
        lambda config: config["modalities"]["image"].update(columns=10**13),
    ],
)
def test_sizes_that_the_weights_do_not_have_take_no_memory(
    change: Callable[[dict[str, Any]], Any], trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"many more weights|other weights|config\.json says|less than or equal"):
        load(sealed(trained, tmp_path / "huge", configured(change)))


def test_a_model_saved_in_half_precision_stays_so(trained: Path, tmp_path: Path) -> None:
    model = load(trained)
    model.model.half()
    model.save(tmp_path / "half")
    half = load(tmp_path / "half").model.state_dict()
    assert {value.dtype for value in half.values()} == {torch.float16}
    assert all(torch.equal(value, half[name]) for name, value in model.model.state_dict().items())


def test_loading_draws_no_random_numbers(trained: Path) -> None:
    before = torch.get_rng_state()
    load(trained)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("adapter_config.json", True),
        ("processors/manifest.json", True),
        ("plots/later/a.png", True),
        ("processors/.DS_Store", False),
        ("LICENSE", False),
        ("README.md", False),
        ("bad_rows.jsonl", False),
        ("logs/events", False),
        ("checkpoints/step-000000001/model.safetensors", False),
        (".gitattributes", False),
        (".cache/huggingface/download/config.json.metadata", False),
    ],
)
def test_a_file_that_came_after_the_manifest_is_refused(
    name: str, refused: bool, trained: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(trained, tmp_path / "model"))
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_text("{}")
    if not refused:
        verify(model)
        return
    with pytest.raises(ModelError, match=f"{name} is not in manifest.json"):
        load(model)


def test_a_link_to_a_folder_is_refused(trained: Path, tmp_path: Path) -> None:
    """Its files would be read, and no manifest names them."""
    model = Path(shutil.copytree(trained, tmp_path / "model"))
    (model / "more").symlink_to(trained)
    with pytest.raises(ModelError, match="more is not in"):
        verify(model)


@pytest.mark.parametrize("hashes", [{}, {"config.json": None}])
def test_a_manifest_that_lists_too_little_is_refused(hashes: dict[str, None], trained: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(trained, tmp_path / "model"))
    write_json(model / MANIFEST, {"sha256": {name: file_hash(model / name) for name in hashes}})
    with pytest.raises(ModelError, match=r"lists no files|is not in manifest\.json"):
        load(model)


@pytest.mark.parametrize("command", ["train", "pretrain", "compare", "corpus prepare", "demo"])
def test_no_run_begins_inside_a_finished_folder(
    command: str, trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, table = Path(shutil.copytree(trained, tmp_path / "model")), str(world / "train.jsonl")
    settings = ["data.target=answer", "model.trunk=tiny", "training.epochs=1"]
    rest = {"demo": [], "corpus prepare": [table], "pretrain": [table, settings[1]]}.get(command, [table, *settings])
    assert main([*command.split(), *rest, "--output", str(model / "runs" / "more")]) == 2
    assert "lies in the finished" in capsys.readouterr().err
    verify(model)


def test_nothing_is_written_into_a_finished_folder(trained: Path, tmp_path: Path) -> None:
    model = load(trained)
    for write in (model.save, model.save_trunk):
        with pytest.raises(UsageError, match="lies in the finished"):
            write(trained / "later")
    assert main(["predict", str(trained), "--question", "x", "--output", str(trained / "new.jsonl")]) == 2
    verify(trained)


VIT = {"model_type": "vit", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16}
HYBRID = {"model_type": "dpt", "is_hybrid": True, "backbone": "some/where", "backbone_config": None}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({**VIT, "auto_map": {"AutoModel": "some/where--code.Model"}}, "auto_map"),
        ({"model_type": "detr", "backbone_config": {**VIT, "auto_map": {"AutoModel": "code.Model"}}}, "auto_map"),
        ({**VIT, "_attn_implementation": "some/kernel"}, "name code"),
        ({**VIT, "attn_implementation": "some/kernel"}, "name code"),
        ({"model_type": "timm_wrapper", "model_args": {"pretrained": True}}, "model_args"),
        ({**VIT, "num_hidden_layers": 10**9}, "too large"),
        (HYBRID, "leave a part to the Hub"),
        ({"model_type": "nothing of transformers"}, "cannot be built"),
    ],
)
def test_an_encoder_brings_no_code_and_fetches_nothing(
    settings: dict[str, Any], said: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refused(host: Any, *_: Any, **__: Any) -> None:
        asked.append(host)
        raise OSError

    monkeypatch.setattr("socket.getaddrinfo", refused)
    backbone = {**settings, "fusebert_tokens": 1, "fusebert_width": 24}
    change = configured(
        lambda config: config["modalities"]["image"]["config"].update(encoder="some/where", backbone=backbone)
    )
    with pytest.raises(ModelError, match=said):
        load(sealed(trained, tmp_path / "model", change))
    assert not asked
