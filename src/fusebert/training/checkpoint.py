"""Checkpoints: everything a run needs to go on as if it had never stopped, in safetensors and JSON, whole or absent."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fusebert.errors import ModelError
from fusebert.storage import mend_left_by_kills, read_json, verify, write_folder, write_json
from fusebert.training.sharding import placed, put_whole

NAME = re.compile(r"step-(\d{9})")


@dataclass
class State:
    """Where a run stands.

    Args:
        epoch, batch: the next batch to train on.
        step: optimizer steps done.
        steps: optimizer steps planned, or under a time limit expected.
        planned_steps: those of all epochs.
        tokens: of all processes so far.
        seconds: of training so far, validations and saves included.
        seconds_before: that reading, planning and building took, in all starts of the run.
        progress: under a time limit, the share of the run that is over.
        processes: that train together.
        loss_sum, loss_rows: of the running epoch.
        best_step: step of the best validation score; ties go to the lower loss, then to the later step. None before
            the first validation, or where that checkpoint is damaged.
        worse_epochs: epochs since the score was last bettered.
        history: one entry an epoch.
        precision: fp32 or bf16, as chosen at the start.
        data_hash: of what the run reads.
        schedule: the settings that tell how long and how fast it learns, also those that were chosen for it; empty in
            checkpoints of versions that did not keep them.
    """

    steps: int
    precision: str
    data_hash: str
    epoch: int = 0
    batch: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    seconds_before: float = 0.0
    planned_steps: int = 0
    progress: float = 0.0
    processes: int = 1
    loss_sum: float = 0.0
    loss_rows: int = 0
    best_step: int | None = None
    best_score: float | None = None
    worse_epochs: int = 0
    stopped: str | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Of each process."""
        return self.tokens / max(self.seconds, 1e-9) / self.processes

    def kept(self) -> dict[str, Any]:
        """The validation of the weights that are kept: the best, or the last where the best are lost."""
        of_best = (entry for entry in self.history if entry["step"] == self.best_step)
        return dict(next(of_best, self.history[-1])["validation"])

    def judge(self, metrics: Mapping[str, float], primary: str, higher_is_better: bool) -> None:
        """Remember this step where its validation, the last of the history, is the best so far. Few rows tie soon and
        for long: among equal scores the least loss counts, and is progress, or the latest."""
        value = metrics[primary]
        if self.best_score is None or (value != self.best_score and (value > self.best_score) == higher_is_better):
            self.best_score, self.best_step, self.worse_epochs = value, self.step, 0
            return
        self.worse_epochs += 1
        loss, least = (found.get("loss", 0.0) for found in (metrics, self.kept()))
        if value == self.best_score and loss <= least:
            self.best_step = self.step
            self.worse_epochs = 0 if loss < least else self.worse_epochs

    def totals(self) -> dict[str, Any]:
        """What a finished run reports of itself, as JSON values."""
        return self.schedule | {
            "epochs": len(self.history),
            "steps": self.step,
            "planned_steps": self.planned_steps,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "processes": self.processes,
            "tokens_per_second_per_process": round(self.tokens_per_second, 1),
            "best_step": self.best_step,
            "stopped": self.stopped,
            "history": self.history,
        }


def save(
    folder: Path,
    weights: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    state: State,
    random_states: Sequence[Mapping[str, Tensor]],
) -> Path:
    """Write `folder/step-N`; keep it, the one before it, and the best.

    Whatever else is there goes: what killed saves left behind, and steps of a future that a damaged checkpoint has
    made this run go back from.

    Args:
        weights: of the whole model.
        moments: `optimizer_tensors()`, whole.
        random_states: `random_state()` of each process.
    """

    def write(beside: Path) -> None:
        save_file(dict(weights), beside / "model.safetensors")
        random = {f"random.{n}.{name}": value for n, one in enumerate(random_states) for name, value in one.items()}
        save_file(dict(moments) | random, beside / "optimizer.safetensors")
        write_json(beside / "state.json", asdict(state))

    target = folder / f"step-{state.step:09d}"
    write_folder(target, write)
    before = next((_step(path) for path in _newest_first(folder) if _step(path) < state.step), None)
    for old in _newest_first(folder):
        if _step(old) not in (state.step, before, state.best_step):
            shutil.rmtree(old)
    for left in [*folder.glob(".step-*.part"), *folder.glob(".step-*.old")]:
        shutil.rmtree(left)
    return target


def newest_whole(folder: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose every byte is as written; damaged ones are reported and passed over."""
    mend_left_by_kills(folder, "step-*")
    for found in _newest_first(folder):
        try:
            verify(found)
        except ModelError as error:
            warn(f"the checkpoint {found.name} is damaged and is skipped: {error}")
        else:
            return found
    return None


def restore(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, process: int = 0) -> State:
    """Put a checkpoint's weights, optimizer and the random state of this process back.

    Raises:
        ModelError: the checkpoint is of another model, or was written by fewer processes.
    """
    restore_weights(folder, model)
    saved = load_file(folder / "optimizer.safetensors")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        prefix = f"{number}."
        found = {name.removeprefix(prefix): value for name, value in saved.items() if name.startswith(prefix)}
        if found:
            if any(value.shape not in ((), parameter.shape) for value in found.values()):
                raise ModelError(
                    f"{folder} was written by another version of fusebert, or for another trunk: its optimizer does "
                    "not fit; start again elsewhere"
                )
            on_device = {name: value.to(parameter.device) for name, value in found.items()}
            optimizer.state[parameter] = {name: placed(value, parameter) for name, value in on_device.items()}
    random = f"random.{process}"
    if f"{random}.cpu" not in saved:
        raise ModelError(f"{folder} was written by fewer processes; resume with as many as began the run")
    torch.set_rng_state(saved[f"{random}.cpu"])
    if torch.cuda.is_available() and f"{random}.cuda" in saved:
        torch.cuda.set_rng_state(saved[f"{random}.cuda"])
    return read_state(folder)


def read_state(folder: Path) -> State:
    """Where the run of a checkpoint stands."""
    return State(**read_json(folder / "state.json"))


def restore_weights(folder: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights back."""
    try:
        put_whole(model, load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise ModelError(f"{folder} belongs to another model than the recipe describes: {error}") from None


def restore_best(folder: Path, model: nn.Module, state: State, warn: Callable[[str], None]) -> None:
    """Put the weights with the best validation score back; where damage has cost them, say so and keep the last."""
    if state.best_step is None:
        return
    found = folder / f"step-{state.best_step:09d}"
    try:
        verify(found)
    except ModelError as error:
        warn(f"the best checkpoint is damaged, so the last weights are kept: {error}")
        state.best_step = None
    else:
        restore_weights(found, model)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter, by the parameter's number."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        f"{number}.{name}": value
        for number, parameter in enumerate(parameters)
        for name, value in optimizer.state[parameter].items()
    }


def random_state() -> dict[str, Tensor]:
    """Where this process's streams of random numbers stand."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _step(folder: Path) -> int:
    found = NAME.fullmatch(folder.name)
    return int(found[1]) if found else -1


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=_step, reverse=True)
