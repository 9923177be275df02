"""Equal time, same text, same vocabulary, same size: whose BERT guesses held-out words better?

fusebert's `pretrain` against transformers' `Trainer` with BertForPreTraining, its collator for masked words and dynamic
padding, one after the other in one session, each with all cores for the same minutes. Both read next-sentence pairs by
the same rules, of 128 tokens. Both are scored by the same code on the same held-out rows, masked once. Our clock counts
our validations; theirs counts nothing but steps. `mlm_loss_gain` is their loss minus ours in nats, `nsp_accuracy_gain`
our next-sentence accuracy minus theirs.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import common
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.vocabulary import FOLDER, make_vocabulary
from fusebert.data.collate import Collator
from fusebert.evaluation.inference import score
from fusebert.tasks.pretraining.publish import load_hugging_face_weights
from fusebert.training.build import build_model
from fusebert.training.pretrain import prepare_rows, pretrain, pretraining_recipe, read_corpus
from fusebert.training.progress import Silence

SIZE, LENGTH = "mini", 128
VOCABULARY, QUICK_VOCABULARY = 8000, 500
MASK_SHARE = 0.15
VALIDATIONS = 10
NSP = "next_sentence_accuracy"
THEIR_BATCH = 32
WARM_UP_STEPS, TIMED_STEPS = 3, 10


class Curve(TrainerCallback):  # type: ignore[misc]
    """Scores the model as it stands every so many seconds of training, off the clock, and stops it on time."""

    def __init__(self, evaluate: Any, seconds: float) -> None:
        self.evaluate, self.seconds, self.spent, self.points = evaluate, seconds, 0.0, list[dict[str, float]]()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.monotonic()

    def on_step_end(self, _: Any, state: Any, control: Any, model: Any = None, **__: Any) -> None:
        self.spent += time.monotonic() - self.began
        if self.spent >= self.seconds * (len(self.points) + 1) / VALIDATIONS or state.global_step >= state.max_steps:
            self.points.append({"seconds": round(self.spent, 1), "step": state.global_step} | self.evaluate(model))
        if self.spent >= self.seconds:
            control.should_training_stop = True


class Unmasked(torch.utils.data.Dataset):
    """Pairs as their collator takes them: it masks for itself."""

    def __init__(self, rows: Any, cls: int) -> None:
        self.rows, self.cls = rows, cls

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        made = self.rows[number]
        text, target = made.features["text"], made.target
        ids = np.concatenate([[self.cls], text["input_ids"]])
        ids[target.places] = target.pieces
        types = np.concatenate([[0], text["token_type_ids"]])
        return {"input_ids": ids, "token_type_ids": types, "next_sentence_label": target.next_sentence}


def theirs(
    settings: dict[str, Any], seconds: float, rate: float, mask_share: float, room: Path
) -> list[dict[str, float]]:
    """Their curve. The steps of the schedule are what a short timing says that the time allows."""
    recipe = pretraining_recipe(settings | {"task.rounds": 1})
    corpus = read_corpus(recipe, None)
    prepared = prepare_rows(recipe, corpus, None)
    torch.manual_seed(0)
    ours = build_model(recipe, prepared, Silence())
    collator = Collator(prepared.processors, prepared.task.collate)
    validation = prepared.splits["validation"]

    def evaluate(model: Any) -> dict[str, float]:
        load_hugging_face_weights(ours, model.state_dict())
        found = score(ours, prepared.task, iter(validation), collator, "fp32")["metrics"]
        model.train()
        return dict(found)

    config = BertConfig(**ours.trunk.config.to_hugging_face() | {"initializer_range": 0.02}, attn_implementation="sdpa")
    model = BertForPreTraining._from_config(config)
    tokenizer = AutoTokenizer.from_pretrained(recipe.table(Path(settings["data.train"])) / FOLDER)

    def train(steps: int, curve: Curve) -> None:
        arguments = TrainingArguments(
            output_dir=str(room / "theirs"),
            max_steps=steps,
            per_device_train_batch_size=THEIR_BATCH,
            learning_rate=rate,
            warmup_steps=max(1, steps // 20),
            weight_decay=0.01,
            lr_scheduler_type="linear",
            optim="adamw_torch_fused",
            bf16=True,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            seed=0,
        )
        data = Unmasked(prepared.splits["train"], ours.config.cls_token_id)
        trainer = Trainer(
            model,
            arguments,
            DataCollatorForLanguageModeling(tokenizer, mlm_probability=mask_share),
            data,
            callbacks=[curve],
        )
        trainer.train()

    start = {name: value.clone() for name, value in model.state_dict().items()}
    timing = Curve(lambda _: {}, 1e9)
    train(WARM_UP_STEPS, Curve(lambda _: {}, 1e9))
    train(TIMED_STEPS, timing)
    model.load_state_dict(start)
    curve = Curve(evaluate, seconds)
    train(max(2, int(seconds * TIMED_STEPS / timing.spent)), curve)
    return curve.points


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=20.0, help="of training, each side")
    options.add_argument("--rate", type=float, default=2e-3, help="our peak learning rate")
    options.add_argument("--their-rate", type=float, default=1e-3, help="theirs")
    options.add_argument("--mask-share", type=float, default=MASK_SHARE, help="our share of pieces to guess")
    options.add_argument("--their-mask-share", type=float, default=MASK_SHARE, help="theirs")
    options.add_argument("--output", type=Path, help="keep our model here")
    options.add_argument("--corpus", type=Path, help="folder of a prepared corpus with a vocabulary; else made anew")
    given = options.parse_args()
    common.prepare_process()
    seconds = 4.0 if given.quick else 60 * given.minutes
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        folder = given.corpus or room / "corpus"
        if given.corpus is None:
            source = common.data_folder() / "wiki_en" / "train.jsonl.gz"
            prepare_corpus([str(source)], folder, Settings(held_out=0.02), workers=2)
            make_vocabulary(folder, QUICK_VOCABULARY if given.quick else VOCABULARY)
        settings = {"data.train": str(folder.absolute()), "model.trunk": SIZE, "task.length": LENGTH, "training.trackers": []}
        settings["task.mask_share"] = given.mask_share
        settings["task.whole_words"] = False  # their collator masks single pieces
        limits = {"training.time_limit": seconds, "training.learning_rate": given.rate}
        plan = {"task.passes": 50.0, "task.rounds": 100}  # half a pass between validations
        found = pretrain(settings | plan | limits, given.output or room / "ours")
        ours = [
            {"seconds": entry["seconds"], "step": entry["step"]} | entry["validation"]
            for entry in found["training"]["history"]
        ]
        common.note(f"ours: {ours[-1]}")
        other = theirs(settings | {"task.passes": 4.0}, seconds, given.their_rate, given.their_mask_share, room)
        common.note(f"theirs: {other[-1]}")
        result = {
            "machine": common.machine(),
            "minutes": round(seconds / 60, 2),
            "unigram_entropy": found["unigram_entropy"],
            "mlm_loss_gain": round(other[-1]["mlm_loss"] - ours[-1]["mlm_loss"], 4),
            "nsp_accuracy_gain": round(ours[-1][NSP] - other[-1][NSP], 4),
            "mask_share": {"fusebert": given.mask_share, "transformers": given.their_mask_share},
            "fusebert": ours,
            "transformers": other,
        }
        draw(result, Path(f"pretrain-race-{'quick' if given.quick else f'{given.minutes:g}m'}.png"))
    print(json.dumps(result)) if given.json else common.show({k: v for k, v in result.items() if k != "machine"}, False)


def draw(result: dict[str, Any], path: Path) -> None:
    """Both curves, and the cost of guessing by frequency."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, colour in (("fusebert", "#2f6db5"), ("transformers", "#c2571a")):
        points = result[name]
        minutes = [point["seconds"] / 60 for point in points]
        axes.plot(minutes, [point["mlm_loss"] for point in points], "o-", color=colour, label=name)
    axes.axhline(result["unigram_entropy"], color="#5c6570", linestyle="--", label="by frequency alone")
    axes.set_xlabel("minutes of training")
    axes.set_ylabel("held-out MLM loss (nats)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    common.note(f"curves: {path}")


if __name__ == "__main__":
    main()
