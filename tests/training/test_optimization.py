"""Which parameter learns how fast, what is frozen, and that accumulated batches are one batch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from fusebert.config import Recipe
from fusebert.data.collate import Collator
from fusebert.data.dataset import Preparer
from fusebert.errors import UsageError
from fusebert.modalities.image.encoders import prepare
from fusebert.modalities.image.processor import Config
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.training.build import build_model
from fusebert.training.checkpoint import State
from fusebert.training.optimization import build_optimizer
from fusebert.training.pretrain_corpus import prepare_rows, read_corpus
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.progress import Silence
from fusebert.training.trainer import Trainer
from fusebert.types import Example, Sample
from tests.contracts.test_modalities import model_of, processor_of
from tests.contracts.test_tasks import task_of
from tests.corpus.conftest import corpus, documents  # noqa: F401
from tests.model.test_vision_encoders import model_with, publish
from tests.training.test_ranks import PRETRAINING


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


def test_what_was_published_learns_as_slowly_as_the_trunk(tmp_path: Path) -> None:
    publish("vit", tmp_path)
    model = model_with(prepare(Config(encoder=str(tmp_path), size_pixels=32)))
    found = rates(model, learning_rate=1e-3, new_learning_rate=1e-2)
    encoder = {peak for name, peak in found.items() if name.startswith("embedders.image.encoder.")}
    assert encoder == {1e-3}
    assert found["embedders.image.projection.weight"] == 1e-2


@pytest.mark.parametrize("part", ["trunk", "image", "head"])
def test_what_is_frozen_is_left_out(model: Any, part: str) -> None:
    prefix = {"image": "embedders.image."}.get(part, f"{part}.")
    names = set(rates(model, freeze=[part]))
    assert names
    assert not [name for name in names if name.startswith(prefix)]
    apart = {"modality_embeddings.weight"} if part == "image" else set()  # of the only modality beside the text
    assert {name for name, _ in model.named_parameters() if not name.startswith(prefix)} - apart == names


def test_something_has_to_learn(model: Any) -> None:
    with pytest.raises(UsageError, match="leaves nothing to learn"):
        rates(model, freeze=["trunk", "head", "image"])


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


@pytest.mark.parametrize("name", ["classification", "pretraining"])
def test_batches_taken_together_are_one_batch(
    name: str,
    samples: list[Sample],
    corpus: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The trainer's own step, on parts of other sizes; of masked pieces each part has another number, too."""
    if name == "classification":
        task = task_of(name, "answer", samples)
        processors = {name: processor_of(name, samples) for name in ("image", "text")}
        made = [Preparer(processors, task, "answer")(sample) for sample in samples[:16]]
        examples = [example for example in made if isinstance(example, Example)]
        model = model_of(processors, task.head_config)
        settings = Recipe.from_flat({"training.max_gradient_norm": 1e9}).training
    else:
        recipe = pretraining_recipe(PRETRAINING | {"data.train": str(corpus), "training.max_gradient_norm": 1e9})
        prepared = prepare_rows(recipe, read_corpus(recipe, None), None)
        task, processors, settings = prepared.task, prepared.processors, recipe.training
        examples = [prepared.splits["train"][number] for number in range(16)]
        model = build_model(recipe, prepared, Silence())
    collator, weights = Collator(processors, task.collate), []
    for sizes in ([16], [7, 1, 5, 3]):
        twin = copy.deepcopy(model).eval()
        state = State(steps=1, precision="fp32", data_hash="")
        trainer = Trainer(twin, task, collator, settings, tmp_path, Silence(), Accelerator(cpu=True), state)
        trainer.optimizer = torch.optim.SGD([{"params": trainer.parameters, "peak": 1.0}])  # type: ignore[assignment]
        ends = np.cumsum(sizes).tolist()
        parts = [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        trainer._step([(collator([examples[row] for row in part]), list(part)) for part in parts])
        weights.append(torch.cat([parameter.detach().flatten() for parameter in twin.parameters()]))
    whole, in_parts = weights
    before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    assert float((whole - before).abs().max()) > 1e-3
    torch.testing.assert_close(in_parts, whole, atol=1e-5, rtol=0)
