"""Every kind of picture encoder, with the folders and files that transformers and torchvision publish."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModel,
    BitImageProcessorPil,
    CLIPConfig,
    ConvNextConfig,
    Dinov2Config,
    PreTrainedConfig,
    ResNetConfig,
    SiglipConfig,
    SwinConfig,
    ViTConfig,
    ViTImageProcessorPil,
)

from fusebert.errors import ModelError, RecipeError, UsageError
from fusebert.evaluation.trained_model import load
from fusebert.modalities.image.encoders import VGG16_CHANNELS, hidden_states, prepare
from fusebert.modalities.image.processor import Config
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.training.optimization import hold_frozen_statistics
from fusebert.training.run import train

TRANSFORMER = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
BACKBONES: dict[str, Callable[[], PreTrainedConfig]] = {
    "resnet": lambda: ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "convnext": lambda: ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "vit": lambda: ViTConfig(image_size=32, patch_size=8, **TRANSFORMER),
    "dinov2": lambda: Dinov2Config(image_size=32, patch_size=8, mlp_ratio=2, **TRANSFORMER),
    "swin": lambda: SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
    ),
}
SEES = {"image_size": 32, "patch_size": 8, **TRANSFORMER}
READS = {"vocab_size": 9, **TRANSFORMER}
BOTH: dict[str, Callable[[], PreTrainedConfig]] = {
    "clip": lambda: CLIPConfig(vision_config=SEES, text_config=READS),
    "siglip": lambda: SiglipConfig(vision_config=SEES, text_config=READS),
}
"""Models of pictures and text."""
MEAN = [0.1, 0.2, 0.3]


def publish(name: str, folder: Path) -> nn.Module:
    """A small model of this kind with random weights, as its authors would publish it."""
    torch.manual_seed(1)
    model: nn.Module = AutoModel.from_config((BACKBONES | BOTH)[name]())
    model.save_pretrained(folder)
    ViTImageProcessorPil(image_mean=MEAN, image_std=[0.5, 0.6, 0.7]).save_pretrained(folder)
    return model.eval()


def model_with(config: Config) -> FusebertModel:
    trunk = TrunkConfig.of_size("tiny", 5).model_dump()
    modalities = {"image": {"columns": 1, "config": config.model_dump(mode="json")}}
    return FusebertModel(FusebertConfig(trunk=trunk, modalities=modalities))


@pytest.mark.parametrize("name", BACKBONES)
def test_a_published_vision_model_gives_its_own_numbers(name: str, tmp_path: Path) -> None:
    published = publish(name, tmp_path)
    config = prepare(Config(encoder=str(tmp_path), size_pixels=32))
    assert config.mean == tuple(MEAN)
    embedder: Any = model_with(config).eval().embedders["image"]
    embedder.load_pretrained()
    raw = torch.randint(0, 256, (3, 3, config.size_pixels, config.size_pixels), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = hidden_states(published(pixel_values=(raw / 255 - embedder.mean) / embedder.std))
        found = embedder.encoder((raw / 255 - embedder.mean) / embedder.std)
    assert found.shape == (3, config.tokens, embedder.encoder.width)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", BOTH)
def test_of_a_model_of_pictures_and_text_the_half_that_sees_is_taken(name: str, tmp_path: Path) -> None:
    published: Any = publish(name, tmp_path)
    config = prepare(Config(encoder=str(tmp_path), size_pixels=32))
    encoder: Any = model_with(config).eval().embedders["image"].encoder
    encoder.load_pretrained()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels), published.vision_model(pixels).last_hidden_state)


def test_a_published_model_gets_the_size_that_it_was_trained_on(tmp_path: Path) -> None:
    publish("resnet", tmp_path)  # its own settings name no size
    assert prepare(Config(encoder=str(tmp_path))).size_pixels == 224
    BitImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 48, "width": 48}).save_pretrained(tmp_path)
    assert prepare(Config(encoder=str(tmp_path))).size_pixels == 48
    assert prepare(Config(encoder=str(tmp_path), size_pixels=96)).size_pixels == 96


def test_a_size_that_a_published_model_cannot_see_is_refused(tmp_path: Path) -> None:
    publish("vit", tmp_path)
    with pytest.raises(ModelError, match=r"64\*64.*32\*32"):
        prepare(Config(encoder=str(tmp_path), size_pixels=64))


def test_what_a_preprocessor_leaves_out_is_a_default_of_its_class(tmp_path: Path) -> None:
    publish("resnet", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "MobileViTFeatureExtractor"}')
    config = prepare(Config(encoder=str(tmp_path)))
    assert (config.mean, config.std, config.size_pixels) == ((0.0,) * 3, (1.0,) * 3, 256)
    assert config.backbone["fusebert_blue_first"]


def test_a_model_without_a_preprocessor_asks_for_mean_and_std(tmp_path: Path) -> None:
    publish("vit", tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"set image\.mean and image\.std"):
        prepare(Config(encoder=str(tmp_path)))
    config = prepare(Config(encoder=str(tmp_path), mean=(0.1, 0.1, 0.1), std=(0.2, 0.2, 0.2)))
    assert (config.size_pixels, config.mean) == (32, (0.1, 0.1, 0.1))


def test_weights_of_the_text_alone_are_refused(tmp_path: Path) -> None:
    published: Any = publish("clip", tmp_path)
    encoder: Any = model_with(prepare(Config(encoder=str(tmp_path), size_pixels=32))).embedders["image"].encoder
    text = {name: weight for name, weight in published.state_dict().items() if name.startswith("text_model.")}
    save_file(text, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="has no weights for"):
        encoder.load_pretrained()


@pytest.mark.parametrize(
    ("name", "how", "how_much", "frozen"),
    [
        ("vit", "image.frozen", True, True),
        ("vit", "image.frozen", False, False),
        ("resnet", "training.freeze", ["image"], True),  # with batch norms, whose statistics stay too
    ],
)
def test_training_on_a_published_vision_model(
    tiny: dict[str, Any], tmp_path: Path, name: str, how: str, how_much: Any, frozen: bool
) -> None:
    published = publish(name, tmp_path / "vit")
    settings = tiny | {
        "image.encoder": str(tmp_path / "vit"),
        "training.epochs": 1,
        how: how_much,
        "image.size_pixels": 32,
    }
    trained = train({key: value for key, value in settings.items() if key != "image.width"}, tmp_path / "model")
    encoder: Any = trained.model.embedders["image"].encoder  # type: ignore[union-attr]
    before, after = published.state_dict(), encoder.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before) == frozen
    (tmp_path / "vit").rename(tmp_path / "moved")  # a finished model needs nothing but its own folder
    rows = [{"image": Image.new("RGB", (9, 9), colour), "question": "which shape?"} for colour in ("red", "blue")]
    answers = load(tmp_path / "model").predict(rows)
    assert [answer.value for answer in answers] == [answer.value for answer in trained.predict(rows)]


@pytest.mark.parametrize(("norm", "shape"), [(nn.BatchNorm1d(3), (2, 3)), (nn.BatchNorm2d(3), (2, 3, 4, 4))], ids=str)
def test_frozen_batch_norms_of_every_kind_stay(norm: Any, shape: tuple[int, ...]) -> None:
    learning = copy.deepcopy(norm)
    for one in (norm.requires_grad_(False), learning):
        hold_frozen_statistics(one.train())
        one(torch.ones(shape))
    assert not norm.running_mean.any()
    assert learning.running_mean.any()


@pytest.mark.parametrize(
    ("says", "normalisation"),
    [({"do_normalize": False}, ((0.0,) * 3, (1.0,) * 3)), ({"image_std": [0.25] * 3}, (tuple(MEAN), (0.25,) * 3))],
)
def test_pixels_are_those_that_the_model_was_trained_on(
    says: dict[str, Any], normalisation: tuple[tuple[float, ...], ...], tmp_path: Path
) -> None:
    publish("vit", tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | says))
    config = prepare(Config(encoder=str(tmp_path), size_pixels=32))
    assert (config.mean, config.std) == normalisation
    assert prepare(Config(encoder=str(tmp_path), size_pixels=32, mean=(0.1, 0.2, 0.3))).mean == (0.1, 0.2, 0.3)


def test_blue_comes_first_where_the_model_says_so(tmp_path: Path) -> None:
    published: Any = publish("vit", tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_flip_channel_order": True, "do_normalize": False}))
    embedder: Any = model_with(prepare(Config(encoder=str(tmp_path), size_pixels=32))).eval().embedders["image"]
    embedder.load_pretrained()
    pixels = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        wanted = published(pixel_values=pixels[:, [2, 1, 0]]).last_hidden_state
        torch.testing.assert_close(embedder.encoder(pixels), wanted)


def torchvision_vgg16() -> dict[str, torch.Tensor]:
    """Weights under the names and shapes of torchvision's vgg16, classifier included."""
    torch.manual_seed(2)
    weights, place, before = {}, 0, 3
    for stage in VGG16_CHANNELS:
        for after in stage:
            weights[f"features.{place}.weight"] = torch.randn(after, before, 3, 3) * (2 / (9 * before)) ** 0.5
            weights[f"features.{place}.bias"] = torch.randn(after) * 0.1
            place, before = place + 2, after
        place += 1
    return weights | {"classifier.6.bias": torch.zeros(1000)}


