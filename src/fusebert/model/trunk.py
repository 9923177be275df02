"""BERT (Devlin et al. 2018), exactly, over packed rows and under Hugging Face's parameter names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.amp import is_autocast_available
from transformers.activations import ACT2FN

from fusebert.errors import ModelError
from fusebert.model.cpu import Dropout, Linear, linear, pad_rows, round_up, uses_onednn
from fusebert.model.layer_norm import LayerNorm
from fusebert.model.packed import attention, attention_of_reads, packs_reads
from fusebert.types import Encoded, Layout, Reads

SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
"""Layers and hidden size by name (Turc et al. 2019); heads are hidden size / 64."""


class TrunkConfig(BaseModel):
    """The settings of a BERT's config.json on which its numbers depend; the others are Hugging Face's bookkeeping.

    A few bytes there can ask for all memory; the bounds lie far above any BERT.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(30522, ge=1, le=2_000_000)
    hidden_size: int = Field(768, ge=1, le=16_384)
    num_hidden_layers: int = Field(12, ge=1, le=200)
    num_attention_heads: int = Field(12, ge=1, le=1_024)
    intermediate_size: int = Field(3072, ge=1, le=131_072)
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1)
    attention_probs_dropout_prob: float = Field(0.1, ge=0, lt=1)
    max_position_embeddings: int = Field(512, ge=1, le=65_536)
    type_vocab_size: int = Field(2, ge=1, le=1_024)
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0

    @classmethod
    def of_size(cls, name: str, vocab_size: int) -> TrunkConfig:
        """A size of SIZES, with fresh weights of standard deviation 1 / sqrt(hidden_size).

        BERT's 0.02 is made for wide layers; a narrow trunk of such weights lets hardly any signal through.
        """
        layers, hidden = SIZES[name]
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            intermediate_size=4 * hidden,
            initializer_range=hidden**-0.5,
        )

    @classmethod
    def from_hugging_face(cls, settings: dict[str, Any], source: str) -> TrunkConfig:
        """Read the settings of a BERT's config.json.

        Args:
            source: what to call it in errors.

        Raises:
            ModelError: a setting, which it names, is one that this trunk does not compute.
        """
        required = {
            "model_type": "bert",
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "add_cross_attention": False,
        }
        for key, only in required.items():
            if settings.get(key, only) != only:
                raise ModelError(f"{source} has {key}={settings[key]!r}; only {only!r} is supported")
        if settings.get("pruned_heads"):
            raise ModelError(f"{source} has pruned_heads, which are not supported")
        try:
            config = cls(**{key: settings[key] for key in cls.model_fields if key in settings})
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelError(f"{source} has an unusable {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        if config.hidden_act not in ACT2FN:
            raise ModelError(f"{source} has hidden_act={config.hidden_act!r}, which transformers does not know")
        if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
            raise ModelError(f"{source}: pad_token_id {config.pad_token_id} is none of its {config.vocab_size} pieces")
        if config.hidden_size % config.num_attention_heads:
            raise ModelError(
                f"{source}: hidden_size {config.hidden_size} is not a multiple of {config.num_attention_heads} heads"
            )
        return config

    def to_hugging_face(self) -> dict[str, Any]:
        """The config.json with which `transformers.BertModel` computes the same."""
        return {
            "architectures": ["BertModel"],
            "model_type": "bert",
            "position_embedding_type": "absolute",
        } | self.model_dump()


class Embeddings(nn.Module):
    """Word + position + token type, normalised."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor) -> Tensor:
        """int64[N] each -> float[N, D]."""
        words = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(words + self.position_embeddings(position_ids)))


class SelfAttention(nn.Module):
    """Multi-head self-attention; query, key and value come of one product, but where few tokens are read."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.query = Linear(config.hidden_size, config.hidden_size)
        self.key = Linear(config.hidden_size, config.hidden_size)
        self.value = Linear(config.hidden_size, config.hidden_size)
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        """float[N, D] -> float[N, D]; each token attends to the tokens of its row."""
        qkv = self._project(hidden, self.query, self.key, self.value)
        return attention(qkv, layout, self.dropout if self.training else 0.0)

    def of_reads(self, read: Tensor, hidden: Tensor, layout: Layout, reads: Reads) -> Tensor:
        """The same for the tokens that are read, float[M, D] of float[N, D] -> float[M, D]."""
        dropout = self.dropout if self.training else 0.0
        if not packs_reads(hidden, layout, dropout):
            return self(hidden, layout).index_select(0, reads.places)
        query = self.query(read).unflatten(1, (self.heads, -1))
        return attention_of_reads(query, self._project(hidden, self.key, self.value), reads, layout, dropout)

    def _project(self, hidden: Tensor, *projections: Linear) -> Tensor:
        """float[N, D] -> float[N, K, heads, D / heads], by K projections in one product."""
        if all(type(one) is Linear for one in projections):
            weight, bias = torch.cat([one.weight for one in projections]), torch.cat([one.bias for one in projections])
            found = linear(hidden, weight, bias)
        else:  # adapters, such as LoRA's, wrap the projections
            found = torch.cat([one(hidden) for one in projections], dim=1)
        return found.unflatten(1, (len(projections), self.heads, -1))


class Output(nn.Module):
    """A projection and dropout, added to the residual stream and normalised.

    Under autocast the stream keeps the dtype of the products that read it; autocast would leave it in fp32, which are
    twice the bytes to move. (`two_stream` adds the outputs of its small gates in fp32.)
    """

    def __init__(self, config: TrunkConfig, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, config.hidden_size)
        self.LayerNorm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, values: Tensor, residual: Tensor) -> Tensor:
        """float[N, width], float[N, D] -> float[N, D]."""
        values = self.dropout(self.dense(values))
        return self.LayerNorm(values + residual).to(values.dtype)


