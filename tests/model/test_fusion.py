"""The three ways modalities meet: exact for any subset of modalities, and a pretrained BERT begins unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusebert.data.collate import Collator
from fusebert.data.dataset import Preparer
from fusebert.evaluation.trained_model import load
from fusebert.model.fusion import CrossAttention, Padding
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.training.run import train
from fusebert.types import Example, Sample, row_means
from tests.contracts.test_modalities import logits, model_of, processor_of, without

FUSIONS = ("one_stream", "concat", "two_stream")
POOLINGS = ("first", "mean")
NAMES = ("image", "text")


@pytest.fixture
def processors(samples: list[Sample]) -> dict[str, Any]:
    return {name: processor_of(name, samples) for name in NAMES}


def model_with(processors: dict[str, Any], fusion: str, pooling: str = "first") -> FusebertModel:
    config = model_of(processors, {"name": "classification", "outputs": 3, "pooling": pooling}).config
    torch.manual_seed(0)
    model = FusebertModel(FusebertConfig(**{**config.to_dict(), "fusion": fusion})).eval()
    if fusion == "two_stream":
        for layer in model.fusion.layers:  # type: ignore[union-attr]
            torch.nn.init.ones_(layer.gate.weight)  # as if it had learnt something
            torch.nn.init.normal_(layer.output.bias)
    return model


def mixed(samples: list[Sample]) -> list[Sample]:
    """Rows with both, without a picture, and without text."""
    columns = [[], ["image"], ["question", "caption"]]
    return [without(sample, columns[number % 3]) for number, sample in enumerate(samples[:9])]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_batch_gives_the_numbers_of_its_rows(
    fusion: str, pooling: str, processors: dict[str, Any], samples: list[Sample]
) -> None:
    model, rows = model_with(processors, fusion, pooling), mixed(samples)
    together = logits(model, processors, rows)
    alone = torch.cat([logits(model, processors, [row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.isfinite().all()
    whole = logits(model, processors, samples[:9])
    assert (whole[1::3] - together[1::3]).abs().max() > 1e-4  # the picture counts
    torch.testing.assert_close(whole[::3], together[::3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_tokens_that_are_not_read_change_nothing(
    fusion: str, processors: dict[str, Any], samples: list[Sample]
) -> None:
    model = model_with(processors, fusion)
    made = [Preparer(processors)(row) for row in mixed(samples)]
    batch = Collator(processors, lambda targets, _: targets)([one for one in made if isinstance(one, Example)])
    given = {name: value for name, value in batch.items() if name != "labels"}
    places = torch.tensor([5, 1, 2])

    def read(only: torch.Tensor | None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        encoded = model.encode(**given, places=only)
        states = encoded.last_hidden_state if only is not None else encoded.last_hidden_state[places]
        found = torch.cat([states, encoded.pooled()])
        model.zero_grad()
        found.square().sum().backward()
        return found, {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}

    (some, learned), (every, wanted) = read(places), read(None)
    torch.testing.assert_close(some, every, rtol=0, atol=1e-5)
    assert learned.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(learned[name], gradient, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_part_learns(fusion: str, pooling: str, processors: dict[str, Any], samples: list[Sample]) -> None:
    model = model_with(processors, fusion, pooling).train()
    made = [Preparer(processors)(row) for row in mixed(samples)]
    examples = [example for example in made if isinstance(example, Example)]
    model(**Collator(processors, lambda targets, _: targets)(examples))["logits"].square().sum().backward()
    still = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not [name for name in still if "pooler" not in name]


def test_a_pretrained_bert_begins_unchanged(processors: dict[str, Any], samples: list[Sample]) -> None:
    config = model_of(processors).config
    model = FusebertModel(FusebertConfig(**{**config.to_dict(), "fusion": "two_stream"})).eval()
    texts = [without(sample, ["image"]) for sample in samples[:6]]
    # not to the bit: some processors round a product by where its operands lie in memory
    seen, unseen = logits(model, processors, samples[:6]), logits(model, processors, texts)
    torch.testing.assert_close(seen, unseen, rtol=2e-6, atol=1e-6)
    with torch.no_grad():
        for name, gate in model.named_parameters():
            if name.endswith("gate.weight"):
                gate.fill_(0.1)
    assert (logits(model, processors, samples[:6]) - unseen).abs().max() > 1e-4


@pytest.mark.parametrize("fusion", FUSIONS[1:])
def test_it_trains_and_loads(fusion: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    trained = train(tiny | {"model.fusion": fusion}, tmp_path / "model")
    row = {"question": "what shape is it?"}
    ours, theirs = load(tmp_path / "model").predict(row), trained.predict(row)
    assert (ours.value, ours.probability) == (theirs.value, pytest.approx(theirs.probability, abs=1e-6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_means_are_those_of_each_row_in_fp32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tokens, lengths = torch.randn(7, 5).to(dtype), [3, 0, 1, 3]
    rows = tokens.float().split(lengths)
    wanted = torch.stack([row.mean(0) if len(row) else torch.zeros(5) for row in rows])
    torch.testing.assert_close(row_means(tokens, torch.tensor(lengths)), wanted)
    torch.testing.assert_close(row_means(tokens, torch.tensor(lengths, dtype=torch.int32)), wanted)


def test_what_the_trunk_sees_beside_it_is_dropped_out_too() -> None:
    trunk = TrunkConfig.of_size("tiny", 9).model_copy(update={"hidden_dropout_prob": 0.5})
    attention = CrossAttention(trunk)
    torch.nn.init.ones_(attention.gate.weight)
    hidden, rows = torch.randn(6, 128), Padding(np.array([2, 4]), torch.device("cpu"))
    seen = [attention.train(learning)(hidden, rows, hidden, rows) for learning in (True, True, False, False)]
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
