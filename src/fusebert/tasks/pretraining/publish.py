"""A pre-trained model -> a sealed folder in Hugging Face's form, for fusebert and for transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fusebert.config import RECIPE, without_places
from fusebert.errors import ModelError
from fusebert.model.pretrained import OLD_NAMES
from fusebert.model.pretrained_modalities import save_modalities
from fusebert.recipe_yaml import as_yaml
from fusebert.storage import METRICS, finish, naming_failures, write_atomically, write_json
from fusebert.types import TEXT

TRANSFORM = "cls.predictions.transform"
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
"""BERT's, for whoever fine-tunes it in transformers; pre-training mostly goes without."""


def publish_pretrained(
    folder: Path,
    model: Any,
    processors: Mapping[str, Any],
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
) -> None:
    """Write weights, tokenizer, scores and model card; the manifest comes last.

    Args:
        processors: by modality; what was learnt of those beside the text goes into files of its own.
    """
    config = model.trunk.config.to_hugging_face() | {"architectures": ["BertForPreTraining"]} | DROPOUT
    write_json(folder / "config.json", config)
    with naming_failures(folder):
        save_file(hugging_face_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    processors[TEXT].save_tokenizer(folder, model.trunk.config.max_position_embeddings)
    save_modalities(folder, model, processors)
    write_json(folder / METRICS, dict(metrics))
    write_atomically(folder / "README.md", _card(folder.name, model, recipe, metrics).encode())
    write_atomically(folder / RECIPE, as_yaml(without_places(recipe)).encode())
    finish(folder)


def hugging_face_weights(model: Any) -> dict[str, Tensor]:
    """Weights as `transformers.BertForPreTraining` names them; the output words are tied there as here."""
    head = model.head
    found = {f"bert.{name}": value for name, value in model.trunk.state_dict().items()}
    found |= {f"{TRANSFORM}.dense.{name}": value for name, value in head.dense.state_dict().items()}
    found |= {f"{TRANSFORM}.LayerNorm.{name}": value for name, value in head.LayerNorm.state_dict().items()}
    found |= {f"cls.seq_relationship.{name}": value for name, value in head.seq_relationship.state_dict().items()}
    found["cls.predictions.bias"] = head.bias.weight[0].detach()
    return {name: value.contiguous().cpu() for name, value in found.items()}


def load_head(model: Any, folder: Path) -> None:
    """Put the pre-training head of a BERT folder into `model`, as far as it is there.

    Raises:
        ModelError: it has other sizes than the trunk.
    """
    found = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in file.keys():  # noqa: SIM118 - the file is no mapping
            if name.startswith("cls."):
                plain = next((name.replace(old, new) for old, new in OLD_NAMES.items() if old in name), name)
                found[plain] = file.get_tensor(name)
    head = model.head
    parts = {f"{TRANSFORM}.dense.": head.dense, f"{TRANSFORM}.LayerNorm.": head.LayerNorm}
    parts["cls.seq_relationship."] = head.seq_relationship
    try:
        for prefix, part in parts.items():
            own = {name: found[prefix + name] for name in part.state_dict() if prefix + name in found}
            part.load_state_dict(own, strict=bool(own))
        if "cls.predictions.bias" in found:
            head.bias.load_state_dict({"weight": found["cls.predictions.bias"][None]})
    except RuntimeError as error:
        raise ModelError(f"the pre-training head in {folder / 'model.safetensors'} does not fit: {error}") from None


def _card(name: str, model: Any, recipe: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    scores = metrics["evaluations"]["held_out"]["metrics"]
    training = metrics["training"]
    rows = "\n".join(f"| {key} | {value:.4f} |" for key, value in scores.items())
    others = ", ".join(name for name in model.config.modalities if name != TEXT)
    beside = (
        f"\nIts text stood beside {others}; what was learnt of that is in modalities.safetensors.\n" if others else ""
    )
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [bert, fusebert]
---
# {name}

A BERT pre-trained with fusebert: {sum(p.numel() for p in model.trunk.parameters()):,} parameters,
{training["tokens"]:,} tokens in {training["seconds"]:.0f} s, {training["steps"]:,} steps.
{beside}
Held-out text, masked once and the same in every round (losses in nats; guessing pieces by their frequency costs
{metrics["unigram_entropy"]:.3f}):

| metric | value |
|---|---|
{rows}

Use it as `model.trunk` of a fusebert recipe, or with `transformers.BertForPreTraining.from_pretrained`.

```yaml
{as_yaml(without_places(recipe)).strip()}
```
"""
