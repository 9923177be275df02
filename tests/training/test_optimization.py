"""Which parameter learns how fast, what is frozen, and that accumulated batches are one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fusebert.config import Recipe
from fusebert.data.collate import Collator
from fusebert.data.dataset import Preparer
from fusebert.errors import UsageError
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.training.optimization import build_optimizer
from fusebert.types import Example, Sample
from tests.contracts.test_modalities import model_of, processor_of
from tests.contracts.test_tasks import task_of


@pytest.fixture
def model(samples: list[Sample]) -> Any:
    return model_of({name: processor_of(name, samples) for name in ("image", "text")})


def rates(model: Any, **settings: Any) -> dict[str, float]:
    """Peak rate by parameter."""
    made = build_optimizer(model, Recipe.from_flat({f"training.{k}": v for k, v in settings.items()}).training)
    peaks = {id(p): group["peak"] for group in made.param_groups for p in group["params"]}
    return {name: peaks[id(p)] for name, p in model.named_parameters() if id(p) in peaks}


def test_lower_layers_learn_slower(model: Any) -> None:
    found = rates(model, learning_rate=1e-3, new_learning_rate=1e-2, layer_decay=0.5)
    assert found["trunk.pooler.dense.weight"] == found["trunk.encoder.layer.1.output.dense.weight"] == 1e-3
    assert found["trunk.encoder.layer.0.output.dense.weight"] == 5e-4
    assert found["trunk.embeddings.word_embeddings.weight"] == 2.5e-4
    assert found["head.classifier.weight"] == found["embedders.image.projection.weight"] == 1e-2


@pytest.mark.parametrize("part", ["trunk", "image", "head"])
def test_what_is_frozen_is_left_out(model: Any, part: str) -> None:
    prefix = {"image": "embedders.image."}.get(part, f"{part}.")
    names = set(rates(model, freeze=[part]))
    assert names
    assert not [name for name in names if name.startswith(prefix)]
    assert {name for name, _ in model.named_parameters() if not name.startswith(prefix)} == names


def test_biases_held_in_embeddings_are_not_decayed() -> None:
    trunk = TrunkConfig.of_size("tiny", 50).model_dump()
    config = FusebertConfig(trunk=trunk, task={"name": "pretraining", "next_sentence": True})
    model = FusebertModel(config)
    made = build_optimizer(model, Recipe.from_flat({"training.weight_decay": 0.5}).training)
    decayed = {id(p) for group in made.param_groups if group["weight_decay"] for p in group["params"]}
    found = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert "head.bias.weight" not in found
    assert "modality_embeddings.weight" not in found
    assert {"head.dense.weight", "trunk.embeddings.word_embeddings.weight"} < found
    assert not [name for name in found if name.endswith("bias") or "LayerNorm" in name]


def test_freezing_what_has_no_weights_is_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="no weights of its own"):
        rates(model, freeze=["text"])


def test_four_batches_of_four_rows_give_the_gradient_of_sixteen(samples: list[Sample]) -> None:
    task = task_of("classification", "answer", samples)
    processors = {name: processor_of(name, samples) for name in ("image", "text")}
    model = model_of(processors, task.head_config).eval()
    made = [Preparer(processors, task, "answer")(sample) for sample in samples[:16]]
    examples = [example for example in made if isinstance(example, Example)]
    collator = Collator(processors, task.collate)

    def gradients(parts: list[list[Example]]) -> np.ndarray:
        model.zero_grad()
        for part in parts:
            (model(**collator(part))["loss"] * len(part) / 16).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).numpy()

    whole = gradients([examples])
    parts = gradients([examples[start : start + 4] for start in range(0, 16, 4)])
    np.testing.assert_allclose(parts, whole, atol=2e-6)
