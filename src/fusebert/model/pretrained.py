"""BERT weights in and out: a folder, of a BERT or of a fusebert model, a Hub id, `package:NAME`, or a size by name."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusebert.errors import ModelError
from fusebert.hub import hub_problem, is_of_http
from fusebert.model.trunk import SIZES, Trunk, TrunkConfig
from fusebert.storage import MANIFEST, verify, write_folder, write_json

FILES = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("modalities.json", "modalities.safetensors", "processors/*.json"),
)
"""What is fetched from the Hub: only JSON, text and safetensors."""
PREFIXES = ("bert.", "model.", "0.auto_model.", "trunk.")
OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
OWN_KEYS = {"trunk": dict, "fusion": str, "modalities": dict, "cls_token_id": int}
"""What training reads of its own models' config.json, and its type."""
OPTIONAL = ("pooler.dense.weight", "pooler.dense.bias")


def find_trunk(name: str) -> Path | None:
    """The folder with a pretrained trunk's files; None for a size by name, which is trained from scratch.

    Args:
        name: a size of SIZES; a folder; `package:NAME` for weights shipped inside an installed Python package; else a
            Hub id, which is downloaded (only JSON, text and safetensors files).

    Raises:
        ModelError: there is none, or a file of a folder that fusebert wrote has changed since.
    """
    if name in SIZES:
        return None
    if name.startswith("package:"):
        return _package_folder(name.removeprefix("package:"))
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / MANIFEST).is_file():
            verify(folder)
        return folder
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise ModelError(f"the trunk's folder {name} does not exist")
    return _download(name)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"the Python package {package!r} is not installed; install it with pip")
    root = Path(spec.submodule_search_locations[0])
    found = sorted((path.parent for path in root.rglob("model.safetensors")), key=lambda path: len(path.parts))
    if not found:
        raise ModelError(f"the Python package {package!r} holds no model.safetensors")
    return found[0]


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:
        if not isinstance(error, HFValidationError | OSError) and not is_of_http(error, "HTTPError"):
            raise
        raise ModelError(
            f"the BERT {name!r} cannot be loaded: {hub_problem(error)}. Name a size ({', '.join(SIZES)}), the folder "
            "of a BERT or of a model of yours, package:NAME, or a model of the Hub"
        ) from None


def read_config(folder: Path) -> TrunkConfig:
    """The trunk configuration of a folder.

    Raises:
        ModelError: it cannot be used, or describes a trunk that is larger than the folder's file of weights.
    """
    config = read_json_config(folder)
    if is_own_model(config):
        try:
            trunk = TrunkConfig(**config["trunk"])
        except (TypeError, ValidationError):
            raise ModelError(f"{folder / 'config.json'} is damaged, or of another version of fusebert") from None
    else:
        trunk = TrunkConfig.from_hugging_face(config, str(folder / "config.json"))
    path = _weights_file(folder)
    layer = trunk.hidden_size * (4 * trunk.hidden_size + 2 * trunk.intermediate_size)
    words = trunk.hidden_size * (trunk.vocab_size + trunk.max_position_embeddings)
    if words + trunk.num_hidden_layers * layer > path.stat().st_size:  # a weight has a byte at least
        raise ModelError(f"{path} is damaged: it is too small for what config.json says")
    return trunk


def is_own_model(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a model that fusebert has trained, and not that of a BERT."""
    return config.get("model_type") == "fusebert"


def read_json_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is not a JSON object")
    unusable = [key for key, kind in OWN_KEYS.items() if not isinstance(config.get(key), kind)]
    if is_own_model(config) and unusable:
        raise ModelError(f"{path} has no usable {', '.join(unusable)}; copy the folder again")
    return config


def read_weights(trunk: Trunk, folder: Path) -> list[str]:
    """Copy the weights of a folder into `trunk`.

    Returns:
        Names of the weights that the folder lacks and may lack (the pooler's); they keep their fresh values.

    Raises:
        ModelError: the file is missing or damaged, or does not fit the trunk.
    """
    path = _weights_file(folder)
    try:
        weights = {_plain(name): value for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None
    expected = trunk.state_dict()
    missing = [name for name in expected if name not in weights]
    if needed := [name for name in missing if name not in OPTIONAL]:
        raise ModelError(f"{path} lacks {needed[0]}" + (f" and {len(needed) - 1} more weights" if needed[1:] else ""))
    for name, weight in expected.items():
        if name in weights and weights[name].shape != weight.shape:
            raise ModelError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, config.json says {tuple(weight.shape)}"
            )
    trunk.load_state_dict({name: weights[name] for name in expected if name in weights}, strict=False)
    return missing


def _weights_file(folder: Path) -> Path:
    path = folder / "model.safetensors"
    if not path.is_file():
        pickled = " (pytorch_model.bin is a pickle, which fusebert never opens; convert it to safetensors)"
        raise ModelError(f"{path} is missing" + (pickled if (folder / "pytorch_model.bin").exists() else ""))
    return path


def _plain(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def save_trunk(trunk: Trunk, folder: Path, save_tokenizer: Callable[[Path, int], None] | None = None) -> None:
    """Write a folder that `transformers.BertModel.from_pretrained` loads, with the vocabulary, if there is one."""

    def fill(beside: Path) -> None:
        write_json(beside / "config.json", trunk.config.to_hugging_face())
        weights: dict[str, Tensor] = {name: value.contiguous() for name, value in trunk.state_dict().items()}
        save_file(weights, beside / "model.safetensors", metadata={"format": "pt"})
        if save_tokenizer is not None:
            save_tokenizer(beside, trunk.config.max_position_embeddings)

    write_folder(folder, fill)
