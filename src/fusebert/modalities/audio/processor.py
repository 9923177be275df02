"""A recording -> log-mel frames, evened out in loudness, or what a published speech encoder reads. Real files of common
kinds, decoded within fixed bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field

from fusebert.errors import InputError
from fusebert.modalities.audio.signal import (
    FRAMES_PER_SECOND,
    MAX_FILE_BYTES,
    RATE_HZ,
    decode,
    from_array,
    log_mel,
    whisper_mel,
)
from fusebert.modalities.base import Collated
from fusebert.modalities.files import (
    SOUND_SUFFIXES,
    DecodedFiles,
    are_sounds,
    contents_of,
    encoded_media,
    files_in,
    files_of,
    media_of,
)
from fusebert.section import FITTED, Section
from fusebert.storage import read_json, write_json
from fusebert.types import Evidence, Features, Sample

FRAMES_PER_TOKEN = 4
"""25 tokens a second."""
STATES_PER_TOKEN = 2
"""Of a speech encoder, which has about 50 states a second: two make a token."""
RANGE = 14.0
"""Of natural logarithms, 61 dB: what is further below a recording's loudest is as good as silence. Of what a telephone
recorded, a quarter of the bins holds nothing else, and would outweigh the voice."""
FAINTEST = 1e-6
"""Peak of what is silence and is not made louder: a 20-bit recorder's smallest step."""
PACES = (0.8, 1.25)
"""Recordings to learn from are played slower or faster, between these."""
MOST_SILENCE = FRAMES_PER_SECOND // 2
"""Frames before or behind a recording to learn from; three of four have none there."""
SHORTEST_SAMPLES = RATE_HZ // 10
"""What a speech encoder reads at least; shorter recordings are followed by silence."""


