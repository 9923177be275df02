"""The whole model: embedders -> fusion -> trunk -> head, as a Hugging Face model."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from fusebert import plugins
from fusebert.data.collate import interleave
from fusebert.model.fusion import Concat, Padding, TwoStream, one_stream
from fusebert.model.trunk import Trunk, TrunkConfig
from fusebert.model.zero import ZeroEmbedding
from fusebert.types import ALL, FIRST, TEXT, Encoded, Layout


class FusebertConfig(PreTrainedConfig):
    """All that is needed to build the model again.

    Args:
        trunk: fields of TrunkConfig.
        fusion: how modalities meet.
        modalities: name -> {"columns": number of columns, "config": fields of the processor's Config}.
        task: {"name": ..., and what the head needs, as the task's `head_config` gives it}.
        cls_token_id: id of [CLS] in the trunk's vocabulary.
    """

    model_type = "fusebert"

    def __init__(
        self,
        trunk: dict[str, Any] | None = None,
        fusion: str = "one_stream",
        modalities: dict[str, dict[str, Any]] | None = None,
        task: dict[str, Any] | None = None,
        cls_token_id: int = 2,
        **kwargs: Any,
    ) -> None:
        self.trunk = trunk or TrunkConfig.of_size("tiny", 1000).model_dump()
        self.fusion = fusion
        self.modalities = modalities or {}
        self.task = task or {"name": "classification", "outputs": 2}
        self.cls_token_id = cls_token_id
        super().__init__(**kwargs)


class FusebertModel(PreTrainedModel):
    """Any subset of modalities in, one task's logits out."""

    config_class = FusebertConfig
    base_model_prefix = "fusebert"
    main_input_name = "order"
    accepts_loss_kwargs = False  # the loss is a mean over the batch; transformers' Trainer divides by its accumulation

    def __init__(self, config: FusebertConfig) -> None:
        super().__init__(config)
        trunk = TrunkConfig(**config.trunk)
        self.trunk = Trunk(trunk)
        self.embedders = nn.ModuleDict()
        for name, made in config.modalities.items():
            half = plugins.load("modalities", name, "embedder")
            settings = plugins.load("modalities", name, "processor").Config(**made["config"])
            self.embedders[name] = half.Embedder(settings, made["columns"], trunk)
        self.modality_embeddings = ZeroEmbedding(max(1, len(config.modalities)), trunk.hidden_size)
        self.fusion: Any = None
        if config.fusion == "concat":
            self.fusion = Concat([name for name in config.modalities if name != TEXT], trunk.hidden_size)
        elif config.fusion == "two_stream":
            self.fusion = TwoStream(trunk)
        self.head = plugins.load("tasks", config.task["name"], "head").Head(config.task, trunk)
        # whole models leave a weight alone that nothing reads; FSDP would give it zeros, and the optimizer wear it down
        self.trunk.pooler.requires_grad_(getattr(self.head, "reads_pooler", True))
        self.post_init()
        if hasattr(self.head, "tie"):
            self.head.tie(self)

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.trunk["initializer_range"]
        if isinstance(module, ZeroEmbedding):
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def encode(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        order: Tensor,
        cu_seqlens: Tensor,
        lengths: list[int],
        counts: Mapping[str, Sequence[int]],
        places: Tensor | None = None,
    ) -> Encoded:
        """What the trunk makes of a collated batch; see `data.collate` for the arguments.

        Args:
            places: int64[M], the packed tokens whose last states are read; None for all.
        """
        start, tokens = self._embed(inputs, torch.zeros_like(cu_seqlens[:-1], dtype=torch.long))
        if self.config.fusion == "one_stream":
            layout = Layout(cu_seqlens, tuple(lengths))
            return self.trunk(one_stream([start, *tokens.values()], order), layout, places=places)
        return self._encode_text_and(start, tokens, counts, places)

    def _embed(self, inputs: Mapping[str, Mapping[str, Tensor]], zeros: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """[CLS] of each row, for int64[B] zeros, float[B, D], and each modality's tokens, float[N_m, D]."""
        first = {"input_ids": zeros + self.config.cls_token_id, "token_type_ids": zeros, "position_ids": zeros}
        start = None
        tokens: dict[str, Tensor] = {}
        for number, (name, embedder) in enumerate(self.embedders.items()):
            if name == TEXT and name in inputs:  # in one look-up: the gradient of each is as large as the vocabulary
                both = {field: torch.cat([first[field], given]) for field, given in inputs[name].items()}
                found = embedder(both, self.trunk.embeddings)
                start, tokens[name] = found.split([len(zeros), len(found) - len(zeros)])
            elif name in inputs:
                found = embedder(inputs[name], self.trunk.embeddings)
                tokens[name] = found + self.modality_embeddings.weight[number].to(found.dtype)
        return self.trunk.embeddings(**first) if start is None else start, tokens

    def _encode_text_and(
        self, start: Tensor, tokens: dict[str, Tensor], counts: Mapping[str, Sequence[int]], places: Tensor | None
    ) -> Encoded:
        """The trunk reads the text alone; the others come after it (concat) or from beside it (two_stream)."""
        device, rows = start.device, len(start)
        text = np.array(counts[TEXT] if TEXT in tokens else [0] * rows)
        order, lengths = interleave([np.ones(rows, dtype=np.int64), text])
        starts = torch.from_numpy(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)).to(device)
        layout = Layout(starts, tuple(lengths.tolist()))
        read = one_stream([start, *([tokens[TEXT]] if TEXT in tokens else [])], torch.from_numpy(order).to(device))
        others = {name: found for name, found in tokens.items() if name != TEXT}
        numbers = {name: torch.tensor(counts[name], device=device) for name in others}
        if isinstance(self.fusion, Concat):
            encoded: Encoded = self.trunk(read, layout, places=places)
            return replace(encoded, join=functools.partial(self.fusion, tokens=others, counts=numbers))
        if not others:
            return self.trunk(read, layout, places=places)
        other_order, other_lengths = interleave([np.array(counts[name]) for name in others])
        beside = one_stream(list(others.values()), torch.from_numpy(other_order).to(device))
        given = Padding(lengths, device), beside, Padding(other_lengths, device)
        between = [functools.partial(_cross, layer, given) for layer in self.fusion.layers]
        return self.trunk(read, layout, between, places)

    def _read(self, inputs: Any, order: Tensor, cu_seqlens: Tensor, lengths: Any, counts: Any, labels: Any) -> Encoded:
        """What the head reads of a batch."""
        encoded = self.encode(inputs, order, cu_seqlens, lengths, counts, self._places(cu_seqlens, labels))
        return replace(encoded, inputs=inputs)

    def _places(self, cu_seqlens: Tensor, labels: Any) -> Tensor | None:
        """The tokens that the head says it reads beside the first of each row; None for all."""
        found = self.head.reads(labels) if hasattr(self.head, "reads") else ALL
        if isinstance(found, Tensor):
            return found
        return cu_seqlens[:0] if found == FIRST else None

    def forward(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        order: Tensor,
        cu_seqlens: Tensor,
        lengths: list[int],
        counts: Mapping[str, Sequence[int]],
        labels: Any = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Logits; with `labels`, what the head's `loss` gives: the loss and its named parts."""
        encoded = self._read(inputs, order, cu_seqlens, lengths, counts, labels)
        if labels is None:
            return {"logits": self.head(encoded)}
        return self.head.loss(encoded, labels)

    def statistics(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        order: Tensor,
        cu_seqlens: Tensor,
        lengths: list[int],
        counts: Mapping[str, Sequence[int]],
        labels: Any,
    ) -> Tensor:
        """What the head counts of each row with its labels, where logits would be too many to keep: float[B, K]."""
        encoded = self._read(inputs, order, cu_seqlens, lengths, counts, labels)
        return self.head.statistics(encoded, labels)


def _cross(layer: nn.Module, given: tuple[Padding, Tensor, Padding], hidden: Tensor) -> Tensor:
    return layer(hidden, *given)


AutoConfig.register(FusebertConfig.model_type, FusebertConfig)
AutoModel.register(FusebertConfig, FusebertModel)
