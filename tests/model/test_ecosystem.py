"""Hugging Face's own tools work on our model as it is."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, Trainer, TrainingArguments

import fusebert
from fusebert.data.dataset import Dataset
from fusebert.errors import RowError, UsageError
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.types import Sample


@pytest.fixture
def dataset(trained: Path, samples: list[Sample]) -> Dataset:
    return fusebert.load(trained).dataset(samples[:32])


def test_auto_classes_load_the_folder(trained: Path) -> None:
    model = AutoModel.from_pretrained(trained)
    assert isinstance(model, FusebertModel)
    ours = fusebert.load(trained).model.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in model.state_dict().items())


def test_transformers_trainer_trains_it(trained: Path, dataset: Dataset, tmp_path: Path) -> None:
    predictor = fusebert.load(trained, device="cpu")
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=8,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    before = {name: value.clone() for name, value in predictor.model.named_parameters()}
    trainer = Trainer(predictor.model, arguments, data_collator=predictor.collator, train_dataset=dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = trainer.train()
    assert result.training_loss > 0
    assert any(not torch.equal(before[name], value) for name, value in predictor.model.named_parameters())
    row = {"question": "what shape is it?"}
    predictor.save(tmp_path / "mine")
    assert (
        fusebert.load(tmp_path / "mine").predict(row) == predictor.predict(row) != fusebert.load(trained).predict(row)
    )
    with pytest.raises(UsageError, match="is not empty; choose another folder for the model"):
        predictor.save(trained)
    fusebert.load(trained)


def test_a_dataset_names_the_row_that_cannot_be_read(trained: Path) -> None:
    rows = [{"question": "what is it", "answer": "red"}, {"question": "what is it"}]
    with pytest.raises(RowError, match=r"^the given table, row 2, column 'answer': there is no such column"):
        fusebert.load(trained).dataset(rows)


def test_a_buffer_that_would_be_lost_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fusebert.load(trained).model
    model.head.register_buffer("scale", torch.ones(3), persistent=False)  # type: ignore[operator]
    with pytest.raises(UsageError, match=r"head\.scale would be lost"):
        model._refuse_lost_buffers()


def test_peft_adapts_it(trained: Path, dataset: Dataset) -> None:
    from peft import LoraConfig, get_peft_model

    predictor = fusebert.load(trained, device="cpu")
    batch = predictor.collator([dataset[number] for number in range(8)])
    with torch.inference_mode():
        wanted = predictor.model.eval()(**batch)["logits"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(predictor.model, LoraConfig(r=2, target_modules=["query", "value"]))
    with torch.inference_mode():
        torch.testing.assert_close(adapted.eval()(**batch)["logits"], wanted, rtol=0, atol=1e-5)
    adapted.train()(**batch)["loss"].backward()
    learns = [name for name, parameter in adapted.named_parameters() if parameter.grad is not None]
    assert learns
    assert all("lora_" in name for name in learns)


def test_a_copied_head_reads_out_with_its_trunk() -> None:
    trunk = TrunkConfig.of_size("tiny", 50).model_dump()
    model = FusebertModel(FusebertConfig(trunk=trunk, task={"name": "pretraining", "next_sentence": True}))
    alone, whole = copy.deepcopy(model.head), copy.deepcopy(model)
    assert alone._words.module is model.trunk.embeddings.word_embeddings
    assert alone.dense.weight is not model.head.dense.weight  # type: ignore[union-attr]
    assert whole.head._words.module is whole.trunk.embeddings.word_embeddings  # type: ignore[union-attr]
    assert whole.trunk.embeddings.word_embeddings is not model.trunk.embeddings.word_embeddings
