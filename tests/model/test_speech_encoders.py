"""Speech encoders with the folders that transformers publishes: what they hear, and that none hears its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    HubertConfig,
    PreTrainedConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
)

from fusebert.data.toyworld import write_toyworld
from fusebert.errors import ModelError, UsageError
from fusebert.evaluation.trained_model import load
from fusebert.modalities.audio.embedder import Embedder
from fusebert.modalities.audio.encoders import prepare
from fusebert.modalities.audio.processor import Config, Processor
from fusebert.modalities.audio.signal import RATE_HZ, slaney_filters, whisper_mel
from fusebert.model.trunk import TrunkConfig
from fusebert.training.run import train
from fusebert.types import Sample

HIDDEN = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
WAVES = {**HIDDEN, "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
WHISPER = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
DECODER = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 60}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
ENCODERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "wav2vec2": lambda: Wav2Vec2Config(**WAVES),
    "hubert": lambda: HubertConfig(**WAVES),
    "wavlm": lambda: WavLMConfig(**WAVES),
    "whisper": lambda: WhisperConfig(**WHISPER, **DECODER, **IDS),
}


def publish(name: str, folder: Path) -> Any:
    """A small model of this kind with random weights, as its authors would publish it."""
    torch.manual_seed(1)
    model = AutoModel.from_config(ENCODERS[name]())
    model.save_pretrained(folder)
    (WhisperFeatureExtractor() if name == "whisper" else Wav2Vec2FeatureExtractor()).save_pretrained(folder)
    return model.eval()


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=round(seconds * RATE_HZ)).astype(np.float32) / 9


def heard(processor: Processor, *recordings: np.ndarray) -> list[Any]:
    sounds = [{"array": one, "sampling_rate": RATE_HZ} for one in recordings]
    return [processor.load(Sample(Path("rows"), 1, {"audio": sound}, None)) for sound in sounds]


def tokens(embedder: Embedder, processor: Processor, rows: list[Any]) -> torch.Tensor:
    batch = {name: torch.from_numpy(array) for name, array in processor.collate(rows).items()}
    with torch.no_grad():
        return embedder(batch, embedder)  # type: ignore[no-any-return]


@pytest.mark.parametrize("bins", [80, 128])
def test_whisper_hears_what_its_own_extractor_gives_it(bins: int) -> None:
    theirs = WhisperFeatureExtractor(feature_size=bins)
    np.testing.assert_allclose(slaney_filters(bins), theirs.mel_filters, atol=1e-7)
    samples = noise(1.0)
    wanted = theirs(samples, sampling_rate=RATE_HZ, return_tensors="np")["input_features"][0].T
    found = whisper_mel(samples, bins)
    assert found.shape == (100, bins)
    np.testing.assert_allclose(found[:98], wanted[:98], atol=1e-4)
    assert wanted[110:].max() == pytest.approx(found.max() - 2, abs=1e-4)
    for count in (1, 2, 50, 100, 160, 161, 200, 201, 500):
        short = noise(1.0)[:count]
        wanted = theirs(short, sampling_rate=RATE_HZ, return_tensors="np")["input_features"][0].T
        np.testing.assert_allclose(whisper_mel(short, bins), wanted[: -(-count // 160)], atol=1e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_tokens_are_those_of_the_published_model(name: str, tmp_path: Path) -> None:
    model = publish(name, tmp_path)
    config = prepare(Config(encoder=str(tmp_path), max_seconds=30 if name == "whisper" else 3))
    processor = Processor(config, ["audio"])
    embedder = Embedder(config, 1, TrunkConfig.of_size("tiny", 5)).eval()
    embedder.load_pretrained()
    (row,) = heard(processor, noise(1.0))
    batch = {key: torch.from_numpy(array) for key, array in processor.collate([row]).items()}
    with torch.no_grad():
        found = embedder.encoder(batch["input_features"][None], batch["frames"])
        if name == "whisper":
            given = WhisperFeatureExtractor()(noise(1.0), sampling_rate=RATE_HZ, return_tensors="pt")
            states = model.get_encoder()(given["input_features"]).last_hidden_state[0, :50]
        else:
            given = Wav2Vec2FeatureExtractor()(noise(1.0), sampling_rate=RATE_HZ, return_tensors="pt")
            states = model(given["input_values"]).last_hidden_state[0]
    assert len(found) == processor.length(row) == 25
    wanted = states[:48].unflatten(0, (24, 2)).mean(dim=1)
    torch.testing.assert_close(found[:24], wanted, rtol=0, atol=2e-3 if name == "whisper" else 1e-5)


@pytest.mark.parametrize("level", [1.0, 0.01, 0.0])
def test_what_follows_a_quiet_recording_is_whispers_silence(level: float, tmp_path: Path) -> None:
    model = publish("whisper", tmp_path)
    config = prepare(Config(encoder=str(tmp_path), max_seconds=30))
    embedder = Embedder(config, 1, TrunkConfig.of_size("tiny", 5)).eval()
    embedder.load_pretrained()
    samples = noise(1.0) * level
    mel = torch.from_numpy(whisper_mel(samples, 80))
    given = WhisperFeatureExtractor()(samples, sampling_rate=RATE_HZ, return_tensors="pt")
    with torch.no_grad():
        found = embedder.encoder(mel[None], torch.tensor([len(mel)]))
        states = model.get_encoder()(given["input_features"]).last_hidden_state[0, :50]
    wanted = states[:48].unflatten(0, (24, 2)).mean(dim=1)
    torch.testing.assert_close(found[:24], wanted, rtol=0, atol=2e-3)


def test_an_encoder_with_an_adapter_is_refused(tmp_path: Path) -> None:
    Wav2Vec2Config(**WAVES, add_adapter=True).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="has an adapter, which is not read"):
        prepare(Config(encoder=str(tmp_path), max_seconds=2))


@pytest.mark.parametrize("name", ENCODERS)
def test_a_recording_is_heard_the_same_alone_and_beside_others(name: str, tmp_path: Path) -> None:
    publish(name, tmp_path)
    config = prepare(Config(encoder=str(tmp_path), max_seconds=2))
    processor = Processor(config, ["audio"])
    embedder = Embedder(config, 1, TrunkConfig.of_size("tiny", 5)).eval()
    rows = heard(processor, noise(0.4), noise(0.01), noise(1.9, 1), noise(0.4, 2), noise(2.0, 3))
    together = tokens(embedder, processor, rows)
    alone = torch.cat([tokens(embedder, processor, [row]) for row in rows])
    assert len(together) == sum(map(processor.length, rows))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_positions_of_whisper_are_no_weights(frozen: bool, tmp_path: Path) -> None:
    publish("whisper", tmp_path)
    config = prepare(Config(encoder=str(tmp_path), max_seconds=2, frozen=frozen))
    learning = {n: w.requires_grad for n, w in Embedder(config, 1, TrunkConfig.of_size("tiny", 5)).named_parameters()}
    (positions,) = [name for name in learning if "embed_positions" in name]
    assert not learning.pop(positions)
    assert {on for name, on in learning.items() if name.startswith("encoder.")} == {not frozen}


@pytest.mark.parametrize("name", ["wav2vec2", "whisper"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_model_on_a_speech_encoder_trains_and_answers_again(name: str, frozen: bool, tmp_path: Path) -> None:
    published = publish(name, tmp_path / "published")
    world = write_toyworld(tmp_path / "world", pictures={"train": 10, "val": 6, "test": 6}, sounds=True)
    columns = dict.fromkeys(("caption", "shapes", "language", "image", "colours"), "ignore")
    settings = {
        "data.train": str(world / "train.jsonl"),
        "data.validation": str(world / "val.jsonl"),
        "data.target": "answer",
        "data.columns": columns,
        "task.unseen_labels": "wrong",
        "audio.encoder": str(tmp_path / "published"),
        "audio.frozen": frozen,
        "audio.max_seconds": 3,
        "model.trunk": "tiny",
        "training.epochs": 1,
        "training.trackers": [],
    }
    model = train(settings, tmp_path / "model")
    theirs = dict(published.named_parameters())
    name_of = "layers.0.fc1.weight" if name == "whisper" else "encoder.layers.0.feed_forward.output_dense.weight"
    ours = dict(model.model.embedders["audio"].encoder.model.named_parameters())[name_of]  # type: ignore[union-attr]
    start = theirs[f"encoder.{name_of}" if name == "whisper" else name_of]
    assert torch.equal(ours, start) is frozen
    rows = str(world / "test.jsonl")
    assert load(tmp_path / "model").predict(rows) == model.predict(rows)


def test_what_is_no_speech_encoder_is_said(tmp_path: Path) -> None:
    AutoModel.from_config(BertConfig(vocab_size=9, **HIDDEN)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a bert; wav2vec"):
        prepare(Config(encoder=str(tmp_path)))
    with pytest.raises(ModelError, match="cannot be used as a speech encoder"):
        prepare(Config(encoder=str(tmp_path / "none")))
    with pytest.raises(UsageError, match=r"audio\.frozen"):
        prepare(Config(frozen=True))
    with pytest.raises(UsageError, match=r"audio\.augment"):
        prepare(Config(encoder=str(tmp_path), augment=True))
    publish("whisper", tmp_path)
    long = prepare(Config(encoder=str(tmp_path), max_seconds=60))
    with pytest.raises(UsageError, match=r"more than .* can hear at once"):
        Embedder(long, 1, TrunkConfig.of_size("tiny", 5)).load_pretrained()


def test_an_encoder_that_hears_another_rate_is_refused(tmp_path: Path) -> None:
    publish("wav2vec2", tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="hears 8,000 samples a second, and gets 16,000"):
        prepare(Config(encoder=str(tmp_path)))


def test_a_model_published_in_half_precision_learns(tmp_path: Path) -> None:
    publish("wav2vec2", tmp_path).half().save_pretrained(tmp_path)
    embedder = Embedder(prepare(Config(encoder=str(tmp_path), max_seconds=2)), 1, TrunkConfig.of_size("tiny", 5))
    embedder.load_pretrained()
    assert {weight.dtype for weight in embedder.parameters()} == {torch.float32}


def test_weights_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    publish("wav2vec2", tmp_path)
    embedder = Embedder(prepare(Config(encoder=str(tmp_path), max_seconds=2)), 1, TrunkConfig.of_size("tiny", 5))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the weights of audio\.encoder=.* cannot be read"):
        embedder.load_pretrained()