class Config(Section):
    """How recordings are read and turned into tokens."""

    encoder: str = Field(
        "conv",
        description="conv, or a speech encoder of transformers (wav2vec 2.0 and its kin, Whisper): Hub id or folder",
    )
    frozen: bool = Field(False, description="keep the encoder's weights as they are; its projection still learns")
    max_seconds: float = Field(30.0, gt=0, le=600, description="longer recordings cannot be used")
    width: int = Field(
        16,
        ge=4,
        le=256,
        description="channels of conv's first layer; the second has twice as many, the last two four times",
    )
    augment: bool = Field(
        False,
        description="in training, change voice, pace, microphone and the silence around, and hide bands and spans "
        "(conv)",
    )
    backbone: dict[str, Any] = Field({}, json_schema_extra=FITTED, description="the speech encoder's own configuration")

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest recording."""
        return int(-(-self.max_seconds * FRAMES_PER_SECOND // FRAMES_PER_TOKEN))

    @property
    def hears_samples(self) -> bool:
        """Whether the encoder reads samples, as wav2vec 2.0 does, and not frames of a spectrum."""
        return "conv_kernel" in self.backbone

    def states(self, frames: Any) -> Any:
        """What wav2vec 2.0's convolutions make of so many samples, an int or an array of them."""
        for kernel, stride in zip(self.backbone["conv_kernel"], self.backbone["conv_stride"], strict=True):
            frames = (frames - kernel) // stride + 1
        return frames

    def tokens(self, frames: Any) -> Any:
        """What a recording of so many frames, or samples, becomes; of an int or an array of them."""
        if self.hears_samples:
            return -(-self.states(frames) // STATES_PER_TOKEN)
        return -(-frames // FRAMES_PER_TOKEN)


class Processor:
    """Reads the audio columns of a row; several columns share one front end and keep their places."""

    def __init__(self, config: Config, columns: Sequence[str]) -> None:
        self.config, self.columns = config, tuple(columns)
        self.files = DecodedFiles()

    def __getstate__(self) -> dict[str, Any]:
        """Copies, also those for worker processes, remember no file."""
        return self.__dict__ | {"files": DecodedFiles()}

    @classmethod
    def fit(cls, config: Config, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        return cls(config, columns)

    def load(self, sample: Sample) -> Features | None:
        """`input_features` float32[F, bins], recordings one after another, one bin where the encoder reads samples;
        `recorded`, how many of each, `frames`, how many are heard, `silence`, how many of these come before the
        recording and behind it, and `place`, all int64[K] but silence int64[K, 2]."""
        parts = files_in(sample.values, self.columns)
        if not parts:
            return None
        found = [self._read(value, sample.root) for _, value in parts]
        lengths = np.array([len(one) for one in found])
        return {
            "input_features": np.concatenate(found),
            "recorded": lengths,
            "frames": lengths,
            "silence": np.zeros((len(found), 2), dtype=np.int64),
            "place": np.array([place for place, _ in parts]),
        }

    def _read(self, value: Any, root: Path | None) -> np.ndarray:
        most = self.config.max_seconds
        if isinstance(value, dict) and value.get("array") is not None:
            return self._frames(from_array(value["array"], value.get("sampling_rate"), most))
        value = media_of(value)
        if isinstance(value, bytes):
            return self._frames(decode(value, most))
        if not isinstance(value, str | Path):
            raise InputError(
                "a sound expected (a path, encoded bytes, or {'array': float[N], 'sampling_rate': Hz}), found "
                f"{type(value).__name__}"
            )
        return self.files.read(str(value), root, MAX_FILE_BYTES, lambda data: self._frames(decode(data, most)))

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        most, backbone = self.config.most_tokens * FRAMES_PER_TOKEN, self.config.backbone
        if not backbone:
            frames = log_mel(evened(samples))[:most]
            frames = np.maximum(frames, frames.max() - RANGE)
            return np.asarray((frames - frames.mean()) / (frames.std() + 1e-3))
        if not self.config.hears_samples:
            return whisper_mel(samples, backbone["num_mel_bins"])[:most]
        samples = samples[: most * RATE_HZ // FRAMES_PER_SECOND]
        if backbone["fusebert_normalise"]:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return np.pad(samples, (0, max(0, SHORTEST_SAMPLES - len(samples))))[:, None]

    @property
    def varies(self) -> bool:
        """Whether training changes recordings."""
        return self.config.augment

    def vary(self, features: Features, random: np.random.Generator) -> Features:
        """Each recording with a length of its own, and silence around it, none so long that its end would be cut off;
        the embedder stretches it, and changes the rest."""
        most, recorded = self.config.most_tokens * FRAMES_PER_TOKEN, features["recorded"]
        slowest, quickest = np.log(PACES)
        paces = np.exp(random.uniform(slowest, quickest, len(recorded)))
        played = np.rint(recorded / paces).astype(np.int64).clip(1, most)
        silence = random.integers(-3 * MOST_SILENCE, MOST_SILENCE, (len(recorded), 2), endpoint=True).clip(0)
        silence = np.where(played + silence.sum(1) <= most, silence.T, 0).T
        return {**features, "frames": played + silence.sum(1), "silence": silence}

    @staticmethod
    def content(value: Any, root: Path | None) -> list[str]:
        """What tells a sound from others: the bytes of its files, whatever they are called."""
        return contents_of(value, root)

    def length(self, features: Features) -> int:
        return int(self.config.tokens(features["frames"]).sum())

    def collate(self, rows: Sequence[Features]) -> Collated:
        """`input_features` float32[F, bins], recordings one after another; `recorded`, `frames`, `place` int64[R] and
        `silence` int64[R, 2] for all R recordings of the rows."""
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def save(self, folder: Path) -> None:
        write_json(folder / "processors" / "audio.json", {"columns": self.columns, "config": self.config.model_dump()})

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "processors" / "audio.json")
        return cls(Config(**saved["config"]), saved["columns"])


def evened(samples: np.ndarray) -> np.ndarray:
    """float32[N] around zero, with a peak of one. A recorder's constant voltage would be the loudest of a quiet
    recording, and hide what lies RANGE below it."""
    around_zero = samples - float(samples.mean(dtype=np.float64))
    return np.asarray(around_zero / max(float(np.abs(around_zero).max()), FAINTEST))


def matches(values: Sequence[Any]) -> Evidence | None:
    """A column of paths of sound files, or of encoded sound as in datasets; or of lists of them."""
    values = [file for value in values for file in files_of(value)]
    paths = [value for value in values if isinstance(value, str) and value.lower().endswith(SOUND_SUFFIXES)]
    if len(paths) > len(values) / 2:
        return Evidence(f"{len(paths)} of {len(values)} values end in a sound suffix", 0.99 * len(paths) / len(values))
    decoded = [value for value in values if isinstance(value, dict) and "sampling_rate" in value]
    if len(decoded) > len(values) / 2:
        return Evidence("decoded sound", 0.95 * len(decoded) / len(values))
    encoded = encoded_media(values)
    if encoded and are_sounds(encoded):
        return Evidence("encoded sound", 0.95)
    return None
