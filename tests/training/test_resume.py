"""Kill it at any time and resume to the same weights: real processes, really killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusebert.storage import file_hash

KILLS, KILLS_LONG = 4, 20
CALLS, CALLS_LONG = 20, 90
"""A save makes about nine calls that write, make durable or rename."""


def train_here(settings: dict[str, Any], output: str, fail_at: int | None) -> None:
    """Runs in a process of its own; with `fail_at`, dies inside the N-th system call that makes a file durable."""
    import torch

    from fusebert.training.run import train

    torch.set_num_threads(1)
    if fail_at is not None:
        die_at_call(fail_at)
    train(settings, output, resume=True)


def die_at_call(number: int) -> None:
    calls = 0

    def dying(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return call

    os.fsync, os.replace, os.rename = dying(os.fsync), dying(os.replace), dying(os.rename)


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that need not import torch again, each as killable as any other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fusebert.training.run", "tests.training.test_resume"])
    return context


@pytest.fixture(scope="module")
def settings(tiny: dict[str, Any]) -> dict[str, Any]:
    return tiny | {"training.checkpoint_steps": 1, "training.tokens_per_batch": 256, "model.modality_dropout": 0.2}


def run(
    processes: Any, settings: dict[str, Any], output: Path, kill_after: float | None = None, fail_at: int | None = None
) -> int:
    process = processes.Process(target=train_here, args=(settings, str(output), fail_at))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert process.exitcode is not None
    return int(process.exitcode)


@pytest.fixture(scope="module")
def whole(processes: Any, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """Weight hash and seconds of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    run(processes, settings, folder / "warm", fail_at=1)  # the first process also starts the server
    started = time.monotonic()
    assert run(processes, settings, folder / "run") == 0
    return file_hash(folder / "run" / "model.safetensors"), time.monotonic() - started


@pytest.mark.parametrize("wanted_kills", [KILLS, pytest.param(KILLS_LONG, marks=pytest.mark.real)])
def test_killed_at_random_moments(
    processes: Any,
    settings: dict[str, Any],
    whole: tuple[str, float],
    tmp_path: Path,
    random: np.random.Generator,
    wanted_kills: int,
) -> None:
    wanted, seconds = whole
    output, kills = tmp_path / "model", 0
    while kills < wanted_kills:
        code = run(processes, settings, output, kill_after=random.uniform(0.2, 0.8) * seconds)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if (output / "manifest.json").exists():  # a run may be killed when all is done
            assert file_hash(output / "model.safetensors") == wanted
            shutil.rmtree(output)
    if not (output / "manifest.json").exists():
        assert run(processes, settings, output) == 0
    assert file_hash(output / "model.safetensors") == wanted
    assert not [path for path in output.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("calls", [CALLS, pytest.param(CALLS_LONG, marks=pytest.mark.real)])
def test_killed_inside_saves_at_every_call(
    processes: Any, settings: dict[str, Any], whole: tuple[str, float], tmp_path: Path, calls: int
) -> None:
    """One run, resumed again and again; the k-th process dies at its k-th call, as long as it gets that far."""
    killed = 0
    for call in range(1, calls + 1):
        code = run(processes, settings, tmp_path / "model", fail_at=call)
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        if (tmp_path / "model" / "manifest.json").exists():  # a run may be killed when all is done
            assert file_hash(tmp_path / "model" / "model.safetensors") == whole[0]
            shutil.rmtree(tmp_path / "model")
    if not (tmp_path / "model" / "manifest.json").exists():
        assert run(processes, settings, tmp_path / "model") == 0
    assert killed > calls / 2
    assert file_hash(tmp_path / "model" / "model.safetensors") == whole[0]


@pytest.mark.real
@pytest.mark.parametrize(
    "change", [{"training.workers": 2}, {"training.gradient_accumulation": 3}, {"training.precision": "bf16"}], ids=str
)
def test_killed_once_under_other_settings(
    processes: Any, settings: dict[str, Any], tmp_path: Path, change: dict[str, Any]
) -> None:
    changed = settings | change
    assert run(processes, changed, tmp_path / "whole") == 0
    assert run(processes, changed, tmp_path / "killed", fail_at=40) == -signal.SIGKILL
    assert run(processes, changed, tmp_path / "killed") == 0
    hashes = {file_hash(tmp_path / name / "model.safetensors") for name in ("whole", "killed")}
    assert len(hashes) == 1
