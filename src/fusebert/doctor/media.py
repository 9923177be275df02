"""Pictures and recordings: silent, clipped, of mixed rates, or nearly the same in two splits."""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from fusebert.doctor.finding import Finding, Splits
from fusebert.doctor.similar import most_similar
from fusebert.errors import InputError
from fusebert.modalities.audio.signal import MAX_FILE_BYTES, channels, from_array, library, log_mel
from fusebert.modalities.audio.signal import decode as decode_sound
from fusebert.modalities.base import media_path
from fusebert.modalities.files import files_of, media_of
from fusebert.modalities.image.processor import decode as decode_picture
from fusebert.types import Sample

SILENT_PEAK = 1e-3
"""-60 dB of full scale."""
FLAT_SHARE, FLAT_RUN, FLAT_SECONDS, LEAST_PEAK = 0.999, 4, 3.2e-4, 0.1
"""Clipped: so many samples in a row, and for so long, stand within a thousandth of the peak, which is no rustle (a
clean tone of 50 Hz stands there for 0.28 ms) ..."""
CLIPPED_SHARE = 5e-4
"""... and so great a share of all samples does so."""
MOST_SECONDS = 600.0
PICTURE_PIXELS, PICTURE_HASH, PICTURE_COSINE = 64, 16, 0.8
"""Perceptual hashes of 16 x 16 bits so similar (25 bits may differ) are of one drawing ..."""
COLOUR_CELLS, MOST_APART = 16, 50
"""... and of one picture where no mean colour of 16 x 16 cells differs by more, of 255. Copies (JPEG at 50, half the
size, a fifth brighter) differ by up to 44, drawings of which one thing has another colour or place by 61 and more."""
SOUND_BANDS, SOUND_SPANS = 40, 64
SOUND_FLOOR, SOUND_COSINE = 0.1, 0.85
"""Changes of spectrograms so similar are of one recording. Of 2,700 spoken digits of six people, of noises, hums and
birds, the most similar two had 0.79; copies of the digits as ogg, mp3 or at 8 kHz at least 0.94."""
PLAIN_DEVIATION = 2.0
"""Of grey levels in 0..255; a plainer picture has no fingerprint of its own."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What the doctor needs to know of one."""

    sample: Sample
    rate: int
    peak: float
    channel_peak: float
    clipped: float
    changes: np.ndarray


@dataclass(frozen=True, slots=True)
class Picture:
    """What the doctor needs to know of one: float16[PICTURE_HASH^2] of length one, int16[3, 16, 16]."""

    sample: Sample
    fingerprint: np.ndarray
    colours: np.ndarray


Seen = TypeVar("Seen")


def examine_sounds(splits: Splits, column: str) -> Iterator[Finding]:
    """Silent and clipped recordings, rarer sampling rates, and copies across splits."""
    heard = {name: list(_each(_listen, rows, column)) for name, rows in splits.items()}
    every = [one for found in heard.values() for one in found]
    silent = [one for one in every if one.peak < SILENT_PEAK]
    if silent:
        undone = sum(one.peak < SILENT_PEAK <= one.channel_peak for one in every)
        why = f"; channels of {undone} of them take each other away" if undone else ""
        yield Finding("silent sound", column, f"{len(silent)} recordings hold nothing above -60 dB{why}", _rows(silent))
    clipped = [one for one in every if one.clipped > CLIPPED_SHARE and one.peak >= SILENT_PEAK]
    if clipped:
        yield Finding("clipped sound", column, f"{len(clipped)} recordings are cut off at their peaks", _rows(clipped))
    rates = Counter(one.rate for one in every)
    if len(rates) > 1:
        usual = rates.most_common(1)[0][0]
        rarer = _rows(one for one in every if one.rate != usual)
        listed = ", ".join(f"{rate:,} Hz ({count:,})" for rate, count in rates.most_common())
        yield Finding("mixed rates", column, f"recordings are of {listed}; what a rate tells may be learnt", rarer)
    loud = {name: [one for one in found if one.peak >= SILENT_PEAK] for name, found in heard.items()}
    (_, trained), *others = loud.items()
    for name, found in others:
        twins = most_similar([one.changes for one in trained], [one.changes for one in found], SOUND_COSINE)
        pairs = [(one.sample, trained[n].sample) for one, n in zip(found, twins, strict=True) if n is not None]
        yield from _copies(name, column, "recording", pairs)


def examine_pictures(splits: Splits, column: str) -> Iterator[Finding]:
    """Pictures of one split that are nearly one of the training rows."""
    if len(splits) == 1:
        return
    seen = {name: list(_each(_look, rows, column)) for name, rows in splits.items()}
    (_, trained), *others = seen.items()
    for name, found in others:
        twins = most_similar(
            [one.fingerprint for one in trained],
            [one.fingerprint for one in found],
            PICTURE_COSINE,
            partial(_same_colours, trained, found),
        )
        pairs = [(one.sample, trained[n].sample) for one, n in zip(found, twins, strict=True) if n is not None]
        yield from _copies(name, column, "picture", pairs)


