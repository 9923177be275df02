"""Two processes take the steps of one: the same losses, exact resume, and a fresh start after a lost worker."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fusebert.errors import FusebertError
from fusebert.training.pretrain import pretrain
from fusebert.training.run import train
from tests.corpus.conftest import corpus, documents  # noqa: F401

SETTINGS = {"training.epochs": 2, "model.dropout": 0.0, "training.accumulation": 2}
PRETRAINING: dict[str, Any] = {
    "model.trunk": "tiny",
    "task.length": 48,
    "task.passes": 0.3,
    "task.rounds": 2,
    "training.tokens_per_batch": 256,
    "training.learning_rate": 2e-3,
    "training.precision": "fp32",
    "training.trackers": [],
}
BOUND_SECONDS = 60
"""In this time a run ends that has lost a worker."""

Run = tuple[str, dict[str, Any], Path]


def work(rank: int, port: int, runs: list[Run], resume: bool, said: Path) -> None:
    """One of two processes, as torchrun starts them, that do these runs together."""
    import torch
    from accelerate.state import AcceleratorState

    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    for task, settings, folder in runs:
        try:
            {"train": train, "pretrain": pretrain}[task](settings, folder, resume=resume)
        except FusebertError as error:
            said.write_text(str(error))
            sys.exit(1)
        AcceleratorState._reset_state(True)  # the next run forms a group of its own


def launch(runs: list[Run], resume: bool = False) -> list[Any]:
    """Two processes that need not import torch again, each as killable as any other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fusebert.training.pretrain", "tests.training.test_ranks"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    said = runs[0][2].parent / "said"
    processes = [context.Process(target=work, args=(rank, port, runs, resume, said)) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def together(runs: list[Run], resume: bool = False) -> None:
    """Both processes finish all runs."""
    processes = launch(runs, resume)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]


def lose_a_worker(runs: list[Run]) -> None:
    """One process is killed after the first checkpoint; the other says so by itself."""
    processes = launch(runs)
    try:
        while not list(runs[0][2].glob("checkpoints/step-*")):
            assert all(process.is_alive() for process in processes)
            time.sleep(0.01)
        os.kill(processes[1].pid, signal.SIGKILL)
        processes[0].join(BOUND_SECONDS)
    finally:
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
            process.join()
    assert codes[0] == 1
    assert "another process of this run is gone" in (runs[0][2].parent / "said").read_text()
    assert not (runs[0][2] / "manifest.json").exists()


def training(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text())["training"]
    return found


def losses(folder: Path) -> list[float]:
    history = training(folder)["history"]
    return [entry["train_loss"] for entry in history] + [entry["validation"]["loss"] for entry in history]


def test_two_processes_take_the_steps_of_one(
    tiny: dict[str, Any],
    corpus: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Whatever the loss is a mean over: rows, or masked pieces, of which the rows have 2 to 7."""
    apart = PRETRAINING | {"data.train": str(corpus)}
    runs: list[Run] = [
        ("train", tiny | SETTINGS, tmp_path / "train"),
        ("pretrain", apart, tmp_path / "pretrain"),
        ("pretrain", apart | {"training.accumulation": 3}, tmp_path / "accumulated"),
        ("pretrain", apart | {"training.accumulation": 3, "training.parallel": "fsdp"}, tmp_path / "in_parts"),
    ]
    together(runs)
    train(tiny | SETTINGS, tmp_path / "one" / "train")
    pretrain(apart, tmp_path / "one" / "pretrain")
    pretrain(apart | {"training.accumulation": 3}, tmp_path / "one" / "accumulated")
    for name in ("train", "pretrain", "accumulated", "in_parts"):
        alone = tmp_path / "one" / ("accumulated" if name == "in_parts" else name)
        assert losses(tmp_path / name) == pytest.approx(losses(alone), abs=2e-5), name
        assert training(tmp_path / name)["tokens"] == training(alone)["tokens"]
        assert training(tmp_path / name)["processes"] == 2


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_lost_worker_costs_a_fresh_start_and_nothing_else(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    parallel: str,
) -> None:
    more = {"data.train": str(corpus), "training.checkpoint_steps": 4, "model.dropout": 0.1}
    given = PRETRAINING | more | {"training.parallel": parallel}
    together([("pretrain", given, tmp_path / "whole")])
    lose_a_worker([("pretrain", given, tmp_path / "killed")])
    together([("pretrain", given, tmp_path / "killed")], resume=True)
    found = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert found[0] == found[1]
