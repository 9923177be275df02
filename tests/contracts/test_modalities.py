"""What every modality promises, tried on every modality that is installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fusebert import plugins
from fusebert.data.collate import Collator
from fusebert.data.dataset import Preparer
from fusebert.evaluation.inference import to_device
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.types import Sample

COLUMNS = {
    "text": ["question", "caption"],
    "image": ["image"],
    "table": ["shapes", "language"],
    "audio": ["audio"],
    "events": ["history"],
}
SMALL = {"image": {"size_pixels": 16, "patch_pixels": 8, "width": 8}}
MODALITIES = sorted(plugins.names("modalities"))


def processor_of(name: str, samples: Sequence[Sample]) -> Any:
    half = plugins.load("modalities", name, "processor")
    return half.Processor.fit(half.Config(**SMALL.get(name, {})), COLUMNS[name], samples, None)


def model_of(processors: dict[str, Any], task: dict[str, Any] | None = None) -> FusebertModel:
    torch.manual_seed(0)
    text = processors.get("text")
    trunk = TrunkConfig.of_size("tiny", text.vocabulary_size if text else 5)
    modalities = {
        name: {"columns": len(processor.columns), "config": processor.config.model_dump(mode="json")}
        for name, processor in processors.items()
    }
    task = task or {"name": "classification", "outputs": 3}
    return FusebertModel(FusebertConfig(trunk=trunk.model_dump(), modalities=modalities, task=task)).eval()


def logits(model: FusebertModel, processors: dict[str, Any], samples: Sequence[Sample]) -> torch.Tensor:
    preparer = Preparer(processors)
    batch = Collator(processors, lambda targets, _: np.stack(targets))([preparer(sample) for sample in samples])  # type: ignore[misc]
    with torch.inference_mode():
        return model(**to_device(batch, model.device))["logits"].cpu()


def without(sample: Sample, columns: Sequence[str]) -> Sample:
    return Sample(sample.table, sample.row, {k: v for k, v in sample.values.items() if k not in columns}, sample.root)


def test_every_modality_is_tried_here() -> None:
    assert set(MODALITIES) == set(COLUMNS), "give the new modality columns of the toy world in COLUMNS"


@pytest.mark.parametrize("name", MODALITIES)
def test_tokens_are_as_many_as_the_processor_says(name: str, samples: list[Sample]) -> None:
    processor = processor_of(name, samples)
    rows = [processor.load(sample) for sample in samples[:7]]
    model = model_of({name: processor})
    features = {field: torch.from_numpy(array) for field, array in processor.collate(rows).items()}
    tokens = model.embedders[name](features, model.trunk.embeddings)  # type: ignore[operator]
    assert tokens.shape == (sum(processor.length(row) for row in rows), model.config.trunk["hidden_size"])


@pytest.mark.parametrize("name", MODALITIES)
def test_a_batch_gives_the_numbers_of_its_rows_one_by_one(name: str, samples: list[Sample]) -> None:
    processors = {name: processor_of(name, samples)}
    model = model_of(processors)
    together = logits(model, processors, samples[:9])
    alone = torch.cat([logits(model, processors, [sample]) for sample in samples[:9]])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODALITIES)
def test_an_absent_modality_changes_nothing_but_itself(name: str, samples: list[Sample]) -> None:
    processors = {other: processor_of(other, samples) for other in MODALITIES}
    model = model_of(processors)
    lacking = [without(sample, COLUMNS[name]) if place % 2 else sample for place, sample in enumerate(samples[:8])]
    mixed = logits(model, processors, lacking)
    whole = logits(model, processors, samples[:8])
    torch.testing.assert_close(mixed[::2], whole[::2], rtol=0, atol=1e-5)
    alone = torch.cat([logits(model, processors, [sample]) for sample in lacking])
    torch.testing.assert_close(mixed, alone, rtol=0, atol=1e-5)
    assert (mixed[1::2] - whole[1::2]).abs().max() > 1e-4


@pytest.mark.parametrize("name", MODALITIES)
def test_a_row_with_nothing_in_its_columns_has_no_features(name: str, samples: list[Sample]) -> None:
    processor = processor_of(name, samples)
    for empty in (None, ""):
        assert processor.load(Sample(Path("x"), 1, dict.fromkeys(COLUMNS[name], empty), None)) is None


@pytest.mark.parametrize("name", MODALITIES)
def test_gradients_reach_the_embedder_and_the_trunk(name: str, samples: list[Sample]) -> None:
    processors = {name: processor_of(name, samples)}
    model = model_of(processors).train()
    preparer = Preparer(processors)
    batch = Collator(processors, lambda targets, _: np.stack(targets))([preparer(sample) for sample in samples[:6]])  # type: ignore[misc]
    model(**batch)["logits"].square().sum().backward()
    for parameter in [*model.embedders[name].parameters(), model.trunk.encoder.layer[0].attention.self.query.weight]:  # type: ignore[union-attr, index]
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize("name", MODALITIES)
def test_what_is_saved_loads_as_the_same(name: str, samples: list[Sample], tmp_path: Path) -> None:
    processor = processor_of(name, samples)
    processor.save(tmp_path)
    again = type(processor).load_from(tmp_path)
    assert (again.columns, again.config) == (processor.columns, processor.config)
    for sample in samples[:5]:
        ours, theirs = processor.load(sample), again.load(sample)
        for field in ours:
            assert all(np.array_equal(a, b) for a, b in zip(ours[field], theirs[field], strict=True))


@pytest.mark.parametrize("name", MODALITIES)
def test_two_fits_on_the_same_rows_are_the_same(name: str, samples: list[Sample], tmp_path: Path) -> None:
    for number in (1, 2):
        processor_of(name, samples).save(tmp_path / str(number))
    files = [path.relative_to(tmp_path / "1") for path in (tmp_path / "1").rglob("*") if path.is_file()]
    assert files
    assert all((tmp_path / "1" / file).read_bytes() == (tmp_path / "2" / file).read_bytes() for file in files)


def test_light_halves_import_neither_torch_nor_transformers() -> None:
    halves = [f"{folder}.processor" for folder in plugins.names("modalities").values()]
    halves += [f"{folder}.task" for folder in plugins.names("tasks").values()]
    halves += ["fusebert.doctor.check"]
    code = f"import sys, {', '.join(halves)}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_importing_fusebert_is_light() -> None:
    code = "import sys, fusebert, fusebert.cli; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
