"""The other side of kill_resume.py: an unmodified transformers Trainer on the questions of the same toy world."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import common

STEPS, SAVE_STEPS, BATCH_ROWS = 30, 2, 20
LONGEST = 24


class TransformersTrainer:
    """BertForSequenceClassification of fusebert's size `tiny`; resumes as its documentation says."""

    modules = ["transformers.trainer", "transformers.models.bert.modeling_bert", "accelerate"]  # noqa: RUF012

    @staticmethod
    def run(world: Path, folder: Path, resume: bool) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        common.quiet_process(folder)
        from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed
        from transformers.trainer_utils import get_last_checkpoint

        rows, words, answers = _rows(world)
        set_seed(0)
        model = BertForSequenceClassification(
            BertConfig(
                vocab_size=words,
                hidden_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=512,
                num_labels=answers,
            )
        )
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=BATCH_ROWS,
            save_steps=SAVE_STEPS,
            save_total_limit=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=rows)  # type: ignore[arg-type]
        last = get_last_checkpoint(str(folder)) if resume and folder.is_dir() else None
        trainer.train(resume_from_checkpoint=last)
        trainer.save_model(str(folder / "final"))

    @staticmethod
    def weights(folder: Path) -> Path:
        return folder / "final" / "model.safetensors"

    @staticmethod
    def is_saving(folder: Path) -> bool:
        """A checkpoint's last file is not there yet."""
        return any(not (path / "trainer_state.json").exists() for path in folder.glob("checkpoint-*"))


def _rows(world: Path) -> tuple[list[dict[str, Any]], int, int]:
    """Padded rows of word numbers, the number of words, and of answers."""
    lines = [json.loads(line) for line in (world / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [line["question"].split() for line in lines]
    numbers = {word: number for number, word in enumerate(sorted({word for text in texts for word in text}), 1)}
    answers = sorted({line["answer"] for line in lines})
    rows = []
    for line, text in zip(lines, texts, strict=True):
        ids = [numbers[word] for word in text[:LONGEST]]
        empty = LONGEST - len(ids)
        mask = [1] * len(ids) + [0] * empty
        rows.append({"input_ids": ids + [0] * empty, "attention_mask": mask, "labels": answers.index(line["answer"])})
    return rows, len(numbers) + 1, len(answers)
