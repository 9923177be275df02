"""Two processes take the steps of one: the same losses, exact resume, and a fresh start after a lost worker."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fusebert.training.run import train

SETTINGS = {"training.epochs": 3, "model.dropout": 0.0, "training.accumulation": 2}
PROGRAM = """
import json, sys, torch
from fusebert.training.run import train
torch.set_num_threads(1)
train(json.loads(sys.argv[1]), sys.argv[2], resume="resume" in sys.argv)
"""


@pytest.fixture
def settings(tiny: dict[str, Any]) -> dict[str, Any]:
    return tiny | SETTINGS


def launch(program: Path, settings: dict[str, Any], folder: Path, *more: str) -> list[subprocess.Popen[bytes]]:
    """Two processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(program), json.dumps(settings), str(folder), *more],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path / "program.py"


def losses(folder: Path) -> list[float]:
    history = json.loads((folder / "metrics.json").read_text())["training"]["history"]
    return [entry["train_loss"] for entry in history] + [entry["validation"]["loss"] for entry in history]


def test_two_processes_take_the_steps_of_one(settings: dict[str, Any], program: Path, tmp_path: Path) -> None:
    train(settings, tmp_path / "one")
    assert [process.wait() for process in launch(program, settings, tmp_path / "two")] == [0, 0]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)


def test_a_lost_worker_costs_a_fresh_start_and_nothing_else(
    settings: dict[str, Any], program: Path, tmp_path: Path
) -> None:
    given = settings | {"training.checkpoint_steps": 2, "model.dropout": 0.1}
    assert [process.wait() for process in launch(program, given, tmp_path / "whole")] == [0, 0]
    processes = launch(program, given, tmp_path / "killed")
    while not list((tmp_path / "killed").glob("checkpoints/step-*")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGKILL)
    time.sleep(0.5)
    processes[0].kill()  # as torchrun does
    for process in processes:
        process.wait()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert [process.wait() for process in launch(program, given, tmp_path / "killed", "resume")] == [0, 0]
    found = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert found[0] == found[1]
