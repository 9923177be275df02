"""Processes that read and prepare rows: how they begin and end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from fusebert.data import dataset
from fusebert.errors import RowError
from fusebert.training import run
from fusebert.training.progress import Silence
from fusebert.training.run import train
from fusebert.training.trainer import StoppedError
from tests.conftest import ended

TRAIN = "import json, sys; from fusebert.training.run import train; train(json.loads(sys.argv[1]), sys.argv[2])"
BOUND_SECONDS = 60


def test_they_are_forked_from_what_is_imported() -> None:
    """In a process of its own, for this one may have begun to fork already."""
    program = (
        "import sys; from concurrent.futures import ProcessPoolExecutor as Pool\n"
        "if __name__ == '__main__':\n"
        "    from fusebert.training.workers import worker_context\n"
        "    pool = Pool(1, mp_context=worker_context())\n"
        "    print(pool.submit(eval, \"'torch' in __import__('sys').modules\").result())"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "True\n"


def test_they_end_with_a_training_that_is_killed(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = tiny | {"training.workers": 2, "training.epochs": 10_000}
    training = psutil.Popen([sys.executable, "-c", TRAIN, json.dumps(settings), str(tmp_path / "model")])
    try:
        until, helpers = time.monotonic() + BOUND_SECONDS, []
        while len(helpers) < 4:  # one that counts semaphores, one that forks, and two workers; anew in each epoch
            assert training.is_running()
            assert time.monotonic() < until
            time.sleep(0.01)
            helpers = training.children(recursive=True)
    finally:
        training.kill()
        training.wait()
    _, left = psutil.wait_procs(helpers, timeout=BOUND_SECONDS)
    for process in left:
        process.kill()
    assert not left


def test_an_interrupt_while_they_begin_is_a_clean_stop(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal."""
    (tmp_path / "recipe.yaml").write_text(json.dumps(tiny | {"training.workers": 2, "training.epochs": 10_000}))
    command = [sys.executable, "-m", "fusebert.cli", "train", "recipe.yaml", "--output", "model"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    training = psutil.Popen(command, cwd=tmp_path, start_new_session=True, preexec_fn=_listen, **pipes)
    with ended(training):
        until = time.monotonic() + BOUND_SECONDS
        while len(training.children()) < 2:  # one that counts semaphores, and one that imports to fork
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(0.5)
        os.killpg(training.pid, signal.SIGINT)
        said = "".join(training.communicate(timeout=BOUND_SECONDS))
    assert training.returncode != 0
    assert "Traceback" not in said, said
    assert "stopped at step" in said or "interrupted" in said


def test_a_signal_to_all_processes_is_a_clean_stop(tiny: dict[str, Any], tmp_path: Path) -> None:
    """As from systemd, or `timeout`: it ends those that prepare rows, too."""
    (tmp_path / "recipe.yaml").write_text(json.dumps(tiny | {"training.workers": 2, "training.epochs": 10_000}))
    command = [sys.executable, "-m", "fusebert.cli", "train", "recipe.yaml", "--output", "model"]
    training = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True)
    with ended(training):
        until = time.monotonic() + BOUND_SECONDS
        while not [*(tmp_path / "model").glob("checkpoints/step-*")]:
            assert time.monotonic() < until
            time.sleep(0.01)
        os.killpg(training.pid, signal.SIGTERM)
        said = training.communicate(timeout=BOUND_SECONDS)[1]
    assert training.returncode == 1
    assert "Traceback" not in said, said
    assert "all is saved, go on with --resume" in said


def test_a_helper_that_is_killed_is_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = tiny | {"training.workers": 1, "training.epochs": 10_000}
    training = psutil.Popen(
        [sys.executable, "-c", TRAIN, json.dumps(settings), str(tmp_path / "model")], stderr=subprocess.PIPE, text=True
    )
    with ended(training):
        until, killed = time.monotonic() + BOUND_SECONDS, False
        while training.is_running() and training.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
            with suppress(psutil.Error):
                for process in training.children(recursive=True):
                    if process.ppid() != training.pid:
                        process.kill()
                        killed = True
            time.sleep(0.01)
        said = training.communicate(timeout=BOUND_SECONDS)[1]
    assert killed
    assert "LostWorkerError: a process that prepares rows was killed" in said, said


def test_a_signal_in_the_last_validation_is_a_clean_stop(tiny: dict[str, Any], tmp_path: Path) -> None:
    class Asks(Silence):
        def epoch(self, _: dict[str, Any]) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError, match="all is saved"):
        train(tiny | {"training.epochs": 1}, tmp_path / "model", progress=Asks())
    assert not (tmp_path / "model" / "manifest.json").exists()
    train(tiny | {"training.epochs": 1}, tmp_path / "model", resume=True)
    assert (tmp_path / "model" / "manifest.json").exists()


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test may run where it is ignored


def test_a_row_that_can_no_longer_be_read_is_an_error_in_words(
    tiny: dict[str, Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that goes after the check of all rows; told as where there are no workers."""
    shutil.copytree(world, tmp_path / "world")
    look, picture = run.build_model, tmp_path / "world" / "images" / "train_0003.png"

    def remove(*given: Any) -> Any:
        picture.unlink(missing_ok=True)
        return look(*given)

    monkeypatch.setattr(run, "build_model", remove)
    monkeypatch.setattr(dataset, "KEPT_BYTES", 0)
    said = []
    for workers in (0, 2):
        shutil.copy(world / "images" / "train_0003.png", picture)
        with pytest.raises(RowError) as raised:
            train(tiny | {"data.root": str(tmp_path / "world"), "training.workers": workers}, tmp_path / str(workers))
        said.append(str(raised.value).partition(", row ")[0])
        assert "\n" not in str(raised.value)
        assert "train_0003.png" in str(raised.value)
    assert said[0] == said[1] == str(tmp_path / "world" / "train.jsonl")
