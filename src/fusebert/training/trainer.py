"""The training loop, for every task: reads top to bottom, stops and resumes at any step, bit for bit."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from fusebert.config import TrainingSettings
from fusebert.data.collate import Collator
from fusebert.data.dataset import Dataset
from fusebert.data.sampler import TokenBudgetSampler
from fusebert.errors import DivergedError, FusebertError, UsageError
from fusebert.evaluation.inference import autocast, score, to_device
from fusebert.model.modeling import FusebertModel
from fusebert.tasks.base import Task
from fusebert.training import checkpoint
from fusebert.training.build import compile_layers, pick_compile
from fusebert.training.checkpoint import State
from fusebert.training.optimization import (
    build_optimizer,
    hold_frozen_statistics,
    learning_rate_factor,
    set_learning_rate,
)
from fusebert.training.progress import Progress
from fusebert.training.ranks import OwnBatches, Ranks
from fusebert.training.sharding import fill, gather, shard

TOKENS = "tokens"
STEPS_BETWEEN_READINGS = 10
"""The loss is read from the device, and shown, this often."""
WARM_UP_STEPS = 3
FORWARD_SPEED = 2.0
"""A forward pass is at least this much faster than a training step: it is a third of its arithmetic."""


class StoppedError(FusebertError):
    """The run was asked to stop; its checkpoint is written."""


class Trainer:
    """Trains a model on checked rows.

    Args:
        folder: of the run; checkpoints are written to `folder/checkpoints`.
        state: of a run that has not begun; a run resumes on the data with this hash only.
    """

    def __init__(
        self,
        model: FusebertModel,
        task: Task,
        collator: Collator,
        settings: TrainingSettings,
        folder: Path,
        progress: Progress,
        accelerator: Accelerator,
        state: State,
    ) -> None:
        self.task, self.collator, self.settings, self.progress = task, collator, settings, progress
        self.accelerator, self.checkpoints, self.ranks = accelerator, folder / "checkpoints", Ranks(accelerator)
        self.model = model.to(accelerator.device)  # whole: it is scored and published
        in_parts = settings.parallel == "fsdp" and self.ranks.count > 1
        self.learner = shard(self.model, self.ranks.count) if in_parts else self.model
        self.optimizer = build_optimizer(self.learner, settings)
        if pick_compile(settings.compile, accelerator.device.type, task.name):
            compile_layers(self.learner)
        self.trained = self.ranks.wrap(self.learner)
        self.state = state
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.recent_loss = torch.zeros((), device=accelerator.device, dtype=torch.float64)
        self.deadline, self.tokens_to_evaluate = math.inf, 0
        self._asked_to_stop = False
        self._steady: tuple[float, int, int] | None = None
        self._first_step = self._planned = 0

    def fit(self, train: Dataset, validation: Dataset, resume: bool) -> State:
        """Train to the end, the time limit, or the early stop; leaves the best weights in the model.

        Raises:
            StoppedError: after SIGINT or SIGTERM, with everything saved.
            LostWorkerError: another process of the run has gone.
        """
        with self.ranks.naming_losses():
            return self._fit(train, validation, resume)

    def _fit(self, train: Dataset, validation: Dataset, resume: bool) -> State:
        settings, state = self.settings, self.state
        sampler = TokenBudgetSampler(train.lengths, settings.tokens_per_batch, settings.seed)
        state.steps = planned = settings.epochs * math.ceil(len(sampler) / settings.accumulation)
        if resume:
            state = self._resume()
        state.processes = self.ranks.count
        self._first_step, self._planned = state.step, planned
        started, spent_before = time.monotonic(), state.seconds
        loader: DataLoader[Any] = DataLoader(
            train,  # type: ignore[arg-type]
            batch_sampler=OwnBatches(sampler, self.ranks),
            collate_fn=self.collator,
            num_workers=settings.workers,
            multiprocessing_context="forkserver" if settings.workers else None,
            worker_init_fn=_leave_interrupts_to_the_parent,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # leaves the global stream of random numbers to dropout
        )
        with self._signals():
            while state.epoch < settings.epochs and state.stopped is None:
                train.epoch = state.epoch
                sampler.start_at(state.epoch, state.batch, train.lengths)
                batches = zip(loader, sampler, strict=True)  # each with the rows of all processes
                self.learner.train()
                hold_frozen_statistics(self.learner)
                while state.stopped is None and (group := list(islice(batches, settings.accumulation))):
                    self._step(group)
                    state.seconds = spent_before + time.monotonic() - started
                    self._after_step(state)
                    if self._time_is_up(state):
                        state.stopped = f"the time limit of {settings.time_limit:g} s"
                self._end_epoch(state, validation)
        checkpoint.restore_best(self.checkpoints, self.model, state, self.progress.note)
        self.ranks.wait()  # the first process may remove the checkpoints from here on
        return state

    def _step(self, group: list[tuple[dict[str, Any], list[int]]]) -> None:
        """One step of the optimizer on batches taken together, the very one that a single process takes.

        Each part of the loss is the mean over all that the batches hold of it, in all processes.
        """
        settings, state, device = self.settings, self.state, self.accelerator.device
        set_learning_rate(self.optimizer, learning_rate_factor(state.step, state.steps, settings.warmup_share))
        total = sum(len(rows) for _, rows in group)
        counts = [self._counts(batch, rows) for batch, rows in group]
        names = list(counts[0])
        sums = dict(zip(names, self.ranks.sum([sum(c[name] for c in counts) for name in names]), strict=True))
        state.tokens += int(sums.pop(TOKENS))
        for (batch, _), count in zip(group, counts, strict=True):
            with autocast(device, state.precision):
                found = self.trained(**to_device(batch, device))
            parts = [found[name] * (count[name] * self.ranks.count / max(1, whole)) for name, whole in sums.items()]
            loss = torch.stack(parts).sum()
            loss.backward()
            self.recent_loss += loss.detach() * total
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.batch += len(group)
        state.loss_rows += total

    def _counts(self, batch: dict[str, Any], rows: list[int]) -> dict[str, int]:
        """This process's tokens, and over how many things each part of its loss is a mean: known on the host."""
        head: Any = self.model.head
        parts = head.counts(batch["labels"]) if hasattr(head, "counts") else {"loss": len(batch["lengths"])}
        found = {TOKENS: sum(batch["lengths"]), **parts}
        return found if self.ranks.counts(rows) else dict.fromkeys(found, 0)

    def _after_step(self, state: State) -> None:
        """Report and save where it is time to."""
        due = self.settings.checkpoint_steps is not None and state.step % self.settings.checkpoint_steps == 0
        asked_to_stop = self.ranks.any(self._asked_to_stop)
        if due or asked_to_stop or state.step % STEPS_BETWEEN_READINGS == 0:
            self._read_loss(state)
            self._report(state)
        if due or asked_to_stop:
            self._save(state)
        if asked_to_stop:
            raise StoppedError(f"stopped at step {state.step} of {state.steps}; all is saved, go on with --resume")

    def _save(self, state: State) -> None:
        random_states = self.ranks.all(checkpoint.random_state())
        weights = gather(self.learner.state_dict(), self.ranks.is_first)
        moments = gather(checkpoint.optimizer_tensors(self.optimizer), self.ranks.is_first)
        if self.ranks.is_first:
            checkpoint.save(self.checkpoints, weights, moments, state, random_states)
        self.ranks.wait()

    def _read_loss(self, state: State) -> None:
        found = self.ranks.sum([float(self.recent_loss)])[0] / self.ranks.count
        if not math.isfinite(found):
            raise DivergedError(
                f"the loss is {found} at step {state.step} of {state.steps}: the run has diverged. Lower "
                f"training.learning_rate (now {self.settings.learning_rate:g}) and start again in another folder"
            )
        state.loss_sum += found
        self.recent_loss.zero_()

    def leave_time(self, spent_seconds: float, tokens: int) -> None:
        """Let the time limit count `spent_seconds`, and leave room for forward passes over `tokens` at the end."""
        if self.settings.time_limit is not None:
            self.deadline = time.monotonic() + self.settings.time_limit - spent_seconds
            self.tokens_to_evaluate = tokens

    def _resume(self) -> State:
        found = checkpoint.newest_whole(self.checkpoints, self.progress.note)
        if found is None:
            self.progress.note("no whole checkpoint is there yet; starting from the beginning")
            return self.state
        data_hash = self.state.data_hash
        self.state = checkpoint.restore(found, self.learner, self.optimizer, self.ranks.number)
        if self.state.data_hash != data_hash:
            raise UsageError("the data have changed since this run began; put them back, or start again elsewhere")
        self.progress.note(f"resuming after step {self.state.step} of {self.state.steps}")
        return self.state

    def _time_is_up(self, state: State) -> bool:
        """Whether what comes after training needs the time that is left. Under a time limit the steps planned become
        those that the time allows, so that the learning rate has fallen when it ends."""
        if self.deadline == math.inf:
            return False
        state.steps, is_up = self.ranks.of_first(self._look_at_the_clock(state))
        return is_up

    def _look_at_the_clock(self, state: State) -> tuple[int, bool]:
        """Steps that the time allows, and whether it is up."""
        now = time.monotonic()
        if self._steady is None and state.step >= self._first_step + WARM_UP_STEPS:
            self._steady = (now, state.step, state.tokens)
        started, step_then, tokens_then = self._steady or (now, state.step, state.tokens)
        steps, tokens = state.step - step_then, state.tokens - tokens_then
        if steps == 0:
            return state.steps, now >= self.deadline
        afterwards = self.tokens_to_evaluate * (now - started) / (tokens * FORWARD_SPEED)
        left = self.deadline - afterwards - now
        return min(self._planned, state.step + max(1, int(left * steps / (now - started)))), left <= 0

    def _report(self, state: State) -> None:
        loss = state.loss_sum / max(1, state.loss_rows)
        rate = self.optimizer.param_groups[0]["lr"]
        self.progress.step(state, loss)
        self.accelerator.log(
            {"train/loss": loss, "train/learning_rate": rate, "train/tokens": state.tokens}, step=state.step
        )

    def _end_epoch(self, state: State, validation: Dataset) -> None:
        """Validate, remember the best, decide whether to go on, and save."""
        self._read_loss(state)
        if self.learner is not self.model:
            fill(self.model, gather(self.learner.state_dict(), keep=True))
        metrics = self.ranks.of_first(self._score(validation) if self.ranks.is_first else {})
        entry = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.loss_sum / max(1, state.loss_rows),
            "seconds": round(state.seconds, 2),
            "validation": metrics,
        }
        state.history.append(entry)
        value = metrics[self.task.primary_metric]
        better = state.best_score is None or (value > state.best_score) == self.task.higher_is_better
        if better and value != state.best_score:
            state.best_score, state.best_step, state.worse_epochs = value, state.step, 0
        else:
            state.worse_epochs += 1
        if self.settings.patience is not None and state.worse_epochs >= self.settings.patience:
            state.stopped = f"{state.worse_epochs} epochs without a better {self.task.primary_metric}"
        if state.stopped is None:
            state.epoch, state.batch, state.loss_sum, state.loss_rows = state.epoch + 1, 0, 0.0, 0
        self._save(state)
        self.progress.epoch(entry)
        self.accelerator.log({f"validation/{name}": value for name, value in metrics.items()}, step=state.step)

    def _score(self, validation: Dataset) -> dict[str, float]:
        found = score(self.model, self.task, iter(validation), self.collator, self.state.precision)
        return dict(found["metrics"])

    def _signals(self) -> _Signals:
        return _Signals(self._ask_to_stop)

    def _ask_to_stop(self) -> None:
        self._asked_to_stop = True


def _leave_interrupts_to_the_parent(_: int) -> None:
    """Ctrl-C goes to every process of the terminal; a worker that died of it would break the parent's clean stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Signals:
    """Within it, the first SIGINT or SIGTERM asks for a stop; a second one acts as before."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self.ask = ask
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._handle)
            except ValueError:  # not in the main thread: the caller keeps its own handlers
                return

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.ask()
        signal.signal(number, self.before[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
