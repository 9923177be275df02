"""Networks from pixels to tokens: float[U, 3, H, W] -> float[U, P, width]. Each states its output `width`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fusebert.errors import ModelError, RecipeError, UsageError
from fusebert.modalities.image.processor import Config
from fusebert.modalities.published import as_model_error, build, refuse_foreign

TORCHVISION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Of the pictures that its published weights were trained on (ImageNet), by channel."""
UNCHANGED = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
"""Pixels in [0, 1] as they are."""
VGG16_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class PatchEncoder(nn.Module):
    """One linear map for each square patch (ViT, Dosovitskiy et al. 2020, eq. 1)."""

    def __init__(self, config: Config, width: int) -> None:
        super().__init__()
        self.width = width
        self.projection = nn.Conv2d(3, width, config.patch_pixels, stride=config.patch_pixels)

    def forward(self, pixels: Tensor) -> Tensor:
        return flat(self.projection(pixels))


class ConvEncoder(nn.Module):
    """A small CNN: one stride-2 convolution for each halving of the patch, channels doubling; early convolutions train
    more steadily than one large patch (Xiao et al. 2021). Not normalised inside: norms over a
    batch would tie its rows together."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        halvings = math.log2(config.patch_pixels)
        if not halvings.is_integer():
            raise RecipeError(
                f"image.patch_pixels must be a power of two for the conv encoder, not {config.patch_pixels}"
            )
        channels = [3] + [min(config.width << stage, 512) for stage in range(int(halvings))]
        self.width = channels[-1]
        self.stages = nn.Sequential()
        for before, after in pairwise(channels):
            self.stages.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
            self.stages.append(nn.GELU())

    def forward(self, pixels: Tensor) -> Tensor:
        return flat(self.stages(pixels.contiguous(memory_format=torch.channels_last)))


class Vgg16Encoder(nn.Module):
    """The thirteen convolutions of VGG16 (Simonyan & Zisserman 2014), under torchvision's names `features.N`."""

    width = 512

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.weights = config.weights
        self.features = nn.Sequential()
        before = 3
        for stage in VGG16_CHANNELS:
            for after in stage:
                self.features.append(nn.Conv2d(before, after, 3, padding=1))
                self.features.append(nn.ReLU())
                before = after
            self.features.append(nn.MaxPool2d(2))

    def load_pretrained(self) -> None:
        if self.weights is None:
            return
        try:
            weights = {name: value for name, value in load_file(self.weights).items() if name.startswith("features.")}
            self.load_state_dict(weights)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise ModelError(f"{self.weights} does not hold VGG16 weights as torchvision names them: {error}") from None

    def forward(self, pixels: Tensor) -> Tensor:
        return flat(self.features(pixels))


