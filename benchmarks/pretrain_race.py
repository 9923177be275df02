"""Equal time, same text, same vocabulary, same size: whose BERT guesses held-out words better?

fusebert's `pretrain --budget` against transformers' `Trainer` with BertForPreTraining and its collator for masked
words, one after the other in one session, each with all cores for the same minutes. Both read next-sentence pairs by
the same rules, of 128 tokens, and mask single pieces. Theirs takes the fastest of four settings (precision and
attention) on this machine, and both let their learning rate fall with the clock. Our clock counts our validations,
reading and saving; theirs counts its steps and its loader, not its validations. Both are scored from their weights by
the same code in fp32, on the same held-out rows, masked once; of each, the best of its validations counts.
`mlm_loss_gain` is their loss minus ours in nats, `nsp_accuracy_gain` our next-sentence accuracy minus theirs.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForPreTraining,
    DataCollatorForLanguageModeling,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import common
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.vocabulary import FOLDER, make_vocabulary
from fusebert.data.collate import Collator
from fusebert.evaluation.inference import score
from fusebert.tasks.pretraining.publish import TRANSFORM
from fusebert.training.build import build_model
from fusebert.training.pretrain import pretrain
from fusebert.training.pretrain_corpus import prepare_rows, read_corpus
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.progress import Silence
from pretraining import Unmasked

SIZE, LENGTH = "mini", 128
VOCABULARY, QUICK_VOCABULARY = 8000, 500
VALIDATIONS = 10
WARM_UP_SHARE = 0.05
NSP = "next_sentence_accuracy"
ROWS = 16
TIMED_STEPS, QUICK_STEPS = 8, 1
SETTINGS = [(precision, attention) for precision in ("bf16", "fp32") for attention in ("sdpa", "eager")]

Evaluate = Callable[[Mapping[str, torch.Tensor]], dict[str, float]]


def put_weights(model: Any, found: Mapping[str, torch.Tensor]) -> None:
    """Put the weights of a `transformers.BertForPreTraining` into `model`, which must have its sizes."""
    head = model.head
    parts = {"bert.": model.trunk, f"{TRANSFORM}.dense.": head.dense, f"{TRANSFORM}.LayerNorm.": head.LayerNorm}
    parts["cls.seq_relationship."] = head.seq_relationship
    for prefix, part in parts.items():
        part.load_state_dict({name: found[prefix + name] for name in part.state_dict()})
    with torch.no_grad():
        head.bias.weight.copy_(found["cls.predictions.bias"][None])


class Clock(TrainerCallback):  # type: ignore[misc]
    """Counts the seconds of training; off the clock, it scores the model as it stands; it stops the run on time."""

    def __init__(self, seconds: float, evaluate: Evaluate | None = None) -> None:
        self.seconds, self.evaluate, self.paused, self.points = seconds, evaluate, 0.0, list[dict[str, float]]()

    @property
    def spent(self) -> float:
        return time.monotonic() - self.began - self.paused

    def factor(self, _: int) -> float:
        """Share of the peak rate: linear up, then linear down until the time is up."""
        share = self.spent / self.seconds if hasattr(self, "began") else 0.0
        return max(0.0, min(share / WARM_UP_SHARE + 1e-3, (1 - share) / (1 - WARM_UP_SHARE)))

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.monotonic()

    def on_step_end(self, _: Any, state: Any, control: Any, model: Any = None, **__: Any) -> None:
        if self.evaluate and self.spent >= self.seconds * (len(self.points) + 1) / VALIDATIONS:
            point = {"seconds": round(self.spent, 1), "step": state.global_step}
            stopped = time.monotonic()
            self.points.append(point | self.evaluate(model.state_dict()))
            common.note(f"  transformers {self.points[-1]}")
            model.train()
            self.paused += time.monotonic() - stopped
        if self.spent >= self.seconds:
            control.should_training_stop = True


class TimedTrainer(Trainer):  # type: ignore[misc]
    """Theirs, with a learning rate that follows the clock."""

    clock: Clock

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:  # noqa: ARG002
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.clock.factor)
        return self.lr_scheduler


class Race:
    """What both sides share: the corpus, its rows, and one way to score weights."""

    def __init__(self, folder: Path) -> None:
        self.settings = {
            "data.train": str(folder.absolute()),
            "model.trunk": SIZE,
            "task.length": LENGTH,
            "task.whole_words": False,  # their collator masks single pieces
            "training.trackers": [],
        }
        recipe = pretraining_recipe(self.settings | {"task.passes": 4.0, "task.rounds": 1})
        self.corpus = read_corpus(recipe, None)
        self.prepared = prepare_rows(recipe, self.corpus, None)
        self.model = build_model(recipe, self.prepared, Silence())
        self.collator = Collator(self.prepared.processors, self.prepared.task.collate)
        self.tokenizer = AutoTokenizer.from_pretrained(folder / FOLDER)

    def score(self, weights: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Held-out losses of weights under Hugging Face's names, in fp32."""
        put_weights(self.model, weights)
        rows = iter(self.prepared.splits["validation"])
        return dict(score(self.model, self.prepared.task, rows, self.collator, "fp32")["metrics"])

    def train_theirs(
        self, given: Any, clock: Clock, precision: str, attention: str, room: Path, steps: int = -1
    ) -> Any:
        """Their Trainer until the clock or the steps end it; the model."""
        torch.manual_seed(0)
        config = self.model.trunk.config.to_hugging_face() | {"initializer_range": 0.02}
        model = BertForPreTraining._from_config(BertConfig(**config, attn_implementation=attention))
        arguments = TrainingArguments(
            output_dir=str(room / "theirs"),
            max_steps=steps if steps > 0 else 10**6,
            per_device_train_batch_size=given.their_rows,
            learning_rate=given.their_rate,
            weight_decay=0.01,
            optim="adamw_torch_fused",
            bf16=precision == "bf16",
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            seed=0,
        )
        masking = DataCollatorForLanguageModeling(self.tokenizer, mlm_probability=given.their_mask_rate)
        trainer = TimedTrainer(model, arguments, masking, Unmasked(self.prepared.splits["train"]), callbacks=[clock])
        trainer.remove_callback(PrinterCallback)  # it writes to stdout
        trainer.clock = clock
        trainer.train()
        return model

    def fastest(self, given: Any, room: Path) -> dict[tuple[str, str], float]:
        """Seconds a step of each of their settings, the fastest first."""
        found = {}
        for precision, attention in SETTINGS:
            steps = QUICK_STEPS if given.quick else TIMED_STEPS
            self.train_theirs(given, Clock(1e9), precision, attention, room, steps=1)
            clock = Clock(1e9)
            self.train_theirs(given, clock, precision, attention, room, steps=steps)
            found[precision, attention] = clock.spent / steps
        return dict(sorted(found.items(), key=lambda item: item[1]))


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=20.0, help="of each side")
    options.add_argument("--their-rate", type=float, default=5e-4, help="their peak learning rate")
    options.add_argument("--their-mask-rate", type=float, default=0.3, help="their share of pieces to guess")
    options.add_argument("--their-rows", type=int, default=ROWS, help="rows of their batches")
    options.add_argument("--only", choices=("fusebert", "transformers"), help="one side alone, to tune it")
    options.add_argument("--output", type=Path, help="keep our model here")
    options.add_argument("--corpus", type=Path, help="folder of a prepared corpus with a vocabulary; else made anew")
    given = options.parse_args()
    common.prepare_process()
    seconds = 20.0 if given.quick else 60 * given.minutes
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        folder = given.corpus or room / "corpus"
        if given.corpus is None:
            source = common.articles()
            prepare_corpus([str(source)], folder, Settings(held_out=0.02))
            make_vocabulary(folder, QUICK_VOCABULARY if given.quick else VOCABULARY)
        race = Race(folder)
        result: dict[str, Any] = {
            "machine": common.machine(),
            "minutes": round(seconds / 60, 2),
            "unigram_entropy": race.corpus.unigram_entropy,
        }
        if given.only != "transformers":
            result["fusebert"] = run_ours(race, seconds, given.output or room / "ours")
        if given.only != "fusebert":
            result["transformers"] = run_theirs(race, given, seconds, room)
        if not given.only:
            ours, theirs = result["fusebert"]["final"], result["transformers"]["final"]
            result["mlm_loss_gain"] = round(theirs["mlm_loss"] - ours["mlm_loss"], 4)
            result["nsp_accuracy_gain"] = round(ours[NSP] - theirs[NSP], 4)
            draw(result, Path(f"pretrain-race-{'quick' if given.quick else f'{given.minutes:g}m'}.png"))
    common.show(result, given.json)


