"""The trained weights of the modalities beside the text, for runs that go on from a run's folder.

A trained model's folder holds them among its weights. A pre-training's folder is that of a BERT; beside it,
`modalities.safetensors` holds the embedders, the modality embeddings by name, and the fusion, `modalities.json` says
which, and `processors/` holds their settings and what was fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fusebert import plugins
from fusebert.errors import ModelError
from fusebert.model.pretrained import is_own_model, read_json_config
from fusebert.storage import naming_failures, read_json, write_json
from fusebert.types import TEXT

WEIGHTS, INDEX = "modalities.safetensors", "modalities.json"


def save_modalities(folder: Path, model: Any, processors: Mapping[str, Any]) -> None:
    """Write the weights of `model` beside trunk and head; nothing where it reads text only."""
    names = [name for name in model.config.modalities if name != TEXT]
    if not names:
        return
    weights = {name: value.contiguous().cpu() for name, value in _weights(model).items()}
    with naming_failures(folder):
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    for name in names:
        processors[name].save(folder)
    write_json(folder / INDEX, {"fusion": model.config.fusion, "modalities": names})


def take_over(model: Any, processors: Mapping[str, Any], folder: Path) -> tuple[tuple[str, ...], str | None]:
    """Copy into `model` a folder's weights of those modalities that both have, with the same settings.

    Returns:
        The modalities taken over, and a line that says what was taken over and why others were not; None where the
        folder has no such weights.
    """
    names = [name for name in model.config.modalities if name != TEXT]
    saved = _read(folder) if names else None
    if saved is None:
        return (), None
    index, weights = saved
    taken, said = [], []
    own = _weights(model)
    for name in names:
        reason = _difference(model.embedders[name], processors[name], name, folder, index)
        if reason is None:
            _copy({key: value for key, value in own.items() if _is_of(key, name)}, weights, folder)
            taken.append(name)
        said.append(f"{name} {'is taken over' if reason is None else f'begins anew: {reason}'}")
    fusion = {key: value for key, value in own.items() if key.startswith("fusion.")}
    if fusion:
        same = index["fusion"] == model.config.fusion and (
            index["modalities"] == names or model.config.fusion != "concat"
        )
        if same:
            _copy(fusion, weights, folder)
        said.append(f"the fusion {'is taken over' if same else 'begins anew'}")
    return tuple(taken), f"pretrained in {folder}: " + "; ".join(said)


def _read(folder: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]] | None:
    """A folder's `fusion` and names of `modalities`, and its weights beside trunk and head; None where it has none."""
    config = read_json_config(folder)
    is_model = is_own_model(config)
    if not is_model and not (folder / INDEX).is_file():
        return None
    path = folder / ("model.safetensors" if is_model else WEIGHTS)
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or missing: {error}") from None
    if not is_model:
        return read_json(folder / INDEX), weights
    others = [name for name in config["modalities"] if name != TEXT]
    return {"fusion": config["fusion"], "modalities": others}, weights | _by_name(weights, config["modalities"])


def _difference(embedder: Any, processor: Any, name: str, folder: Path, index: Mapping[str, Any]) -> str | None:
    """Why a modality's saved weights do not fit its embedder here; None where they do."""
    if name not in index["modalities"]:
        return "not learnt there"
    try:
        there = plugins.load("modalities", name, "processor").Processor.load_from(folder)
    except (KeyError, TypeError, ValueError) as error:
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"{folder}: processors/{name}.json is damaged, or of another version ({problem})") from None
    if len(there.columns) != len(processor.columns):
        return f"{len(there.columns)} columns there, {len(processor.columns)} here"
    free = getattr(embedder, "LEARNING_SETTINGS", ())
    then, now = (one.config.model_dump(exclude=set(free)) for one in (there, processor))
    changed = [key for key in now if now[key] != then[key]]
    if changed:
        return f"{name}.{changed[0]} was {then[changed[0]]!r:.60}, is {now[changed[0]]!r:.60}"
    if getattr(there, "fitted", None) != getattr(processor, "fitted", None):
        return "its columns hold other values here"
    return None


def _weights(model: Any) -> dict[str, Tensor]:
    """A model's weights beside trunk and head, by name; modality embeddings are named by their modality."""
    state = model.state_dict()
    weights = {name: value for name, value in state.items() if name.startswith(("embedders.", "fusion."))}
    weights |= _by_name(state, model.config.modalities)
    return {name: value for name, value in weights.items() if not _is_of(name, TEXT)}


def _by_name(state: Mapping[str, Tensor], modalities: Iterable[str]) -> dict[str, Tensor]:
    """The rows of the modality embeddings, which are in the order of the modalities, by name."""
    rows = state.get("modality_embeddings.weight", ())
    return {f"modality_embeddings.{name}": row for name, row in zip(modalities, rows, strict=False)}


def _is_of(key: str, modality: str) -> bool:
    return key == f"modality_embeddings.{modality}" or key.startswith(f"embedders.{modality}.")


def _copy(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], folder: Path) -> None:
    for name, weight in own.items():
        if name not in saved or saved[name].shape != weight.shape:
            raise ModelError(f"the weights in {folder} do not hold {name} as its settings say; copy the folder again")
        with torch.no_grad():
            weight.copy_(saved[name])