class Backbone(nn.Module):
    """Any vision model of transformers, or of timm (`timm:NAME`) where the user has timm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.name = config.encoder
        self.model: Any = build(config.backbone, f"image.encoder={config.encoder!r}")
        self.width = int(config.backbone["fusebert_width"])
        self.blue_first = bool(config.backbone.get("fusebert_blue_first"))

    def load_pretrained(self) -> None:
        from transformers import TimmBackbone

        with as_model_error(f"the weights of image.encoder={self.name!r} cannot be read"):
            if self.name.startswith("timm:"):
                published = TimmBackbone.from_pretrained(self.name.removeprefix("timm:"))
            else:  # by the network's own class, which also finds itself within a model of pictures and text
                published, found = type(self.model).from_pretrained(
                    self.name, use_safetensors=True, trust_remote_code=False, output_loading_info=True
                )
                if lost := [name for name in found["missing_keys"] if "pooler" not in name]:
                    raise ModelError(f"image.encoder={self.name!r} has no weights for {min(lost)}")
            self.model.load_state_dict(published.state_dict())

    def forward(self, pixels: Tensor) -> Tensor:
        return hidden_states(self.model(pixel_values=pixels.flip(1) if self.blue_first else pixels))


def build_encoder(config: Config, hidden_size: int) -> Any:
    """The network that `config.encoder` names."""
    match config.encoder:
        case "patch":
            return PatchEncoder(config, hidden_size)
        case "conv":
            return ConvEncoder(config)
        case "vgg16":
            return Vgg16Encoder(config)
        case _:
            return Backbone(config)


def prepare(config: Config) -> Config:
    """Fill in what a vision model of transformers says of itself: architecture, picture size, normalisation, tokens."""
    if config.weights is not None and config.encoder != "vgg16":
        raise UsageError(f"image.weights is read by vgg16; {config.encoder!r} has no use for it")
    if config.encoder in ("patch", "conv", "vgg16"):
        if config.frozen and (config.encoder != "vgg16" or config.weights is None):
            raise UsageError(
                f"image.frozen=true, but the {config.encoder} encoder has nothing that was published before; "
                "training.freeze=image holds what a trunk of yours has learnt"
            )
        if config.size_pixels % config.cell_pixels:
            raise RecipeError(
                f"image.size_pixels={config.size_pixels} is not a multiple of {config.cell_pixels}, "
                f"the side of the square that {config.encoder} makes one token of"
            )
        return config if config.weights is None else _completed(config, TORCHVISION)
    from transformers import AutoConfig, AutoModel

    chosen = f" with image.size_pixels={config.size_pixels}" if "size_pixels" in config.model_fields_set else ""
    with as_model_error(f"image.encoder={config.encoder!r} cannot be used as a vision model{chosen}"):
        if config.encoder.startswith("timm:"):
            from transformers import TimmBackboneConfig

            name = config.encoder.removeprefix("timm:")
            settings: Any = TimmBackboneConfig(backbone=name)
            size, published = config.size_pixels, _published_by_timm(name)
        else:
            settings = AutoConfig.from_pretrained(config.encoder, trust_remote_code=False)
            settings = getattr(settings, "vision_config", settings)  # the seeing half of CLIP and its kin
            vars(settings).pop("auto_map", None)  # some name code for older versions of transformers, too
            published = _published(config)
            size = published.pop("size_pixels", None) or getattr(settings, "image_size", None) or config.size_pixels
            size = config.size_pixels if chosen else size
        refuse_foreign(settings.to_dict(), f"image.encoder={config.encoder!r}")
        model = AutoModel.from_config(settings, dtype=torch.float32, trust_remote_code=False).eval()
        with torch.inference_mode():
            tokens = hidden_states(model(pixel_values=torch.zeros(1, 3, size, size)))
    backbone = settings.to_dict() | {"fusebert_tokens": tokens.shape[1], "fusebert_width": tokens.shape[2]}
    backbone["fusebert_blue_first"] = published.pop("blue_first", False)
    return _completed(config, published).model_copy(update={"backbone": backbone, "size_pixels": size})


def _completed(config: Config, published: Mapping[str, Any]) -> Config:
    """With what was published where the user says nothing else."""
    return config.model_copy(update={k: v for k, v in published.items() if k not in config.model_fields_set})


def _published(config: Config) -> dict[str, Any]:
    """Which pixels a model of transformers was trained on: `size_pixels`, `mean`, `std`, and whether blue comes first.

    Raises:
        ModelError: it does not say so, and neither does the user.
    """
    from transformers import AutoImageProcessor
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        found, _ = ImageProcessingMixin.get_image_processor_dict(config.encoder)
    except OSError:
        if config.model_fields_set >= {"mean", "std"}:
            return {}
        raise ModelError(
            f"image.encoder={config.encoder!r} does not say on which pixels it was trained (in a "
            "preprocessor_config.json): save its image processor there, or set image.mean and image.std"
        ) from None
    try:  # what a file leaves out is a default of its class
        made = AutoImageProcessor.from_pretrained(config.encoder, backend="pil", trust_remote_code=False)
        found = made.to_dict() | {"do_normalize": bool(made.do_normalize)}
    except (ImportError, ValueError):  # of torchvision, or of no class that is known here
        pass
    said = {"blue_first": bool(found.get("do_flip_channel_order")), "size_pixels": _side(found)}
    if not found.get("do_normalize", True):
        return said | UNCHANGED
    named = (("mean", "image_mean"), ("std", "image_std"))
    return said | {new: tuple(found[old]) for new, old in named if found.get(old)}


def _side(processor: Mapping[str, Any]) -> int | None:
    """Of the square that an image processor makes of a picture; None where it makes none."""
    size = processor.get("crop_size") if processor.get("do_center_crop") else processor.get("size")
    if not isinstance(size, Mapping):
        return size
    sides = {side for name in ("height", "width", "shortest_edge") if (side := size.get(name))}
    return int(sides.pop()) if len(sides) == 1 else None


def _published_by_timm(name: str) -> dict[str, Any]:
    """The same of a model of timm; nothing where it publishes no weights."""
    import timm

    found = timm.get_pretrained_cfg(name)
    return {"mean": tuple(found.mean), "std": tuple(found.std)} if found else {}


def hidden_states(output: Any) -> Tensor:
    """Tokens float[U, P, width] of a vision model's output, be it a map or a sequence."""
    found = output.feature_maps[-1] if hasattr(output, "feature_maps") else output.last_hidden_state
    return flat(found) if found.ndim == 4 else found


def flat(maps: Tensor) -> Tensor:
    """float[U, width, h, w] -> float[U, h * w, width], row by row."""
    return maps.flatten(2).transpose(1, 2)