def run_ours(race: Race, seconds: float, output: Path) -> dict[str, Any]:
    """What a user gets with `fusebert pretrain --budget`, at the size of the race."""
    started = time.monotonic()
    found = pretrain(race.settings, output, budget=seconds)
    spent = time.monotonic() - started
    training = found["training"]
    final = race.score(load_file(output / "model.safetensors"))
    common.note(f"fusebert after {spent:.0f} s, {training['tokens']:,} tokens: {final}")
    points = [{"seconds": one["seconds"], "step": one["step"]} | one["validation"] for one in training["history"]]
    return {
        "seconds": round(spent, 1),
        "tokens": training["tokens"],
        "plan": found["plan"],
        "final": final,
        "points": points,
    }


def run_theirs(race: Race, given: Any, seconds: float, room: Path) -> dict[str, Any]:
    """Their Trainer, in the setting that is fastest here."""
    timed = race.fastest(given, room)
    precision, attention = next(iter(timed))
    common.note(f"transformers, seconds a step: {timed}")
    clock = Clock(seconds, race.score)
    model = race.train_theirs(given, clock, precision, attention, room)
    spent = clock.spent
    final = min([*clock.points, race.score(model.state_dict())], key=lambda point: point["loss"])
    final = {name: value for name, value in final.items() if name not in ("seconds", "step")}
    common.note(f"transformers after {spent:.0f} s: {final}")
    return {
        "seconds": round(spent, 1),
        "seconds_a_step": {" ".join(setting): round(value, 3) for setting, value in timed.items()},
        "rate": given.their_rate,
        "mask_rate": given.their_mask_rate,
        "rows": given.their_rows,
        "final": final,
        "points": clock.points,
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Both curves, and the cost of guessing by frequency."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, colour in (("fusebert", "#2f6db5"), ("transformers", "#c2571a")):
        points = result[name]["points"]
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
