"""The whole model: embedders -> fusion -> trunk -> head, as a Hugging Face model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from fusebert import plugins
from fusebert.model.fusion import one_stream
from fusebert.model.trunk import Trunk, TrunkConfig
from fusebert.types import Encoded, Layout


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
        self.modality_embeddings = nn.Embedding(max(1, len(config.modalities)), trunk.hidden_size)
        self.head = plugins.load("tasks", config.task["name"], "head").Head(config.task, trunk)
        self.post_init()
        if hasattr(self.head, "tie"):
            self.head.tie(self.trunk)

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.trunk["initializer_range"]
        if module is self.modality_embeddings:
            nn.init.zeros_(module.weight)  # a pretrained BERT begins unchanged
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def encode(
        self, inputs: Mapping[str, Mapping[str, Tensor]], order: Tensor, cumulative: Tensor, lengths: list[int]
    ) -> Encoded:
        """What the trunk makes of a collated batch; see `data.collate` for the arguments."""
        layout = Layout(cumulative, tuple(lengths))
        first = torch.full_like(cumulative[:-1], self.config.cls_token_id, dtype=torch.long)
        zeros = torch.zeros_like(first)
        sources = [self.trunk.embeddings(first, zeros, zeros)]
        for number, (name, embedder) in enumerate(self.embedders.items()):
            if name in inputs:
                tokens = embedder(inputs[name], self.trunk.embeddings)
                sources.append(tokens + self.modality_embeddings.weight[number].to(tokens.dtype))
        return self.trunk(one_stream(sources, order), layout)  # type: ignore[no-any-return]

    def forward(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        order: Tensor,
        cumulative: Tensor,
        lengths: list[int],
        labels: Any = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        """Logits; with `labels`, what the head's `loss` gives: the loss and its named parts."""
        encoded = self.encode(inputs, order, cumulative, lengths)
        if labels is None:
            return {"logits": self.head(encoded)}
        return self.head.loss(encoded, labels)  # type: ignore[no-any-return]

    def statistics(
        self,
        inputs: Mapping[str, Mapping[str, Tensor]],
        order: Tensor,
        cumulative: Tensor,
        lengths: list[int],
        labels: Any,
    ) -> Tensor:
        """What the head counts of each row with its labels, where logits would be too many to keep: float[B, K]."""
        return self.head.statistics(self.encode(inputs, order, cumulative, lengths), labels)  # type: ignore[no-any-return]


AutoConfig.register(FusebertConfig.model_type, FusebertConfig)
AutoModel.register(FusebertConfig, FusebertModel)