def _same_colours(trained: list[Picture], found: list[Picture], one: int, others: np.ndarray) -> np.ndarray:
    """bool[N]: which of the trained ones have nowhere another colour than one of the found."""
    theirs = np.stack([trained[n].colours for n in others])
    apart: np.ndarray = np.abs(theirs - found[one].colours).max(axis=(1, 2, 3))
    return apart <= MOST_APART


def _copies(name: str, column: str, kind: str, pairs: list[tuple[Sample, Sample]]) -> Iterator[Finding]:
    if not pairs:
        return
    row, twin = pairs[0]
    rows = tuple({id(row): row for row, _ in pairs}.values())
    said = (
        f"{len(rows)} rows of {name} have a {kind} that is nearly one of the training rows, such as row "
        f"{row.row} that of training row {twin.row}; scores on them say too much"
    )
    yield Finding(f"near-duplicate {kind}", column, said, rows)


def _rows(found: Iterable[Recording]) -> tuple[Sample, ...]:
    """Each once; a cell may hold several recordings."""
    return tuple({id(one.sample): one.sample for one in found}.values())


def _each(examine: Callable[[Sample, Any], Seen | None], rows: Iterable[Sample], column: str) -> Iterator[Seen]:
    """What is seen, or heard, of each file in a column."""
    for row in rows:
        for file in files_of(row.values.get(column)):
            if (found := examine(row, file)) is not None:
                yield found


def _listen(sample: Sample, value: Any) -> Recording | None:
    try:
        if isinstance(value, dict) and value.get("bytes") is None and value.get("array") is not None:
            mono = from_array(value["array"], value.get("sampling_rate"), MOST_SECONDS)
            samples, rate = channels(value["array"]).T, value["sampling_rate"]
        elif (data := _bytes(value, sample)) is not None:
            mono = decode_sound(data, MOST_SECONDS)
            sound = io.BytesIO(data)  # bounded by the line above
            samples, rate = library("soundfile").read(sound, dtype="float32", always_2d=True)
        else:
            return None
    except InputError:  # such rows are reported as unusable
        return None
    peak, channel_peak = (float(np.abs(one - one.mean(axis=0)).max()) for one in (mono, samples))  # no constant voltage
    return Recording(sample, int(rate), peak, channel_peak, _clipped(samples, int(rate)), _changes(mono))


def _clipped(samples: np.ndarray, rate: int) -> float:
    """Share of float[N, channels] samples that stand in a flat top."""
    peak, run = float(np.abs(samples).max()), max(FLAT_RUN, math.ceil(FLAT_SECONDS * rate))
    if peak < LEAST_PEAK or len(samples) < run:
        return 0.0
    flat = np.abs(samples) >= FLAT_SHARE * peak
    starts = np.lib.stride_tricks.sliding_window_view(flat, run, axis=0).all(axis=-1)
    starts = np.pad(starts, ((run - 1, run - 1), (0, 0)))
    inside = np.lib.stride_tricks.sliding_window_view(starts, run, axis=0).any(axis=-1)
    return float(inside.mean())


def _changes(samples: np.ndarray) -> np.ndarray:
    """float16[(SOUND_SPANS - 1) * SOUND_BANDS] of a whole recording, of length one, whatever its length and loudness.

    How each band changes, beside the others: what stays (a hum, a microphone, a constant voltage) and what all bands do
    at once (words begin and end) are alike in different recordings.
    """
    power = np.exp(log_mel(samples - float(samples.mean(dtype=np.float64))))
    mels = np.log(power + SOUND_FLOOR * power.mean())
    frames = np.linspace(0, len(mels), SOUND_SPANS + 1).astype(int)
    spans = np.stack([mels[a : max(b, a + 1)].mean(axis=0) for a, b in pairwise(frames)])
    bands = np.stack([part.mean(axis=1) for part in np.array_split(spans, SOUND_BANDS, axis=1)], axis=1)
    changes = np.diff(bands, axis=0)
    changes = (changes - changes.mean(axis=1, keepdims=True)).ravel()
    return np.asarray(changes / max(float(np.linalg.norm(changes)), 1e-6), dtype=np.float16)


def _look(sample: Sample, value: Any) -> Picture | None:
    """None where there is no picture, or a plain one."""
    import imagehash

    value = media_of(value)
    try:
        data = _bytes(value, sample) if isinstance(value, str) else value
        pixels = decode_picture(data, PICTURE_PIXELS)
    except InputError:  # such rows are reported as unusable
        return None
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if np.asarray(picture.convert("L")).std() < PLAIN_DEVIATION:
        return None
    bits = np.asarray(imagehash.phash(picture, hash_size=PICTURE_HASH).hash, dtype=np.float16).ravel()
    side = PICTURE_PIXELS // COLOUR_CELLS
    cells = pixels.reshape(3, COLOUR_CELLS, side, COLOUR_CELLS, side).mean(axis=(2, 4))
    return Picture(sample, (2 * bits - 1) / PICTURE_HASH, cells.astype(np.int16))


def _bytes(value: Any, sample: Sample) -> bytes | None:
    """Of a media file, or as datasets holds them; None where there is none to read."""
    value = media_of(value)
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        return None
    try:
        path = media_path(value, sample.root)
        return path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else None
    except (InputError, OSError):
        return None