def test_vgg16_takes_published_weights_and_computes_vgg16(tmp_path: Path) -> None:
    weights = torchvision_vgg16()
    assert [name for name in weights if name.endswith("weight")][-1] == "features.28.weight"
    save_file(weights, tmp_path / "vgg16.safetensors")
    config = prepare(Config(encoder="vgg16", size_pixels=64, weights=tmp_path / "vgg16.safetensors"))
    assert (config.mean[0], config.std[2]) == (0.485, 0.225)
    own = Config(encoder="vgg16", size_pixels=64, weights=tmp_path / "vgg16.safetensors", mean=(0.0, 0.0, 0.0))
    assert (prepare(own).mean[0], prepare(own).std[2]) == (0.0, 0.225)
    assert prepare(Config(encoder="vgg16", size_pixels=64)).mean[0] == 0.5
    embedder: Any = model_with(config).eval().embedders["image"]
    embedder.load_pretrained()
    pixels = torch.randn(2, 3, 64, 64)
    found, hidden, place = embedder.encoder(pixels), pixels, 0
    for stage in VGG16_CHANNELS:
        for _ in stage:
            kernel, bias = weights[f"features.{place}.weight"], weights[f"features.{place}.bias"]
            hidden, place = torch.conv2d(hidden, kernel, bias, padding=1).relu(), place + 2
        hidden, place = torch.max_pool2d(hidden, 2), place + 1
    assert found.shape == (2, config.tokens, 512)
    torch.testing.assert_close(found, hidden.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    config = Config(encoder="vgg16", weights=tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="VGG16"):
        model_with(config).embedders["image"].load_pretrained()  # type: ignore[operator]


@pytest.mark.parametrize("name", ["no/such/folder", "timm:no_such_model"])
def test_a_vision_model_that_is_not_there_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=name):
        prepare(Config(encoder=name))


def test_weights_that_nothing_reads_are_refused() -> None:
    with pytest.raises(UsageError, match=r"image\.weights is read by vgg16"):
        prepare(Config(encoder="conv", weights=Path("vgg16.safetensors")))


def test_pictures_that_do_not_divide_into_patches_are_refused() -> None:
    with pytest.raises(RecipeError, match="multiple"):
        prepare(Config(encoder="patch", size_pixels=60, patch_pixels=16))
    assert np.isclose(Config(encoder="vgg16", size_pixels=96).tokens, 9)


def test_a_model_published_in_half_precision_learns(tmp_path: Path) -> None:
    model = publish("vit", tmp_path)
    model.half().save_pretrained(tmp_path)  # type: ignore[operator]
    embedder: Any = model_with(prepare(Config(encoder=str(tmp_path), size_pixels=32))).embedders["image"]
    embedder.load_pretrained()
    assert {weight.dtype for weight in embedder.parameters()} == {torch.float32}


def test_weights_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    publish("vit", tmp_path)
    embedder: Any = model_with(prepare(Config(encoder=str(tmp_path), size_pixels=32))).embedders["image"]
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the weights of image\.encoder=.* cannot be read"):
        embedder.load_pretrained()
