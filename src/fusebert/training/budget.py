"""A plan for a given time: the size of the BERT, the length of its rows, how many steps, and the loss to expect."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch

from fusebert.config import Recipe
from fusebert.corpus.tokens import Tokens
from fusebert.data.collate import Collator
from fusebert.data.sampler import TokenBudgetSampler
from fusebert.errors import UsageError
from fusebert.evaluation.inference import autocast, to_device
from fusebert.model.trunk import SIZES
from fusebert.tasks.pretraining.task import MOST_ROUNDS
from fusebert.training.build import build_model, pick_device, pick_precision
from fusebert.training.clock import FORWARD_SPEED
from fusebert.training.compilation import compile_for_training, pick_compile
from fusebert.training.loss_law import expected_loss, layer_parameters
from fusebert.training.optimization import build_optimizer
from fusebert.training.prepare import Prepared
from fusebert.training.progress import Silence

SHORT_LENGTHS, LENGTH, LONG_LENGTH = (32, 64), 128, 512
LONG_FROM_TOKENS = 500_000_000
"""BERT read rows of 128 pieces in the first nine tenths of its training; long ones pay when little else is left."""
STEPS_WANTED = 5000
BATCH_TOKENS = (1024, 65_536)
MASK_RATE = 0.3
"""A short run learns more from more to guess (Wettig et al. 2023)."""
NEXT_SENTENCE_WEIGHT = 0.3
"""Until it begins to be learned, its gradient is noise to the words, and they have to come first (docs/log.md)."""
SPARE = 3
"""The schedule holds so many times the tokens expected; the clock ends it, and a quicker machine reads on."""
ROUNDS, LEAST_HELD_OUT, MOST_HELD_OUT = 6, 20_000, 250_000
"""Validations, and tokens that each scores; with fewer than the least there is one validation."""
FEWEST_HELD_OUT = 2048
"""A few rows, however little time there is."""
WARM_UP_STEPS, TIMED_STEPS = 2, 4
PROBE_TOKENS = {"cpu": 2048, "cuda": BATCH_TOKENS[1]}
"""A GPU takes as long for a few tokens as for many, so a small batch would not tell large models from small ones."""
PROBE_CORPUS_TOKENS = 200_000
SHARE_TO_PROBE, SHARE_TO_SCORE, SHARE_TO_SAVE = 0.05, 0.04, 0.01
"""Of the time: for measuring, for validations, for checkpoints and publishing."""
MOST_WORKERS = 4
"""A GPU learns from about as many tokens a second as one process can prepare."""


class TooLargeError(UsageError):
    """A model needs more memory than the device has."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds of the whole command, and on the monotonic clock when it began."""

    seconds: float
    started: float

    @property
    def left(self) -> float:
        return self.started + self.seconds - time.monotonic()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a budget buys.

    Args:
        trunk: a size by name, or the BERT to go on from.
        length: pieces of a full row.
        tokens_per_second: measured on this machine, all processes together.
        tokens, steps, rounds: expected within the time; a round ends with a validation.
        held_out_tokens: scored in each validation.
        mlm_loss: expected on held-out text, in nats a piece; None where training goes on from a BERT.
        seconds: of the whole command.
    """

    trunk: str
    length: int
    tokens_per_batch: int
    tokens_per_second: float
    tokens: int
    steps: int
    rounds: int
    held_out_tokens: int
    mlm_loss: float | None
    seconds: float

    def __str__(self) -> str:
        loss = "" if self.mlm_loss is None else f", held-out MLM loss about {self.mlm_loss:.2f} nats"
        return (
            f"plan: {self.trunk}, rows of {self.length}, {self.steps:,} steps of {self.tokens_per_batch:,} tokens at "
            f"{self.tokens_per_second:,.0f} tokens/s, done in {self.seconds / 60:.1f} min{loss}"
        )


def pick_length(corpus: Tokens, tokens: float) -> int:
    """Pieces of a full row: short where nearly all documents are, long where there is time to learn from long ones."""
    documents = np.diff(corpus.sentences[corpus.documents])
    typical = float(np.quantile(documents, 0.9))
    fitting = [length for length in SHORT_LENGTHS if typical <= length - 3]
    if fitting:
        return fitting[0]
    return LONG_LENGTH if tokens >= LONG_FROM_TOKENS and float(np.median(documents)) >= LONG_LENGTH else LENGTH


@dataclass(frozen=True, slots=True)
class Measured:
    """How this machine learns: tokens a second of all processes together, the tokens of a batch, and those that a pass
    reads for each of the corpus, as half of all pairs read some anew."""

    tokens_per_second: float
    tokens_per_batch: int
    tokens_per_pass: float


@dataclass(frozen=True, slots=True)
class Planner:
    """Measures this machine, and chooses what is not given.

    Args:
        given: dotted settings of the user, which are kept.
        corpus: the training part.
        entropy: cost of its held-out part, guessed by frequency, in nats a piece.
        build: settings -> their checked recipe, and rows to measure with.
        processes: that train together, each as quick as this one.
        longest: tokens that the BERT to go on from can read.
    """

    given: Mapping[str, Any]
    budget: Budget
    corpus: Tokens
    entropy: float
    build: Callable[[Mapping[str, Any]], tuple[Recipe, Prepared]]
    processes: int = 1
    longest: int | None = None

    def plan(self) -> tuple[dict[str, Any], Plan]:
        """The settings of the run, and what they will bring.

        Raises:
            UsageError: too little time is left to train, or no size fits into the GPU's memory.
        """
        budget = self.budget
        if budget.left < budget.seconds / 2:
            raise UsageError(
                f"beginning and reading the corpus took {budget.seconds - budget.left:.0f} s of the budget of "
                f"{budget.seconds:.0f} s; give more time, or start again (a corpus is tokenized once)"
            )
        probe_seconds = budget.left * SHARE_TO_PROBE
        device = pick_device(str(self.given.get("training.device", "auto")))
        given = {"training.workers": pick_workers(device, self.processes), **self.given}
        best = self._best_size(given, PROBE_TOKENS[device], probe_seconds)
        chosen = given | {
            "model.trunk": best.trunk,
            "task.length": best.length,
            "training.tokens_per_batch": best.tokens_per_batch,
        }
        own_tokens = max(1, best.tokens_per_batch // self.processes)
        measured = self._measure(chosen, own_tokens, probe_seconds, compiled=True)
        if "training.tokens_per_batch" not in given:
            fitting = measured.tokens_per_batch * self.processes
            chosen["training.tokens_per_batch"] = min(best.tokens_per_batch, fitting)
        plan = self._expected(chosen, measured.tokens_per_second)
        spared = {
            "task.mask_rate": MASK_RATE,
            "task.next_sentence_weight": NEXT_SENTENCE_WEIGHT,
            "task.held_out_tokens": plan.held_out_tokens,
            "training.time_limit": budget.seconds,
        }
        schedule = {
            "task.passes": max(1, SPARE * plan.tokens) / (measured.tokens_per_pass * len(self.corpus.ids)),
            "task.rounds": min(MOST_ROUNDS, SPARE * plan.rounds),
        }
        return spared | chosen | schedule, plan

    def _best_size(self, given: Mapping[str, Any], batch_tokens: int, probe_seconds: float) -> Plan:
        """Sizes are tried from the smallest on, until the next one promises a higher loss."""
        probes_end = self.budget.left - probe_seconds
        plans: list[Plan] = []
        for trunk in [str(given["model.trunk"])] if "model.trunk" in given else SIZES:
            tried = {"task.length": min(LENGTH, self.longest or LENGTH), **given, "model.trunk": trunk}
            try:
                measured = self._measure(tried, batch_tokens, probe_seconds)
            except TooLargeError:
                if not plans:
                    raise
                break
            plans.append(self._expected({**given, "model.trunk": trunk}, measured.tokens_per_second))
            best = min(plans, key=lambda plan: math.inf if plan.mlm_loss is None else plan.mlm_loss)
            if best is not plans[-1] or self.budget.left < probes_end:
                break
        return best

    def _measure(
        self, settings: Mapping[str, Any], batch_tokens: int, seconds: float, compiled: bool = False
    ) -> Measured:
        """On batches of so many tokens, or half as many, and again half, where memory is too small."""
        recipe, prepared = self.build({"task.mask_rate": MASK_RATE, **settings, "task.passes": 1.0, "task.rounds": 1})
        rows = prepared.splits["train"]
        while True:
            try:
                speed = tokens_per_second(recipe, prepared, batch_tokens, compiled, seconds)
            except torch.OutOfMemoryError:
                batch_tokens //= 2
                if batch_tokens < recipe.task_config().length:
                    raise TooLargeError(f"{recipe.model.trunk} does not fit into the GPU's memory") from None
            else:
                return Measured(self.processes * speed, batch_tokens, float(rows.lengths.sum()) / len(rows.corpus.ids))

    def _expected(self, settings: Mapping[str, Any], speed: float) -> Plan:
        """What the time that is left buys at so many tokens a second."""
        budget, corpus = self.budget, self.corpus
        if budget.left <= 0:
            raise UsageError(f"measuring this machine took all of the {budget.seconds:g} s; give more time")
        tokens = max(1, int(speed * budget.left * (1 - SHARE_TO_SCORE - SHARE_TO_SAVE)))
        trunk, loss = str(settings["model.trunk"]), None
        if trunk in SIZES:
            loss = expected_loss(self.entropy, layer_parameters(trunk), tokens, len(corpus.ids))
        length = int(settings.get("task.length", min(pick_length(corpus, tokens), self.longest or LONG_LENGTH)))
        batch = int(settings.get("training.tokens_per_batch", pick_batch(tokens)))
        steps = max(1, tokens // (batch * int(settings.get("training.gradient_accumulation", 1))))
        rounds = int(settings["task.rounds"]) if "task.rounds" in settings else None
        validations, scored = pick_scoring(tokens / self.processes, rounds)
        scored = int(settings.get("task.held_out_tokens", scored))
        return Plan(trunk, length, batch, round(speed), tokens, steps, validations, scored, loss, budget.seconds)


def pick_scoring(tokens: float, rounds: int | None) -> tuple[int, int]:
    """Validations, and tokens that each scores, so that all take SHARE_TO_SCORE of the time.

    Args:
        tokens: that one process, which scores alone, could train on in the time.
        rounds: if they are given.
    """
    affordable = SHARE_TO_SCORE * FORWARD_SPEED * tokens
    rounds = rounds or min(ROUNDS, max(1, int(affordable / LEAST_HELD_OUT)))
    return rounds, max(FEWEST_HELD_OUT, min(MOST_HELD_OUT, int(affordable / rounds)))


def beginning(corpus: Tokens) -> Tokens:
    """Its first documents, two at least: enough to measure with."""
    starts = corpus.sentences[corpus.documents]
    count = max(2, int(np.searchsorted(starts, PROBE_CORPUS_TOKENS)))
    documents = corpus.documents[: count + 1]
    sentences = corpus.sentences[: int(documents[-1]) + 1]
    end = int(sentences[-1])
    return Tokens(corpus.ids[:end], corpus.inside[:end], sentences, documents)


def pick_batch(tokens: float) -> int:
    """Tokens of a batch, a power of two, so that there are about STEPS_WANTED steps."""
    least, most = BATCH_TOKENS
    return min(most, max(least, 1 << round(math.log2(max(1.0, tokens / STEPS_WANTED)))))


def pick_workers(device: str, processes: int) -> int:
    """Worker processes of each training process: none where the model computes on the cores that they would take."""
    if device == "cpu":
        return 0
    return max(0, min(MOST_WORKERS, (os.cpu_count() or 1) // processes - 1))


def tokens_per_second(recipe: Recipe, prepared: Prepared, batch_tokens: int, compiled: bool, seconds: float) -> float:
    """Training speed of this process, from a few steps of a fresh model on batches of so many tokens.

    Args:
        compiled: whether layers are compiled where the run would compile them, which takes a minute.
        seconds: after which a slow machine has been timed for long enough, if for one step.
    """
    device = torch.device(pick_device(recipe.training.device))
    model = build_model(recipe, prepared, Silence()).to(device).train()
    precision = pick_precision(recipe.training.precision, device.type, model.config.trunk["hidden_size"])
    optimizer = build_optimizer(model, recipe.training)
    if compiled and pick_compile(recipe.training.compile, device.type, prepared.task.name):
        compile_for_training(model)
    rows, collator = prepared.splits["train"], Collator(prepared.processors, prepared.task.collate)
    sampler = TokenBudgetSampler(rows.lengths, batch_tokens, recipe.training.seed)
    chosen = islice((batch for _ in count() for batch in sampler), WARM_UP_STEPS + TIMED_STEPS)
    batches: Iterable[dict[str, Any]] = (collator([rows[row] for row in batch]) for batch in chosen)
    if recipe.training.workers:
        batches = list(batches)  # prepared beside the steps
    began = time.monotonic()
    started, tokens = began, 0
    for number, batch in enumerate(batches):
        if number == WARM_UP_STEPS:
            started = time.monotonic()
        inputs = to_device(batch, device)
        with autocast(device, precision):
            loss = model(**inputs)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.training.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device
        if number >= WARM_UP_STEPS:
            tokens += sum(inputs["lengths"])
            if time.monotonic() - began > seconds:
                break
    return tokens / (time.monotonic() - started)