class Attention(nn.Module):
    """Self-attention and its output projection."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.self = SelfAttention(config)
        self.output = Output(config, config.hidden_size)

    def forward(self, hidden: Tensor, layout: Layout, reads: Reads | None = None) -> Tensor:
        """float[N, D] -> float[N, D], or float[M, D] of the tokens that are read."""
        if reads is None:
            return self.output(self.self(hidden, layout), hidden)
        read = hidden.index_select(0, reads.places)
        return self.output(self.self.of_reads(read, hidden, layout, reads), read)


class Intermediate(nn.Module):
    """The widening half of the feed-forward network."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        """float[N, D] -> float[N, intermediate_size]."""
        return self.activation(self.dense(hidden))


class Layer(nn.Module):
    """One Transformer layer."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Output(config, config.intermediate_size)

    def forward(self, hidden: Tensor, layout: Layout, reads: Reads | None = None) -> Tensor:
        """float[N, D] -> float[N, D], or float[M, D] of the tokens that are read."""
        hidden = self.attention(hidden, layout, reads)
        return self.output(self.intermediate(hidden), hidden)


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        hidden: Tensor,
        layout: Layout,
        between: Sequence[Callable[[Tensor], Tensor]] = (),
        reads: Reads | None = None,
    ) -> Tensor:
        """float[N, D] -> float[N, D], or float[M, D] of the tokens that are read.

        Without `between`, the last layer runs for those tokens only, as far as `packs_reads`: the others are but its
        keys and values.

        Args:
            between: nothing, or for each layer a function float[N, D] -> float[N, D] applied to its output.
        """
        device = hidden.device.type
        if is_autocast_available(device) and torch.is_autocast_enabled(device):
            hidden = hidden.to(
                torch.get_autocast_dtype(device)
            )  # the layers' output dtype: one compiled layer fits all
        *below, last = self.layer
        if between:
            for layer, then in zip(self.layer, between, strict=True):
                hidden = then(layer(hidden, layout))
            return hidden if reads is None else hidden.index_select(0, reads.places)
        count = len(hidden) if reads is None else len(reads.places)
        if reads is not None and uses_onednn(hidden):
            reads = replace(reads, places=F.pad(reads.places, (0, round_up(count) - count)))
        hidden = pad_rows(hidden)
        for layer in below:
            hidden = layer(hidden, layout)
        return last(hidden, layout, reads)[:count]


class Pooler(nn.Module):
    """BERT's pooler: the last state of each row's first token, through a dense layer and tanh."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """float[B, D] -> float[B, D]."""
        return torch.tanh(self.dense(first))


class Trunk(nn.Module):
    """BERT over embedded tokens of any modality; its own `embeddings` are for text."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        between: Sequence[Callable[[Tensor], Tensor]] = (),
        places: Tensor | None = None,
    ) -> Encoded:
        """float[N, D] packed tokens, the first of each row being [CLS] -> Encoded.

        Args:
            between: see `Encoder`.
            places: int64[M], the tokens whose last states are read, each once and no row's first; None for all.
        """
        first = layout.cu_seqlens[:-1]
        if places is None:
            hidden = self.encoder(tokens, layout, between)
            return Encoded(hidden, self.pooler(hidden.index_select(0, first)), layout)
        read, order = torch.cat([first, places]).sort()
        starts = torch.searchsorted(read, layout.cu_seqlens, out_int32=True)
        hidden = self.encoder(tokens, layout, between, Reads(read, starts)).index_select(0, order.argsort())
        return Encoded(hidden[len(first) :], self.pooler(hidden[: len(first)]), layout)
