"""A sound file -> 16 kHz samples -> log-mel frames, within fixed bounds."""

from __future__ import annotations

import importlib
import io
import math
import re
from functools import cache
from typing import Any

import numpy as np
from scipy.fft import rfft

from fusebert.errors import InputError, UsageError, how_to_install

RATE_HZ = 16_000
WINDOW_SAMPLES, HOP_SAMPLES, FFT_SAMPLES = 400, 160, 512
"""25 ms and 10 ms."""
FRAMES_PER_SECOND = RATE_HZ // HOP_SAMPLES
MEL_BINS = 80
FLOOR = 1e-10
WHISPER_RANGE = 8
MAX_FILE_BYTES = 256 * 2**20
MAX_SAMPLES = 200_000_000
"""Over all channels: what is decoded at once takes four bytes each."""
KINDS = ("WAV", "WAVEX", "FLAC", "OGG", "MP3", "AIFF")
SAVE_AS = "save it as wav, flac, ogg, mp3 or aiff"
LOWEST_HZ, HIGHEST_HZ = 4_000, 192_000
MAX_CHANNELS = 32
WIDEST_SAMPLE = 4
"""Bytes of a sample in any file."""
SIXTEEN_BITS = 2.0**15
MOST_FRACTION = 8.0
"""Peak of samples as fractions of the loudest, with much room; beyond it they are whole numbers, as floats."""
LOUDEST = 2.0**32
"""Full scale of whole numbers of 32 bits; of fractions it is 1. The power of what is far louder has no number."""
OGG_HEADER_BYTES, OGG_LAST = 27, 4
MP3_COUNT, MP3_COUNT_WITHIN, MP3_SLACK = re.compile(b"Xing|Info"), 2**20, 2 * 1152
"""An mp3 says how many frames it has, if at all, in one of these, after pictures of its album; a decoder may leave out
two frames."""
BUFFER = re.compile("<_io.BytesIO object at 0x[0-9a-f]+>")
"""What the decoder calls a file that is in memory."""


def decode(data: bytes, max_seconds: float) -> np.ndarray:
    """A file's bytes -> float32[N] samples at RATE_HZ, all channels mixed.

    Raises:
        InputError: in words, for anything that is not a whole recording within bounds. The header is believed only as
            far as the bounds; samples are counted.
        UsageError: soundfile is not installed.
    """
    soundfile = library("soundfile")
    if not data:
        raise InputError("the file is empty")
    _check_whole(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if file.format not in KINDS:  # whether one of another kind is whole could not be told
                raise InputError(f"sound of the kind {file.format} is not read; {SAVE_AS}")
            rate, channels, frames = int(file.samplerate), int(file.channels), int(file.frames)
            _check(rate, channels, frames, max_seconds)
            samples = file.read(dtype="float32", always_2d=True)
    except InputError:
        raise
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, MemoryError, OSError) as error:
        problem = " ".join(BUFFER.sub("it", str(error)).split())
        raise InputError(f"not a sound file that can be read: {problem.rstrip('.')}; {SAVE_AS}") from None
    if len(samples) == 0:
        raise InputError("the recording has no samples")
    if len(samples) + MP3_SLACK < frames and MP3_COUNT.search(data, 0, MP3_COUNT_WITHIN):
        raise InputError(f"the file is cut short: it has {len(samples):,} of {frames:,} samples")
    return to_rate(samples.mean(axis=1), rate)


