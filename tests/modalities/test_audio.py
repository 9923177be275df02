"""Sound files of every common kind, bounded and exact, and what is no recording."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from fusebert.errors import InputError, UsageError
from fusebert.modalities.audio.augment import COLOUR, frequency_responses, perturb, warp
from fusebert.modalities.audio.embedder import Embedder
from fusebert.modalities.audio.processor import MOST_SILENCE, PACES, Config, Processor, matches
from fusebert.modalities.audio.signal import MEL_BINS, RATE_HZ, decode, from_array, log_mel, to_rate
from fusebert.model.trunk import TrunkConfig
from fusebert.types import Sample


def tone(seconds: float = 0.5, rate: int = RATE_HZ, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int = RATE_HZ, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def test_log_mel_is_that_of_transformers(random: np.random.Generator) -> None:
    samples = random.normal(size=RATE_HZ).astype(np.float32)
    filters = mel_filter_bank(257, 80, 0.0, 8000.0, RATE_HZ, norm=None, mel_scale="htk")
    wanted = spectrogram(
        samples,
        window_function(400, "hann"),
        400,
        160,
        512,
        power=2.0,
        center=True,
        pad_mode="constant",
        mel_filters=filters,
        log_mel="log",
    ).T
    found = log_mel(samples)
    assert found.shape == (100, 80)
    np.testing.assert_allclose(found, wanted[:100], atol=2e-3)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats(kind: str) -> None:
    found = decode(encoded(tone(), kind=kind), 10)
    assert abs(len(found) - RATE_HZ / 2) < 0.15 * RATE_HZ
    middle = found[2000:6000]
    peak = np.abs(np.fft.rfft(middle * np.hanning(4000))).argmax() * RATE_HZ / 4000
    assert peak == pytest.approx(440, abs=8)


@pytest.mark.parametrize("kind", ["AU", "W64", "RF64", "CAF"])
def test_kinds_that_may_be_cut_short_unnoticed_are_not_read(kind: str) -> None:
    with pytest.raises(InputError, match=f"of the kind {kind} is not read; save it as wav"):
        decode(encoded(tone(), kind=kind), 10)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_rates(rate: int) -> None:
    found = decode(encoded(tone(rate=rate), rate), 10)
    assert abs(len(found) - 8000) <= 2
    np.testing.assert_allclose(found[1000:7000], tone()[1000:7000], atol=0.02)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
def test_sample_types(subtype: str) -> None:
    np.testing.assert_allclose(decode(encoded(tone(), subtype=subtype), 10), tone(), atol=0.03)


def test_channels_are_mixed() -> None:
    both = np.stack([tone(), np.zeros_like(tone())], axis=1)
    np.testing.assert_allclose(decode(encoded(both), 10), tone() / 2, atol=1e-3)


WHOLE = encoded(tone())
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"hello, I am not a sound", "not a sound"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a sound"),
    "header only": (WHOLE[:20], "cut short: it has 20 of"),
    "half an aiff": (encoded(tone(), kind="AIFF")[:8000], "cut short: it has 8,000 of"),
    "no samples": (encoded(np.zeros(0, np.float32)), "no samples"),
    "too long": (encoded(np.zeros(11 * 4000, np.float32), 4000), "11.0 s; at most 10 s"),
    "rate of 1": (encoded(np.zeros(10, np.float32), 1), "1 samples a second"),
    "not numbers": (encoded(np.full(800, np.nan, np.float32), subtype="FLOAT"), "finite"),
    "100 channels": (encoded(np.zeros((100, 100), np.float32)), "100 channels"),
    "a FLAC that claims hours": (b"fLaC" + bytes(34), "not a sound"),
}


@pytest.mark.parametrize("told", [0, 0x7FFFFFFF, 0xFFFFFFFF, len(WHOLE) - 7, len(WHOLE)])
def test_a_size_that_a_recorder_could_not_know_is_not_believed(told: int) -> None:
    data = WHOLE[:4] + told.to_bytes(4, "little") + WHOLE[8:]
    assert np.array_equal(decode(data, 10), decode(WHOLE, 10))


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_recording_is_said(name: str) -> None:
    data, words = BAD[name]
    with pytest.raises(InputError, match=words):
        decode(data, 10)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_damaged_files_give_sound_or_a_sentence(kind: str, random: np.random.Generator) -> None:
    whole = encoded(tone(0.3), kind=kind)
    for _ in range(20):
        data = bytearray(whole)
        if random.random() < 0.3:
            data = data[: random.integers(1, len(data))]
        else:
            for _ in range(3):
                data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        try:
            found = decode(bytes(data), 10)
        except InputError:
            continue
        assert np.isfinite(found).all()


def row(**values: Any) -> Sample:
    return Sample(Path("rows.jsonl"), 1, values, None)


def test_several_recordings_and_decoded_arrays() -> None:
    processor = Processor(Config(), ["question", "answer"])
    found = processor.load(row(question=WHOLE, answer={"array": tone(0.2, 8000), "sampling_rate": 8000}))
    assert found is not None
    assert found["frames"].tolist() == [50, 20]
    assert processor.length(found) == 13 + 5
    assert found["place"].tolist() == [0, 1]
    assert abs(found["input_features"][:50].mean()) < 1e-4
    for bad in ({"array": [0.0] * 9, "sampling_rate": 1}, {"array": ["x"], "sampling_rate": 8000}, {"array": [0.1]}):
        with pytest.raises(InputError):
            processor.load(row(question=bad))
    with pytest.raises(InputError, match="a sound expected"):
        processor.load(row(question=5))


def test_what_fills_up_a_batch_changes_nothing() -> None:
    torch.manual_seed(0)
    processor = Processor(Config(width=16), ["sound"])
    embedder = Embedder(processor.config, 1, TrunkConfig.of_size("tiny", 5)).eval()
    rows = [processor.load(row(sound=encoded(tone(seconds)))) for seconds in (0.11, 0.5, 0.23, 4.0)]

    def tokens(some: list[Any]) -> torch.Tensor:
        batch = {name: torch.from_numpy(array) for name, array in processor.collate(some).items()}
        return embedder(batch, embedder)  # type: ignore[no-any-return]

    together, alone = tokens(rows), torch.cat([tokens([one]) for one in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("augment", [False, True])
def test_short_recordings_are_not_filled_up_to_a_long_one(augment: bool) -> None:
    processor = Processor(Config(augment=augment), ["question", "answer"])
    embedder = Embedder(processor.config, 2, TrunkConfig.of_size("tiny", 5)).train()
    heard: list[int] = []
    embedder.encoder.register_forward_pre_hook(lambda _, given: heard.append(given[0].shape[0] * given[0].shape[1]))
    sounds = [{"array": tone(seconds), "sampling_rate": RATE_HZ} for seconds in (0.2, 20.0, 0.3, 0.25, 0.2, 0.3)]
    random = np.random.default_rng(0)
    rows = [processor.load(row(question=one, answer=two)) for one, two in zip(sounds[::2], sounds[1::2], strict=True)]
    varied = [processor.vary(one, random) if augment else one for one in rows if one is not None]
    batch = {name: torch.from_numpy(array) for name, array in processor.collate(varied).items()}
    found = embedder(batch, embedder)
    assert len(found) == sum(map(processor.length, varied))
    real = torch.maximum(batch["recorded"], batch["frames"]).sum()
    assert sum(heard) < 2 * real  # 10 times as much, were all as long as the longest


def test_augmentation_hides_some_and_moves_little() -> None:
    torch.manual_seed(0)
    frames = torch.tensor([40, 25] * 32)
    inside = torch.arange(40) < frames[:, None]
    bump = torch.exp(-((torch.arange(80) - 40) ** 2) / 200) * torch.exp(-((torch.arange(40)[:, None] - 12) ** 2) / 50)
    mels = 4 * bump * inside[:, :, None]
    found = perturb(mels, frames, frames, torch.zeros(64, 2, dtype=torch.int64))
    assert found.shape == mels.shape
    assert (found[~inside] == 0).all()
    hidden = (found[inside] == 0).float().mean()
    assert 0.05 < hidden < 0.5
    peaks = found.amax(dim=1).argmax(dim=1).float()  # the loudest bin, unless it is hidden
    assert 2 < peaks.std() < 12
    assert abs(peaks.mean() - 40) < 4


def test_another_microphone_changes_all_frames_of_a_recording_alike() -> None:
    torch.manual_seed(0)
    added = frequency_responses(500, 80, torch.device("cpu"))
    assert added.shape == (500, 1, 80)
    assert abs(added.mean()) < 0.1
    assert 0.5 * COLOUR < added.std() < 2 * COLOUR
    assert (added.diff(dim=2).abs().mean() < added.std() / 5).item()  # smooth


def test_recordings_to_learn_from_have_another_pace_each_time() -> None:
    rows = [row(question=encoded(tone(1.0)), answer=encoded(tone(0.4)))]
    processor = Processor(Config(augment=True), ["question", "answer"])
    features = processor.load(rows[0])
    assert features is not None
    random = np.random.default_rng(0)
    varied = [processor.vary(features, random) for _ in range(100)]
    shares = np.array([one["frames"] - one["silence"].sum(1) for one in varied]) / features["frames"]
    slowest, fastest = PACES
    assert (shares > 1 / fastest - 0.03).all()
    assert (shares < 1 / slowest + 0.03).all()
    assert shares.min() < 0.85
    assert shares.max() > 1.2
    assert len(set(shares[:, 0] > shares[:, 1])) == 2  # each by itself
    one = varied[0]
    assert len(one["input_features"]) == one["recorded"].sum()
    assert processor.collate([one])["input_features"].shape == (one["recorded"].sum(), MEL_BINS)
    left = Processor(Config(), ["question", "answer"])
    assert processor.varies
    assert not left.varies


def test_recordings_to_learn_from_have_silence_around_them() -> None:
    processor, random = Processor(Config(augment=True), ["sound"]), np.random.default_rng(0)
    features = processor.load(row(sound=encoded(tone(0.4))))
    assert features is not None
    silence = np.concatenate([processor.vary(features, random)["silence"] for _ in range(400)])
    assert silence.min() == 0
    assert silence.max() == MOST_SILENCE
    assert 0.7 < (silence == 0).mean() < 0.8
    assert abs(np.corrcoef(silence.T)[0, 1]) < 0.2  # before and behind, each by itself


def test_silence_lies_around_the_whole_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr("fusebert.modalities.audio.augment.NOISES", (-20.0, -20.0))
    monkeypatch.setattr("fusebert.modalities.audio.augment.SPAN_SHARE", 0.0)
    monkeypatch.setattr("fusebert.modalities.audio.augment.BAND_BINS", 0)
    monkeypatch.setattr("fusebert.modalities.audio.augment.COLOUR", 0.0)
    mels = F.pad(torch.randn(3, 20, 80) + 3, (0, 0, 0, 20))
    recorded, frames, silence = (
        torch.tensor([20, 20, 20]),
        torch.tensor([20, 30, 40]),
        torch.tensor([[0, 0], [7, 3], [0, 20]]),
    )
    found = perturb(mels, recorded, frames, silence)
    for one, count, (before, behind) in zip(found, frames.tolist(), silence.tolist(), strict=True):
        around = torch.cat([one[:before], one[count - behind : count]])
        assert torch.allclose(around, one[:count].min(), atol=1e-3)
        assert (one[before : count - behind].std(dim=1) > 0.1).all()
        assert (one[count:] == 0).all()


def test_a_pace_leaves_room_for_the_whole_recording() -> None:
    sound = np.linspace(0, 1, 100, dtype=np.float32)[:, None]
    features = {name: np.array([count]) for name, count in (("recorded", 100), ("frames", 100), ("place", 0))}
    features |= {"input_features": sound, "silence": np.zeros((1, 2), dtype=np.int64)}
    processor, random = Processor(Config(augment=True, max_seconds=1.0), ["sound"]), np.random.default_rng(0)
    found = [processor.vary(features, random) for _ in range(20)]
    assert all(one["frames"][0] <= 100 for one in found)


def test_a_pace_keeps_ends_and_what_lies_between() -> None:
    recorded, frames = torch.tensor([41, 41, 41, 20, 1, 1]), torch.tensor([82, 51, 20, 41, 1, 2])
    mels = torch.full((6, 82, 3), 9.0)  # of what fills up a batch, nothing is heard
    for one, count in zip(mels, recorded.tolist(), strict=True):
        one[:count] = torch.linspace(0, 1, count)[:, None]
    silence = torch.zeros(6, 2, dtype=torch.int64)
    found = warp(mels, recorded, frames, silence, torch.arange(3.0).expand(6, 3))
    for one, count in zip(found[:4], frames.tolist(), strict=False):
        torch.testing.assert_close(one[:count], torch.linspace(0, 1, count)[:, None].expand(-1, 3), rtol=0, atol=1e-5)
    assert (found[4, 0] == 0).all()
    assert (found[5, :2] == 0).all()


def test_silence_is_silence_however_quiet() -> None:
    """Features of a tone followed by nothing at all, and by what nobody hears, are much alike."""
    processor, still = Processor(Config(), ["sound"]), np.zeros(RATE_HZ // 2, dtype=np.float32)
    noise = 1e-5 * np.random.default_rng(0).standard_normal(len(still)).astype(np.float32)
    nothing, little = (
        processor.load(row(sound={"array": np.concatenate([tone(), end]), "sampling_rate": RATE_HZ}))
        for end in (still, noise)
    )
    assert nothing is not None
    assert little is not None
    np.testing.assert_allclose(nothing["input_features"], little["input_features"], atol=0.05)


def test_a_constant_voltage_and_the_gain_are_not_heard(random: np.random.Generator) -> None:
    processor = Processor(Config(), ["sound"])
    sound = tone(1.0) * np.repeat(random.uniform(0.01, 1, 10), RATE_HZ // 10) + 0.001 * random.normal(size=RATE_HZ)
    given = (sound, 0.05 * sound + 0.3, 0.0001 * sound)
    found = [processor.load(row(sound={"array": one, "sampling_rate": RATE_HZ})) for one in given]
    first, voltage, quiet = (one["input_features"] for one in found if one is not None)
    np.testing.assert_allclose(voltage, first, atol=0.02)
    np.testing.assert_allclose(quiet, first, atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_silence_has_no_features(level: float) -> None:
    found = Processor(Config(), ["sound"]).load(row(sound={"array": np.full(9000, level), "sampling_rate": RATE_HZ}))
    assert found is not None
    assert np.abs(found["input_features"]).max() < 0.01


def test_without_its_libraries_sound_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UsageError, match=r"soundfile; .*\[audio\]"):
        decode(b"RIFF", 10)
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(UsageError, match=r"soxr; .*\[audio\]"):
        to_rate(np.zeros(8), 8_000)


def test_a_sample_far_beyond_full_scale_is_damage() -> None:
    samples = tone()
    samples[100] = 1e38
    with pytest.raises(InputError, match="damaged: it has a sample of 1e\\+38"):
        decode(encoded(samples, subtype="FLOAT"), 10)
    samples[100] = 2.0**31  # arrays of whole numbers
    assert np.isfinite(log_mel(decode(encoded(samples, subtype="FLOAT"), 10))).all()


@pytest.mark.parametrize("suffix", ["wav", "WAV", "m4a", "wma", "amr"])
def test_recordings_that_cannot_be_read_are_not_passed_over(suffix: str) -> None:
    found = matches([f"one.{suffix}", f"two.{suffix}"])
    assert found is not None
    assert "sound suffix" in found.why
    with pytest.raises(InputError, match=r"not a sound file .*; save it as wav, flac"):
        decode(b"\0\0\0\x20ftypM4A " + bytes(3000), 10)


def test_decoded_sound_is_recognised_though_a_row_is_broken() -> None:
    good = {"array": [0.0, 0.1], "sampling_rate": 16_000}
    found = matches([good, good, {"array": [0.0]}])
    assert found is not None
    assert found.why == "decoded sound"
    assert matches([good, {"a": 1}]) is None


def test_a_sound_of_one_sample_is_too_short() -> None:
    with pytest.raises(InputError, match="1 samples at 48,000 Hz"):
        decode(encoded(np.ones(1, dtype=np.float32) * 0.5, 48_000), 30)


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint8])
def test_an_array_of_whole_numbers_is_as_loud_as_its_file(kind: type) -> None:
    """scipy.io.wavfile gives samples so."""
    wave = np.sin(np.arange(1600) / 9) * 0.5
    half = 2.0 ** (8 * np.dtype(kind).itemsize - 1)
    given = np.round(wave * half + (half if kind is np.uint8 else 0)).astype(kind)
    np.testing.assert_allclose(from_array(given, RATE_HZ, 1.0), wave, atol=1.0 / half + 1e-6)


def test_wider_arrays_of_whole_numbers_are_heard_too() -> None:
    """As pandas and lists give 16-bit samples."""
    wave = np.round(np.sin(np.arange(1600) / 9) * 16_000)
    as_16 = from_array(wave.astype(np.int16), RATE_HZ, 1.0)
    np.testing.assert_allclose(from_array(wave.astype(np.int32), RATE_HZ, 1.0), as_16, atol=1e-6)
    for wider in (wave.astype(np.int64), wave.astype(int).tolist(), [wave.astype(int).tolist()] * 2):
        np.testing.assert_allclose(from_array(wider, RATE_HZ, 1.0), as_16, atol=1e-6)
    of_32 = (wave * 2**16).astype(np.int64)
    np.testing.assert_allclose(from_array(of_32, RATE_HZ, 1.0), as_16, atol=1e-6)
    for floats in (wave, wave.astype(np.float32), wave * 0.999, wave.tolist()):
        np.testing.assert_allclose(from_array(floats, RATE_HZ, 1.0), as_16, atol=1e-3)
    np.testing.assert_allclose(from_array(wave * 2.0**16, RATE_HZ, 1.0), as_16, atol=1e-6)
    loud = wave / 8000  # beyond what a file holds, as effects may leave it
    np.testing.assert_allclose(from_array(loud, RATE_HZ, 1.0), loud, rtol=1e-6)
    square = [1, -1] * 800
    np.testing.assert_allclose(from_array(square, RATE_HZ, 1.0), square)


def test_channels_may_come_last() -> None:
    stereo = np.random.default_rng(0).normal(size=(2, 1600)).astype(np.float32)
    np.testing.assert_array_equal(from_array(stereo.T, RATE_HZ, 1.0), from_array(stereo, RATE_HZ, 1.0))
