"""A recording -> log-mel frames, evened out in loudness. Real files of common kinds, decoded within fixed bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fusebert.errors import InputError
from fusebert.modalities.audio.signal import FRAMES_PER_SECOND, MAX_FILE_BYTES, MEL_BINS, decode, from_array, log_mel
from fusebert.modalities.base import Collated, media_path, present
from fusebert.storage import read_json, write_json
from fusebert.types import Evidence, Features, Sample

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff")
FRAMES_PER_TOKEN = 4
"""25 tokens a second."""


class Config(BaseModel):
    """How recordings are read and turned into tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_seconds: float = Field(30.0, gt=0, le=600, description="longer recordings cannot be used")
    width: int = Field(128, ge=8, le=1024, description="channels of the convolutional front end")
    augment: bool = Field(
        False, description="in training, hide bands and spans (SpecAugment) and shift the pitch a little"
    )

    @property
    def most_tokens(self) -> int:
        """Tokens of the longest recording."""
        return int(-(-self.max_seconds * FRAMES_PER_SECOND // FRAMES_PER_TOKEN))


class Processor:
    """Reads the audio columns of a row; several columns share one front end and keep their places."""

    def __init__(self, config: Config, columns: Sequence[str]) -> None:
        self.config, self.columns = config, tuple(columns)

    @classmethod
    def fit(cls, config: Config, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        return cls(config, columns)

    def load(self, sample: Sample) -> Features | None:
        """`input_features` float32[F, MEL_BINS], recordings one after another; `frames`, `place` int64[K]."""
        parts = present(sample.values, self.columns)
        if not parts:
            return None
        found = [self._read(value, sample.root) for _, value in parts]
        return {
            "input_features": np.concatenate(found),
            "frames": np.array([len(one) for one in found]),
            "place": np.array([place for place, _ in parts]),
        }

    def _read(self, value: Any, root: Path | None) -> np.ndarray:
        if isinstance(value, dict) and value.get("array") is not None:
            samples = from_array(value["array"], value.get("sampling_rate"), self.config.max_seconds)
        else:
            samples = decode(self._bytes(value, root), self.config.max_seconds)
        frames = log_mel(samples)[: self.config.most_tokens * FRAMES_PER_TOKEN]
        return np.asarray((frames - frames.mean()) / (frames.std() + 1e-3))

    def _bytes(self, value: Any, root: Path | None) -> bytes:
        if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            return bytes(value["bytes"])
        if isinstance(value, bytes):
            return value
        if not isinstance(value, str | Path):
            raise InputError(f"the path of a sound file expected, found {type(value).__name__}")
        path = media_path(str(value), root)
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise InputError(f"{value!r} has more than {MAX_FILE_BYTES >> 20} MiB")
            return path.read_bytes()
        except OSError as error:
            raise InputError(f"{value!r} cannot be read: {error.strerror}") from None

    def length(self, features: Features) -> int:
        return int((-(-features["frames"] // FRAMES_PER_TOKEN)).sum())

    def collate(self, rows: Sequence[Features]) -> Collated:
        """`input_features` float32[R, longest, MEL_BINS], each recording's end filled with zeros; `frames`, `place`
        int64[R] for all R recordings of the rows."""
        frames = np.concatenate([row["frames"] for row in rows])
        padded = np.zeros((len(frames), int(frames.max()), MEL_BINS), dtype=np.float32)
        recordings = (one for row in rows for one in np.split(row["input_features"], np.cumsum(row["frames"])[:-1]))
        for number, recording in enumerate(recordings):
            padded[number, : len(recording)] = recording
        return {
            "input_features": padded,
            "frames": frames,
            "place": np.concatenate([row["place"] for row in rows]),
        }

    def save(self, folder: Path) -> None:
        write_json(folder / "processors" / "audio.json", {"columns": self.columns, "config": self.config.model_dump()})

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "processors" / "audio.json")
        return cls(Config(**saved["config"]), saved["columns"])


def matches(values: Sequence[Any]) -> Evidence | None:
    """A column of paths of sound files, or of encoded sound as in datasets."""
    paths = [value for value in values if isinstance(value, str) and value.lower().endswith(SUFFIXES)]
    if len(paths) > len(values) / 2:
        return Evidence(f"{len(paths)} of {len(values)} values end in a sound suffix", 0.99 * len(paths) / len(values))
    if all(isinstance(value, dict) and "sampling_rate" in value for value in values):
        return Evidence("decoded sound", 0.95)
    return None
