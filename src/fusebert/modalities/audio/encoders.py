"""Speech encoders of transformers as they were published: float[R, longest, bins], int64[R] frames -> packed states."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fusebert.errors import ModelError, UsageError
from fusebert.modalities.audio.processor import FRAMES_PER_TOKEN, STATES_PER_TOKEN, Config
from fusebert.modalities.audio.signal import RATE_HZ
from fusebert.modalities.published import as_model_error, build, refuse_foreign

WHISPER = "whisper"
QUIET = {"apply_spec_augment": False, "layerdrop": 0.0, "encoder_layerdrop": 0.0}
"""What an encoder would do at random, and in some cases refuse to do with short recordings."""
BELOW_THE_LOUDEST, SILENCE = 2.0, -1.5
"""Where the silence after a recording lies on Whisper's scale: so far below the loudest, and never below this."""


def prepare(config: Config) -> Config:
    """Fill in what a speech encoder of transformers says of itself: architecture, width, how samples are scaled."""
    if config.encoder == "conv":
        if config.frozen:
            raise UsageError(
                "audio.frozen=true, but the conv encoder has nothing that was published before; "
                "training.freeze=audio holds what a trunk of yours has learnt"
            )
        return config
    if config.augment:
        raise UsageError("audio.augment=true is for the conv encoder; leave it out with a speech encoder")
    from transformers import AutoConfig

    with as_model_error(f"audio.encoder={config.encoder!r} cannot be used as a speech encoder"):
        settings = AutoConfig.from_pretrained(config.encoder, trust_remote_code=False).to_dict()
        settings.pop("auto_map", None)  # some name code for older versions of transformers, too
        extractor = _extractor(config.encoder)
    if (rate := extractor.get("sampling_rate", RATE_HZ)) != RATE_HZ:
        raise ModelError(f"audio.encoder={config.encoder!r} hears {rate:,} samples a second, and gets {RATE_HZ:,}")
    refuse_foreign(settings, f"audio.encoder={config.encoder!r}")
    if settings.get("add_adapter"):
        raise ModelError(f"audio.encoder={config.encoder!r} has an adapter, which is not read; choose one without it")
    if settings["model_type"] == WHISPER:
        settings |= {"max_source_positions": config.most_tokens * FRAMES_PER_TOKEN // 2}
        width = settings["d_model"]
    elif "conv_kernel" in settings and "hidden_size" in settings:
        width = settings["hidden_size"]
    else:
        kind = settings["model_type"]
        raise ModelError(
            f"audio.encoder={config.encoder!r} is a {kind}; wav2vec 2.0, HuBERT, WavLM and Whisper can be used"
        )
    backbone = (
        settings | QUIET | {"fusebert_width": width, "fusebert_normalise": bool(extractor.get("do_normalize", True))}
    )
    return config.model_copy(update={"backbone": backbone})


def _extractor(name: str) -> dict[str, Any]:
    from transformers.feature_extraction_utils import FeatureExtractionMixin

    try:
        found, _ = FeatureExtractionMixin.get_feature_extractor_dict(name)
    except OSError:  # a folder without one
        return {}
    return dict(found)


class SpeechEncoder(nn.Module):
    """Each recording by itself, so that none changes with those beside it: those of equal length go together, and
    Whisper's are all followed by the same silence."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        self.config = config
        network = None if config.hears_samples else WhisperEncoder
        self.model: Any = build(config.backbone, f"audio.encoder={config.encoder!r}", network)
        self.width = int(config.backbone["fusebert_width"])

    def load_pretrained(self) -> None:
        """Read the published weights; of Whisper's places, as many as recordings can have."""
        from transformers import AutoModel

        with as_model_error(f"the weights of audio.encoder={self.config.encoder!r} cannot be read"):
            published: Any = AutoModel.from_pretrained(
                self.config.encoder, use_safetensors=True, trust_remote_code=False
            )
        if self.config.hears_samples:
            self.model.load_state_dict(published.state_dict())
            return
        weights = published.get_encoder().state_dict()
        places = self.model.embed_positions.num_embeddings
        if len(weights["embed_positions.weight"]) < places:
            raise UsageError(
                f"audio.max_seconds={self.config.max_seconds:g} is more than {self.config.encoder} can hear at once"
            )
        weights["embed_positions.weight"] = weights["embed_positions.weight"][:places]
        self.model.load_state_dict(weights)

    def forward(self, features: Tensor, frames: Tensor) -> Tensor:
        """float[tokens, width]: two states each, their mean; a recording's odd last one is a token by itself."""
        lengths = frames.tolist()
        states = (
            self._of_samples(features, lengths) if self.config.hears_samples else self._of_frames(features, lengths)
        )
        return torch.cat([_pairs(one) for one in states])

    def _of_samples(self, samples: Tensor, lengths: list[int]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for length in sorted(set(lengths)):
            rows = [row for row, other in enumerate(lengths) if other == length]
            found |= dict(zip(rows, self.model(samples[rows, :length, 0]).last_hidden_state, strict=True))
        return [found[row] for row in range(len(lengths))]

    def _of_frames(self, mels: Tensor, lengths: list[int]) -> list[Tensor]:
        longest = self.model.max_source_positions * 2
        heard = []
        for mel, length in zip(mels, lengths, strict=True):
            level = max(float(mel[:length].max()) - BELOW_THE_LOUDEST, SILENCE)
            silence = mel.new_full((longest, mel.shape[1]), level)
            silence[:length] = mel[:length]
            heard.append(silence.T)
        states = self.model(torch.stack(heard)).last_hidden_state
        return [one[: math.ceil(length / 2)] for one, length in zip(states, lengths, strict=True)]


def _pairs(states: Tensor) -> Tensor:
    """float[S, D] -> float[ceil(S / 2), D], means of neighbours."""
    whole = len(states) // STATES_PER_TOKEN * STATES_PER_TOKEN
    pairs = states[:whole].unflatten(0, (-1, STATES_PER_TOKEN)).mean(dim=1)
    return torch.cat([pairs, states[whole:]])