def library(name: str) -> Any:
    """soundfile or soxr, of the extra `audio`. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(f"sound is read by {name}; {how_to_install('audio')}") from None


def from_array(values: Any, rate: Any, max_seconds: float) -> np.ndarray:
    """Decoded sound, [N], or [channels, N] as datasets gives it, or [N, channels], -> float32 samples at RATE_HZ.

    Raises:
        InputError: it is no sound within bounds.
    """
    try:
        samples, hertz = channels(values), int(rate)
    except (TypeError, ValueError, OverflowError):
        raise InputError("decoded sound needs numbers in `array` and a whole number in `sampling_rate`") from None
    if samples.ndim != 2 or samples.size == 0:
        raise InputError("the recording has no samples")
    _check(hertz, samples.shape[0], samples.shape[1], max_seconds)
    return to_rate(samples.mean(axis=0), hertz)


def channels(values: Any) -> np.ndarray:
    """float32[channels, N] of such decoded sound. Raises TypeError or ValueError for what are no numbers."""
    samples = np.atleast_2d(_fractions(values))
    is_turned = samples.ndim == 2 and samples.shape[1] <= MAX_CHANNELS < samples.shape[0]  # as soundfile and scipy have
    return samples.T if is_turned else samples


def _fractions(values: Any) -> np.ndarray:
    """Samples in float32; whole numbers (scipy reads a wav so) as fractions of the loudest, as files are read. Their
    width says what that is; wider ones, lists, and whole numbers as floats have 16 bits or 32. Raises TypeError or
    ValueError for what are no numbers."""
    given = np.asarray(values)
    samples = given.astype(np.float32)
    peak = np.abs(samples).max(initial=0)
    if given.dtype.kind not in "iu":
        if not MOST_FRACTION < peak < np.inf:
            return samples
        return samples / np.float32(SIXTEEN_BITS if peak < 2 * SIXTEEN_BITS else 2.0 ** (8 * WIDEST_SAMPLE - 1))
    half = 2.0 ** (8 * min(given.dtype.itemsize, WIDEST_SAMPLE) - 1)
    if given.dtype.itemsize > WIDEST_SAMPLE and peak <= 1:
        return samples
    if given.dtype.itemsize >= WIDEST_SAMPLE and given.dtype.kind == "i" and peak < SIXTEEN_BITS:
        half = SIXTEEN_BITS
    offset = given.dtype.kind == "u" and given.dtype.itemsize <= WIDEST_SAMPLE
    return np.asarray(samples / half - offset, dtype=np.float32)


def _check_whole(data: bytes) -> None:
    """What was cut short is decoded as far as it goes; so a wav or aiff is asked for its own size, and an ogg for its
    last page.

    A recorder that writes to a pipe does not know the size, and gives one larger than any file read here.
    """
    if data[:4] == b"OggS" and not _ends(data[data.rindex(b"OggS") :]):
        raise InputError("the file is cut short: its last page is missing")
    if data[:4] not in (b"RIFF", b"FORM"):
        return
    told = int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big") + 8
    if len(data) + 8 < told <= MAX_FILE_BYTES:  # some count the first 8 bytes, or leave out one that makes it even
        raise InputError(f"the file is cut short: it has {len(data):,} of {told:,} bytes")


def _ends(page: bytes) -> bool:
    """Whether it is a whole page of an ogg, and the last one (RFC 3533, 6)."""
    if len(page) < OGG_HEADER_BYTES or len(page) < OGG_HEADER_BYTES + page[OGG_HEADER_BYTES - 1]:
        return False
    segments = page[OGG_HEADER_BYTES : OGG_HEADER_BYTES + page[OGG_HEADER_BYTES - 1]]
    return bool(page[5] & OGG_LAST) and len(page) >= OGG_HEADER_BYTES + len(segments) + sum(segments)


def _check(rate: int, channels: int, frames: int, max_seconds: float) -> None:
    if not LOWEST_HZ <= rate <= HIGHEST_HZ:
        raise InputError(f"the recording has {rate:,} samples a second; {LOWEST_HZ:,} to {HIGHEST_HZ:,} are read")
    if not 1 <= channels <= MAX_CHANNELS:
        raise InputError(f"the recording has {channels} channels; at most {MAX_CHANNELS} are read")
    if frames > max_seconds * rate:
        raise InputError(
            f"the recording takes {frames / rate:,.1f} s; at most {max_seconds:g} s are read (audio.max_seconds)"
        )
    if frames * channels > MAX_SAMPLES:
        raise InputError(f"the recording has {frames * channels:,} samples; at most {MAX_SAMPLES:,} are read")


def to_rate(samples: np.ndarray, rate: int) -> np.ndarray:
    """float[N] at `rate` Hz -> float32 at RATE_HZ. Raises InputError for samples that are no numbers, no sound, or too
    few."""
    samples = np.asarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise InputError("the recording holds samples that are not finite numbers")
    if (peak := float(np.abs(samples).max(initial=0))) > LOUDEST:
        raise InputError(f"the recording is damaged: it has a sample of {peak:.2g}, where full scale is 1")
    if rate == RATE_HZ:
        return samples
    resampled = library("soxr").resample(samples, rate, RATE_HZ)
    if len(samples) and not len(resampled):
        raise InputError(f"the recording has {len(samples)} samples at {rate:,} Hz, too few to be heard")
    return np.asarray(resampled, dtype=np.float32)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """float32[N] samples -> float32[F, MEL_BINS], one frame each 10 ms, F = ceil(N / HOP_SAMPLES).

    Hann windows of 25 ms centred on each hop, power spectrum, triangular filters on the HTK mel scale, natural log.
    """
    count = max(1, math.ceil(len(samples) / HOP_SAMPLES))
    needed = (count - 1) * HOP_SAMPLES + WINDOW_SAMPLES
    padded = np.zeros(needed, dtype=np.float32)
    before = WINDOW_SAMPLES // 2
    kept = samples[: needed - before]
    padded[before : before + len(kept)] = kept
    return np.asarray(np.log(np.maximum(_power(padded, FFT_SAMPLES) @ mel_filters(), FLOOR)), dtype=np.float32)


def whisper_mel(samples: np.ndarray, bins: int) -> np.ndarray:
    """float32[N] samples -> float32[F, bins] as Whisper reads them (Radford et al. 2022), F = ceil(N / HOP_SAMPLES).

    Mirrored at the start, silent after the end; log10 power on the Slaney mel scale, at most 8 below the loudest.
    """
    count = max(1, math.ceil(len(samples) / HOP_SAMPLES))
    mirrored = WINDOW_SAMPLES // 2
    heard = np.pad(samples, (0, max(0, mirrored + 1 - len(samples))))
    before = np.pad(heard, (mirrored, 0), mode="reflect")
    padded = np.zeros((count - 1) * HOP_SAMPLES + WINDOW_SAMPLES, dtype=np.float32)
    padded[: len(before)] = before[: len(padded)]
    found = np.log10(np.maximum(_power(padded, WINDOW_SAMPLES) @ slaney_filters(bins), FLOOR))
    return np.asarray((np.maximum(found, found.max() - WHISPER_RANGE) + 4) / 4, dtype=np.float32)


def _power(padded: np.ndarray, size: int) -> np.ndarray:
    """float[F, size / 2 + 1], of a window each HOP_SAMPLES."""
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::HOP_SAMPLES]
    spectrum = rfft(frames * _window(), size, axis=1)
    return np.asarray(spectrum.real**2 + spectrum.imag**2)


@cache
def _window() -> np.ndarray:
    return np.asarray(np.hanning(WINDOW_SAMPLES + 1)[:-1], dtype=np.float32)


@cache
def mel_filters() -> np.ndarray:
    """float32[FFT_SAMPLES / 2 + 1, MEL_BINS]: triangles whose corners are even on the HTK mel scale, 0 to 8,000 Hz."""
    mels = np.linspace(0, _mel(RATE_HZ / 2), MEL_BINS + 2)
    corners = 700 * (10 ** (mels / 2595) - 1)
    return np.asarray(_triangles(corners, FFT_SAMPLES), dtype=np.float32)


@cache
def slaney_filters(bins: int) -> np.ndarray:
    """float32[WINDOW_SAMPLES / 2 + 1, bins]: triangles of equal area, even up to 1,000 Hz and then by their logarithms
    (Slaney 1998)."""
    step = math.log(6.4) / 27
    mels = np.linspace(0, 15 + math.log(RATE_HZ / 2 / 1000) / step, bins + 2)
    corners = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * step))
    triangles = _triangles(corners, WINDOW_SAMPLES) * 2 / (corners[2:] - corners[:-2])
    return np.asarray(triangles, dtype=np.float32)


def _triangles(corners: np.ndarray, size: int) -> np.ndarray:
    """float[size / 2 + 1, bins] between neighbouring corners in Hz."""
    frequencies = np.linspace(0, RATE_HZ / 2, size // 2 + 1)[:, None]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    triangles = np.minimum((frequencies - low) / (middle - low), (high - frequencies) / (high - middle))
    return np.asarray(np.maximum(triangles, 0))


def _mel(frequency_hz: float) -> float:
    return 2595 * math.log10(1 + frequency_hz / 700)
