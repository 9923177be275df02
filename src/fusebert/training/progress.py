"""What a run tells the world while it goes on: to a terminal, or to nobody."""

from __future__ import annotations

from typing import Any, Protocol

from rich import progress
from rich.console import Console

from fusebert.stderr import lasting, visible
from fusebert.training.checkpoint import State


class Progress(Protocol):
    """Is told what happens in a run."""

    def note(self, text: str) -> None: ...

    def step(self, state: State, loss: float) -> None: ...

    def epoch(self, entry: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class Silence:
    """Tells nobody."""

    def note(self, text: str) -> None:
        pass

    def step(self, state: State, loss: float) -> None:
        pass

    def epoch(self, entry: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class Terminal:
    """Notes and one line an epoch, above a bar with loss, tokens per second and the time left; on stderr.

    Args:
        unit: what lies between two validations: an epoch, or a round of pre-training.
    """

    def __init__(self, unit: str = "epoch") -> None:
        self.unit = unit
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            progress.TextColumn("loss {task.fields[loss]:.3f}"),
            progress.TextColumn("{task.fields[speed]}"),
            progress.TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.task: progress.TaskID | None = None
        self.noted: set[str] = set()

    def note(self, text: str) -> None:
        self.noted.add(text)
        with lasting():
            self.console.print(visible(text), markup=False)

    def step(self, state: State, loss: float) -> None:
        each = f" in each of {state.processes} processes" if state.processes > 1 else ""
        with lasting():
            if self.task is None:
                self.bar.start()
                self.task = self.bar.add_task("", total=state.steps, loss=loss, speed="")
            self.bar.update(
                self.task,
                completed=state.step,
                total=state.steps,  # which change under a time limit
                loss=loss,
                speed=f"{state.tokens_per_second:,.0f} tokens/s{each}",
                description=f"{self.unit} {state.epoch + 1}",
                refresh=True,
            )

    def epoch(self, entry: dict[str, Any]) -> None:
        scores = "  ".join(f"{name} {short(value)}" for name, value in entry["validation"].items())
        head = f"{self.unit} {entry['epoch']}  {entry['seconds']:.0f} s  train loss {short(entry['train_loss'])}"
        self.note(f"{head}  validation: {scores}")

    def close(self) -> None:
        with lasting():
            self.bar.stop()


def short(number: float) -> str:
    """Four digits after the point, or four in all where that would be too many, or none."""
    return f"{number:.4f}" if number == 0 or 1e-3 <= abs(number) < 1e6 else f"{number:.4g}"
