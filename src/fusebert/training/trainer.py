"""The training loop, for every task: reads top to bottom, stops and resumes at any step; on a CPU, bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from fusebert.config import TrainingSettings
from fusebert.data.collate import Collator
from fusebert.data.dataset import Split
from fusebert.data.sampler import TokenBudgetSampler
from fusebert.errors import DataError, DivergedError, FusebertError, ModelError, UsageError
from fusebert.evaluation.inference import autocast, score, to_device
from fusebert.model.modeling import FusebertModel
from fusebert.storage import CHECKPOINTS, verify
from fusebert.tasks.base import Task
from fusebert.training import checkpoint
from fusebert.training.checkpoint import State
from fusebert.training.clock import Clock
from fusebert.training.compilation import compile_for_training, pick_compile, undo_compilation
from fusebert.training.optimization import (
    build_optimizer,
    hold_frozen_statistics,
    learning_rate_factor,
    set_learning_rate,
)
from fusebert.training.progress import Progress
from fusebert.training.ranks import OwnBatches, Ranks, naming_lost_ranks
from fusebert.training.sharding import drop_unused_gradients, gather, put_whole, shard
from fusebert.training.signals import Signals
from fusebert.training.workers import (
    BatchOrError,
    LostWorkerError,
    RowsOrErrors,
    begin_worker,
    naming_lost_workers,
    raising,
    worker_context,
)

TOKENS = "tokens"
STEPS_BETWEEN_READINGS = 10
"""The loss is read from the device, and shown, this often."""
FINEST = 100_000
"""Under a time limit the learning rate follows the time, in so many steps."""
NO_MEMORY = "can't allocate memory"
"""What torch says on a CPU, in a RuntimeError."""

Dealt = tuple[dict[str, Any], list[int]]
"""A batch of this process, and the numbers of its rows in all of them."""


class StoppedError(FusebertError):
    """The run was asked to stop; its checkpoint is written."""


class Trainer:
    """Trains a model on checked rows.

    Args:
        folder: of the run; checkpoints are written to `folder/checkpoints`.
        state: of a run that has not begun; a run resumes on the data with this hash only.
        clock: of its time limit; None for none.
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
        clock: Clock | None = None,
    ) -> None:
        self.task, self.collator, self.settings, self.progress = task, collator, settings, progress
        self.accelerator, self.checkpoints, self.ranks = accelerator, folder / CHECKPOINTS, Ranks(accelerator)
        self.model = model.to(accelerator.device)  # whole: it is scored and published
        self.in_parts = settings.parallel == "fsdp" and self.ranks.world_size > 1
        self.learner = shard(self.model, self.ranks.world_size) if self.in_parts else self.model
        if self.in_parts:
            self.model.to("cpu")  # until it is scored
        self.optimizer = build_optimizer(self.learner, settings)
        self.compiled = pick_compile(settings.compile, accelerator.device.type, task.name)
        if self.compiled:
            compile_for_training(self.learner)
        self.trained = self.ranks.wrap(self.learner)
        self.state = state
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.recent_loss = torch.zeros((), device=accelerator.device, dtype=torch.float64)
        self.clock = clock or Clock()
        self._asked_to_stop = False
        self._planned, self._began = 0, 0.0

    def fit(self, train: Split, validation: Split, resume: bool) -> State:
        """Train to the end, the time limit, or the early stop; leaves the best weights in the model.

        Raises:
            StoppedError: after SIGINT or SIGTERM, with everything saved.
            LostRankError: another process of the run has gone.
            LostWorkerError: a process that prepares rows has gone.
            UsageError: a batch does not fit into memory.
        """
        try:
            with naming_lost_ranks(self.ranks.group), naming_lost_workers():
                return self._fit(train, validation, resume)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError | torch.OutOfMemoryError) and NO_MEMORY not in str(error):
                raise
            whose = "GPU's" if isinstance(error, torch.OutOfMemoryError) else "machine's"
            raise UsageError(
                f"the {whose} memory is too small for batches of {self.settings.tokens_per_batch:,} tokens; start "
                "again with a smaller training.tokens_per_batch and as much more training.gradient_accumulation, "
                "or a smaller model"
            ) from None

    def _fit(self, train: Split, validation: Split, resume: bool) -> State:
        settings, state = self.settings, self.state
        sampler = TokenBudgetSampler(train.lengths, settings.tokens_per_batch, settings.seed)
        state.steps = planned = settings.epochs * math.ceil(len(sampler) / settings.gradient_accumulation)
        if resume:
            state = self._resume()
        state.processes, self._planned = self.ranks.world_size, planned
        state.planned_steps = planned
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        self.clock.expect(int(validation.lengths.sum()), 3 * 4 * weights)  # each with two moments, in fp32
        self._began = time.monotonic() - state.seconds
        loader = self._loader(train, sampler)
        with Signals(self._ask_to_stop):
            while state.epoch < settings.epochs and state.stopped is None:
                train.epoch = state.epoch
                sampler.start_at(state.epoch, state.batch, train.lengths)
                batches = zip(raising(loader), sampler, strict=True)  # each with the rows of all processes
                self.learner.train()
                hold_frozen_statistics(self.learner)
                while state.stopped is None and (group := self._next(batches)):
                    self._step(group)
                    state.seconds = time.monotonic() - self._began
                    self._after_step()
                    if self._time_is_up(ends_round=state.batch == len(sampler)):
                        state.stopped = f"the time limit of {settings.time_limit:g} s"
                self._end_epoch(validation)
            if self.ranks.any(self._asked_to_stop):  # during the last validation
                raise _stopped(state)
        if self.compiled:
            undo_compilation(self.learner)
        self.model.to(self.accelerator.device)
        checkpoint.restore_best(self.checkpoints, self.model, state, self.progress.note)
        self.ranks.wait()  # the first process may remove the checkpoints from here on
        return state

    def _loader(self, rows: Split, sampler: TokenBudgetSampler) -> DataLoader[Any]:
        workers = self.settings.workers
        return DataLoader(
            RowsOrErrors(rows),  # type: ignore[arg-type]
            batch_sampler=OwnBatches(sampler, self.ranks),
            collate_fn=BatchOrError(self.collator),
            num_workers=workers,
            multiprocessing_context=worker_context() if workers else None,
            worker_init_fn=begin_worker,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # leaves the global stream of random numbers to dropout
        )

    def _next(self, batches: Iterator[Dealt]) -> list[Dealt]:
        """The batches of the next step. A signal to all processes also ends those that prepare them."""
        try:
            with naming_lost_workers():
                return list(islice(batches, self.settings.gradient_accumulation))
        except LostWorkerError:
            if not self._asked_to_stop or self.ranks.world_size > 1:
                raise
            self._read_loss()
            self._save()
            raise _stopped(self.state) from None

    def _step(self, group: list[Dealt]) -> None:
        """One step of the optimizer on batches taken together, the very one that a single process takes.

        Each part of the loss is the mean over all that the batches hold of it, in all processes.
        """
        settings, state, device = self.settings, self.state, self.accelerator.device
        place = (int(state.progress * FINEST), FINEST) if self.clock.limited else (state.step, state.steps)
        set_learning_rate(self.optimizer, learning_rate_factor(*place, settings.warmup_ratio))
        total = sum(len(rows) for _, rows in group)
        counts = [self._counts(batch, rows) for batch, rows in group]
        names = list(counts[0])
        sums = dict(zip(names, self.ranks.sum([sum(c[name] for c in counts) for name in names]), strict=True))
        state.tokens += int(sums.pop(TOKENS))
        for (batch, _), count in zip(group, counts, strict=True):
            with autocast(device, state.precision):
                found = self.trained(**to_device(batch, device))
            parts = [
                found[name] * (count[name] * self.ranks.world_size / max(1, whole)) for name, whole in sums.items()
            ]
            loss = torch.stack(parts).sum()
            loss.backward()
            self.recent_loss += loss.detach() * total
        if self.in_parts:
            drop_unused_gradients(self.learner, self._modalities(group))
        torch.nn.utils.clip_grad_norm_(self.parameters, settings.max_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.batch += len(group)
        state.loss_rows += total

    def _modalities(self, group: list[Dealt]) -> list[str]:
        """Those that a row has, in any process."""
        mine = [name for batch, rows in group if self.ranks.has_rows(rows) for name in batch["inputs"]]
        names = list(self.model.embedders)
        batches = self.ranks.sum([mine.count(name) for name in names])
        return [name for name, count in zip(names, batches, strict=True) if count]

    def _counts(self, batch: dict[str, Any], rows: list[int]) -> dict[str, int]:
        """This process's tokens, and over how many things each part of its loss is a mean: known on the host."""
        head: Any = self.model.head
        parts = head.counts(batch["labels"]) if hasattr(head, "counts") else {"loss": len(batch["lengths"])}
        found = {TOKENS: sum(batch["lengths"]), **parts}
        return found if self.ranks.has_rows(rows) else dict.fromkeys(found, 0)

    def _after_step(self) -> None:
        """Report and save where it is time to."""
        state = self.state
        due = self.settings.checkpoint_steps is not None and state.step % self.settings.checkpoint_steps == 0
        asked_to_stop = self.ranks.any(self._asked_to_stop)
        if due or asked_to_stop or state.step % STEPS_BETWEEN_READINGS == 0:
            self._read_loss()
            self._report()
        if due or asked_to_stop:
            self._save()
        if asked_to_stop:
            raise _stopped(state)

    def _save(self) -> None:
        random_states = self.ranks.all(checkpoint.random_state())
        weights = gather(self.learner.state_dict(), self.ranks.is_first)
        moments = gather(checkpoint.optimizer_tensors(self.optimizer), self.ranks.is_first)
        if self.ranks.is_first:
            checkpoint.save(self.checkpoints, weights, moments, self.state, random_states)
        self.ranks.wait()

    def _read_loss(self) -> None:
        state = self.state
        found = self.ranks.sum([float(self.recent_loss)])[0] / self.ranks.world_size
        if not math.isfinite(found):
            raise DivergedError(
                f"the loss is {found} at step {state.step} of {state.steps}: the run has diverged. Lower "
                f"training.learning_rate (now {self.settings.learning_rate:g}) and start again in another folder"
            )
        state.loss_sum += found
        self.recent_loss.zero_()

    def _resume(self) -> State:
        found = self._chosen_by_first()
        if found is None:
            self.progress.note("no whole checkpoint is there yet; starting from the beginning")
            return self.state
        saved = checkpoint.read_state(found)
        if saved.data_hash != self.state.data_hash:
            raise UsageError("the data have changed since this run began; put them back, or start again elsewhere")
        if saved.processes != self.ranks.world_size:
            raise UsageError(
                f"this run was begun with processes: {saved.processes}, and is resumed with {self.ranks.world_size}; "
                "resume it with as many, or start again elsewhere"
            )
        here, schedule = self.state.seconds_before, self.state.schedule
        changed = [name for name in saved.schedule if saved.schedule[name] != schedule.get(name)]
        if changed:
            name = changed[0]
            raise UsageError(
                f"this run was begun with training.{name}={saved.schedule[name]}, and would now have "
                f"{schedule.get(name)}: its trunk or fusebert is another one; put that back, or start again elsewhere"
            )
        self.state = checkpoint.restore(found, self.learner, self.optimizer, self.ranks.rank)
        self.state.schedule = schedule
        self.clock.spend(self.state.seconds_before, self.state.seconds)
        self.state.seconds_before += here
        self.progress.note(f"resuming after step {self.state.step} of {self.state.steps}")
        return self.state

    def _chosen_by_first(self) -> Path | None:
        """The checkpoint that all processes go on from. Raises UsageError in all where one of them does not see it."""
        newest = checkpoint.newest_whole(self.checkpoints, self.progress.note) if self.ranks.is_first else None
        name = self.ranks.of_first(newest.name if newest else None)
        if name is None:
            return None
        found, fault = self.checkpoints / name, ""
        if not self.ranks.is_first:
            try:
                verify(found)
            except ModelError as error:
                fault = str(error)
        if faults := [one for one in self.ranks.all(fault) if one]:
            raise UsageError(
                f"not all processes can read {name}, from which the first goes on ({faults[0]}); they need the same "
                "output folder, on a disk that they share"
            )
        return found

    def _time_is_up(self, ends_round: bool) -> bool:
        """Whether what comes after training needs the time that is left. Under a time limit the learning rate follows
        the time, so that it has fallen when the time ends; the steps planned become those that it seems to allow."""
        if not self.clock.limited:
            return False
        state = self.state
        progress, is_up = self.ranks.of_first(self.clock.look(state, ends_round))
        state.progress = max(progress, state.step / self._planned)
        state.steps = max(state.step, round(state.step / state.progress))
        return is_up

    def _report(self) -> None:
        state = self.state
        loss = state.loss_sum / max(1, state.loss_rows)
        first = self.optimizer.param_groups[0]  # of a low layer, which may learn slower
        rate = self.settings.learning_rate * first["lr"] / first["peak"]
        self.progress.step(state, loss)
        self.accelerator.log(
            {"train/loss": loss, "train/learning_rate": rate, "train/tokens": state.tokens}, step=state.step
        )

    def _end_epoch(self, validation: Split) -> None:
        """Validate, remember the best, decide whether to go on, and save."""
        state = self.state
        self._read_loss()
        began = time.monotonic()
        if self.in_parts:
            put_whole(self.model, gather(self.learner.state_dict(), keep=True))
        metrics = self.ranks.of_first(self._score(validation) if self.ranks.is_first else {})
        scored = time.monotonic()
        entry = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "train_loss": state.loss_sum / max(1, state.loss_rows),
            "seconds": round(state.seconds, 2),
            "validation": metrics,
        }
        state.history.append(entry)
        if self.task.primary_metric not in metrics:
            raise DataError(
                f"the validation rows are too much alike to tell {self.task.primary_metric}; choose another task.metric"
            )
        for name, value in metrics.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise UsageError(
                    f"the task {self.task.name!r} gives {name}={value!r}, which JSON has not; it may leave it out"
                )
        state.judge(metrics, self.task.primary_metric, self.task.higher_is_better)
        if self.settings.patience is not None and state.worse_epochs >= self.settings.patience:
            epochs = "epoch" if state.worse_epochs == 1 else "epochs"
            state.stopped = f"{state.worse_epochs} {epochs} without a better {self.task.primary_metric}"
        if state.stopped is None:
            state.epoch, state.batch, state.loss_sum, state.loss_rows = state.epoch + 1, 0, 0.0, 0
        state.seconds = time.monotonic() - self._began
        self._save()
        self.clock.timed(scored - began, time.monotonic() - scored)
        self.progress.epoch(entry)
        self.accelerator.log({f"validation/{name}": value for name, value in metrics.items()}, step=state.step)

    def _score(self, validation: Split) -> dict[str, float]:
        self.model.to(self.accelerator.device)
        # to compile once more for layers without gradients would take longer than scoring
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            found = score(self.model, self.task, iter(validation), self.collator, self.state.precision)
        if self.in_parts:
            self.model.to("cpu")
        return dict(found["metrics"])

    def _ask_to_stop(self) -> None:
        self._asked_to_stop = True


def _stopped(state: State) -> StoppedError:
    return StoppedError(f"stopped at step {state.step} of {state.steps}; all is saved, go on with --resume")
