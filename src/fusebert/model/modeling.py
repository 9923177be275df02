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
from fusebert.errors import UsageError
from fusebert.model.fusion import Concat, Padding, TwoStream, on_device, one_stream
from fusebert.model.trunk import Trunk, TrunkConfig
from fusebert.model.zero import ZeroEmbedding
from fusebert.types import ALL, FIRST, TEXT, Encoded, Layout


class FusebertConfig(PreTrainedConfig):
    """All that is needed to build the model, apart from its weights.

    Args:
        trunk: fields of TrunkConfig.
        fusion: one_stream, concat or two_stream; see `fusion`.
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
    """Embedders -> fusion and trunk -> head: any subset of modalities in, one task's logits out."""

    config_class = FusebertConfig
    base_model_prefix = "fusebert"
    main_input_name = "order"
    accepts_loss_kwargs = False  # the loss is a mean over the batch; transformers' Trainer divides by its accumulation
    taken_over: tuple[str, ...] = ()
    """Modalities that begin with what they learnt in the folder of the trunk."""

    def __init__(self, config: FusebertConfig) -> None:
        super().__init__(config)
        trunk = TrunkConfig(**config.trunk)
        self.trunk = Trunk(trunk)
        self.embedders = nn.ModuleDict()
        for name, modality in config.modalities.items():
            settings = plugins.load("modalities", name, "processor").Config(**modality["config"])
            embedder = plugins.load("modalities", name, "embedder").Embedder
            self.embedders[name] = embedder(settings, modality["columns"], trunk)
        self.modality_embeddings = ZeroEmbedding(max(1, len(config.modalities)), trunk.hidden_size)
        self.fusion: Any = None
        if config.fusion == "concat":
            self.fusion = Concat([name for name in config.modalities if name != TEXT], trunk.hidden_size)
        elif config.fusion == "two_stream":
            self.fusion = TwoStream(trunk)
        self.head = plugins.load("tasks", config.task["name"], "head").Head(config.task, trunk)
        self.causal: bool = getattr(self.head, "causal", False)
        # a pooler that nobody reads has no gradient; FSDP would give it zeros, and weight decay would shrink it
        self.trunk.pooler.requires_grad_(getattr(self.head, "reads_pooler", True))
        self._refuse_lost_buffers()
        self.post_init()
        if hasattr(self.head, "tie"):
            self.head.tie(self)

    def _refuse_lost_buffers(self) -> None:
        """Raise UsageError for a buffer that is not saved: a loaded model would have whatever memory held there.

        Models of transformers make theirs anew.
        """
        theirs = [module for module in self.modules() if isinstance(module, PreTrainedModel) and module is not self]
        made_anew = {id(part) for module in theirs for part in module.modules()}
        for name, module in self.named_modules():
            if module._non_persistent_buffers_set and id(module) not in made_anew:
                buffer = sorted(module._non_persistent_buffers_set)[0]
                raise UsageError(f"{name}.{buffer} would be lost: register the buffer with persistent=True")

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """As transformers does, but under the names that the weights have here, also those of a published encoder."""
        super().save_pretrained(save_directory, **{"save_original_format": False} | options)

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
        cls, tokens = self._embed(inputs, torch.zeros_like(cu_seqlens[:-1], dtype=torch.long))
        if self.config.fusion == "one_stream":
            layout = Layout(cu_seqlens, tuple(lengths), self.causal)
            return self.trunk(one_stream([cls, *tokens.values()], order), layout, places=places)
        return self._encode_text(cls, tokens, counts, places)

    def _embed(self, inputs: Mapping[str, Mapping[str, Tensor]], zeros: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """int64[B] zeros -> [CLS] of each row, float[B, D], and each modality's packed tokens, float[its tokens, D]."""
        cls_fields = {"input_ids": zeros + self.config.cls_token_id, "token_type_ids": zeros, "position_ids": zeros}
        cls = None
        tokens: dict[str, Tensor] = {}
        for number, (name, embedder) in enumerate(self.embedders.items()):
            if name == TEXT and name in inputs:  # in one look-up: the gradient of each is as large as the vocabulary
                both = {field: torch.cat([cls_fields[field], values]) for field, values in inputs[name].items()}
                embedded = embedder(both, self.trunk.embeddings)
                cls, tokens[name] = embedded.split([len(zeros), len(embedded) - len(zeros)])
            elif name in inputs:
                embedded = embedder(inputs[name], self.trunk.embeddings)
                tokens[name] = embedded + self.modality_embeddings.weight[number].to(embedded.dtype)
        return self.trunk.embeddings(**cls_fields) if cls is None else cls, tokens

    def _encode_text(
        self, cls: Tensor, tokens: dict[str, Tensor], counts: Mapping[str, Sequence[int]], places: Tensor | None
    ) -> Encoded:
        """The trunk reads [CLS] and the text only; the other modalities join after it or by cross-attention."""
        device, rows = cls.device, len(cls)
        others = {name: values for name, values in tokens.items() if name != TEXT}
        text = [tokens[TEXT]] if TEXT in tokens else []
        text_counts = np.array(counts[TEXT] if text else [0] * rows)
        order, lengths = interleave([np.ones(rows, dtype=np.int64), text_counts])
        cu_seqlens = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
        layout = Layout(on_device(cu_seqlens, device), tuple(lengths.tolist()), self.causal)
        hidden = one_stream([cls, *text], on_device(order, device))
        if isinstance(self.fusion, Concat):
            other_counts = {name: on_device(np.array(counts[name]), device) for name in others}
            encoded: Encoded = self.trunk(hidden, layout, places=places)
            return replace(encoded, join=functools.partial(self.fusion, tokens=others, counts=other_counts))
        if not others:
            return self.trunk(hidden, layout, places=places)
        other_order, other_lengths = interleave([np.array(counts[name]) for name in others])
        other = one_stream(list(others.values()), on_device(other_order, device))
        ours, theirs = Padding(lengths, device), Padding(other_lengths, device)
        between = [functools.partial(layer, ours=ours, other=other, theirs=theirs) for layer in self.fusion.layers]
        return self.trunk(hidden, layout, between, places)

    def _encode_for_head(self, labels: Any, **batch: Any) -> Encoded:
        """`encode` of the tokens that the head says it reads, beside the first of each row, with the batch's inputs."""
        reads = self.head.reads(labels) if hasattr(self.head, "reads") else ALL
        if not isinstance(reads, Tensor):
            reads = batch["cu_seqlens"][:0] if reads == FIRST else None
        return replace(self.encode(**batch, places=reads), inputs=batch["inputs"])

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
        """`logits` of a collated batch; with `labels`, what the head's `loss` gives: the loss and its named parts."""
        encoded = self._encode_for_head(
            labels, inputs=inputs, order=order, cu_seqlens=cu_seqlens, lengths=lengths, counts=counts
        )
        if labels is None:
            return {"logits": self.head(encoded)}
        return self.head.loss(encoded, labels)

    def statistics(self, labels: Any, **batch: Any) -> Tensor:
        """float[B, K], K numbers for each row of a collated batch, for heads whose logits would be too many to keep."""
        return self.head.statistics(self._encode_for_head(labels, **batch), labels)


AutoConfig.register(FusebertConfig.model_type, FusebertConfig)
AutoModel.register(FusebertConfig, FusebertModel)
