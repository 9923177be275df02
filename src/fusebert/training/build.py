"""A recipe and its prepared data -> a model on fresh or pretrained weights, and where and how precisely it runs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import torch

from fusebert.config import Recipe
from fusebert.errors import ModelError, UsageError, how_to_install
from fusebert.evaluation.inference import multiplies_bf16
from fusebert.modalities.text.tokenizer import SPECIAL_TOKENS, read_tokenizer, special_tokens, vocabulary_size
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.pretrained import is_own_model, read_config, read_json_config, read_weights
from fusebert.model.pretrained_modalities import take_over
from fusebert.model.trunk import TrunkConfig
from fusebert.training.prepare import Prepared
from fusebert.training.progress import Progress
from fusebert.types import TEXT

BF16_PAYS_FROM_HIDDEN_SIZE = 128
"""Below this the casts cost a CPU more than bf16 products save."""


def build_model(recipe: Recipe, prepared: Prepared, progress: Progress) -> FusebertModel:
    """The model of a recipe. Fresh weights come from torch's random stream, so seed it first."""
    config = FusebertConfig(
        trunk=_trunk_config(recipe, prepared).model_dump(),
        fusion=recipe.model.fusion,
        modalities={
            name: {"columns": len(processor.columns), "config": processor.config.model_dump(mode="json")}
            for name, processor in prepared.processors.items()
        },
        task=prepared.task.head_config,
        cls_token_id=_cls_token_id(prepared),
    )
    model = FusebertModel(config)
    if prepared.trunk_folder is not None and (fresh := read_weights(model.trunk, prepared.trunk_folder)):
        progress.note(f"the pretrained trunk brings no pooler; fresh weights: {', '.join(fresh)}")
        if "trunk" in recipe.training.freeze and getattr(model.head, "reads_pooler", True):
            raise UsageError(
                "training.freeze=trunk would also freeze the pooler, which the pretrained trunk does not bring: set "
                "task.pooling=mean, or let the trunk learn"
            )
    if prepared.trunk_folder is not None:
        model.taken_over, said = take_over(model, prepared.processors, prepared.trunk_folder)
        if said:
            progress.note(said)
    embedders: Any = model.embedders.items()
    for name, embedder in embedders:
        if name not in model.taken_over and hasattr(embedder, "load_pretrained"):
            embedder.load_pretrained()
    return model


def _cls_token_id(prepared: Prepared) -> int:
    """Where [CLS] stands in the vocabulary that the trunk's word embeddings belong to."""
    if (text := prepared.processors.get(TEXT)) is not None:
        return int(text.special["[CLS]"])
    if prepared.trunk_folder is not None:
        own = read_json_config(prepared.trunk_folder)
        if is_own_model(own):
            return int(own["cls_token_id"])
        if _never_read(read_config(prepared.trunk_folder)):
            return SPECIAL_TOKENS.index("[CLS]")
        return special_tokens(read_tokenizer(prepared.trunk_folder))["[CLS]"]
    return SPECIAL_TOKENS.index("[CLS]")


def _never_read(trunk: TrunkConfig) -> bool:
    """Whether it comes from a model without text: it knows no words but [CLS] and its like."""
    return trunk.vocab_size == len(SPECIAL_TOKENS)


def _trunk_config(recipe: Recipe, prepared: Prepared) -> TrunkConfig:
    text = prepared.processors.get(TEXT)
    if prepared.trunk_folder is None:
        size = text.vocabulary_size if text else len(SPECIAL_TOKENS)
        trunk = TrunkConfig.of_size(recipe.model.trunk, size)
        longest = text.config.max_tokens + 1 if text else 1
        trunk = trunk.model_copy(update={"max_position_embeddings": max(trunk.max_position_embeddings, longest)})
    else:
        trunk = read_config(prepared.trunk_folder)
        if text:
            pieces = text.vocabulary_size
        elif is_own_model(read_json_config(prepared.trunk_folder)) or _never_read(trunk):
            pieces = 0  # one that reads no text has no tokenizer
        else:
            pieces = vocabulary_size(read_tokenizer(prepared.trunk_folder))
        if pieces > trunk.vocab_size:
            raise ModelError(
                f"{prepared.trunk_folder}: the tokenizer has {pieces} pieces, but the weights only {trunk.vocab_size}; "
                "they do not belong together"
            )
        if text and text.config.max_tokens >= trunk.max_position_embeddings:
            raise UsageError(
                f"text.max_tokens={text.config.max_tokens} is too long: this trunk has {trunk.max_position_embeddings} "
                f"positions, one of them for [CLS]"
            )
    update = {
        "hidden_dropout_prob": recipe.model.dropout,
        "attention_probs_dropout_prob": recipe.model.attention_dropout,
        "initializer_range": getattr(prepared.task, "initializer_range", trunk.initializer_range),
    }
    return trunk.model_copy(update=update)


def pick_device(wanted: str) -> str:
    """cpu or cuda.

    Raises:
        UsageError: there is no such device, or not one for each process that was started here.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("training.device=cuda, but torch finds no CUDA device here")
    if wanted == "cpu" or not torch.cuda.is_available():
        return "cpu"
    told = (int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1 + int(os.environ.get("LOCAL_RANK", 0)))  # torchrun tells both
    processes, devices = max(told), torch.cuda.device_count()
    if processes > devices:
        raise UsageError(
            f"{processes} processes were started here, but torch finds {devices} CUDA devices, and each needs its own; "
            f"start {devices}, or set training.device=cpu"
        )
    return "cuda"


def pick_precision(wanted: str, device: str, hidden_size: int) -> str:
    """fp32 or bf16; `auto` is a rule, not a measurement, so that two runs never differ by chance."""
    if wanted != "auto":
        return wanted
    pays = device == "cuda" or hidden_size >= BF16_PAYS_FROM_HIDDEN_SIZE
    return "bf16" if pays and multiplies_bf16(device) else "fp32"


def pick_trackers(wanted: Sequence[str], progress: Progress) -> list[str]:
    """The trackers that are installed; the others are named."""
    found = []
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            progress.note(f"{name} is not installed, so nothing is written for it ({how_to_install('track')})")
        else:
            found.append(name)
    return found
