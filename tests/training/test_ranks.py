"""Two processes take the steps of one: the same losses, exact resume, and a fresh start after a lost worker."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

from fusebert.errors import FusebertError, UsageError
from fusebert.storage import seal
from fusebert.training import pretrain as module
from fusebert.training import run
from fusebert.training.pretrain import pretrain
from fusebert.training.progress import Silence
from fusebert.training.ranks import LostRankError, naming_lost_ranks
from fusebert.training.run import train
from tests.corpus.conftest import corpus, documents  # noqa: F401

SETTINGS = {"training.epochs": 2, "model.dropout": 0.0, "training.gradient_accumulation": 2}
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
SELDOM = {"training.parallel": "fsdp", "training.gradient_accumulation": 1, "training.tokens_per_batch": 128}
MOST_RUNS = 5
BOUND_SECONDS = 60
"""In this time a run ends that has lost a worker."""

Run = tuple[str, dict[str, Any], Path]


def join_as(rank: int, port: int) -> None:
    """Be one of two processes, as torchrun starts them."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)


def work(rank: int, port: int, runs: list[Run], resume: bool, said: Path) -> None:
    """One of two processes that do these runs together."""
    from accelerate.state import AcceleratorState

    for number, (task, settings, folder) in enumerate(runs):
        folder = Path(str(folder).format(rank=rank))
        join_as(rank, port + number)  # a port of its own: one process may still find the server of the run before
        try:
            {"train": train, "pretrain": pretrain}[task](settings, folder, resume=resume)
        except FusebertError as error:
            said.write_text(str(error))
            (said.parent / f"said{rank}").write_text(str(error))
            sys.exit(1)
        AcceleratorState._reset_state(True)  # the next run forms a group of its own


def launch(runs: list[Run], resume: bool = False) -> list[Any]:
    """Two processes that do these runs together."""
    return start(work, runs, resume, runs[0][2].parent / "said")


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nothing listens to."""
    for first in range(random.randrange(20_000, 30_000), 32_000, count):
        with ExitStack() as opened, suppress(OSError):
            for port in range(first, first + count):
                opened.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def start(target: Callable[..., None], *arguments: Any) -> list[Any]:
    """Two processes that need not import torch again, each as killable as any other."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fusebert.training.pretrain", "tests.training.test_ranks"])
    port = free_ports(MOST_RUNS)
    processes = [context.Process(target=target, args=(rank, port, *arguments)) for rank in range(2)]
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


def with_few_pictures(world: Path, folder: Path) -> Path:
    """A table of which most batches have no picture."""
    rows = [json.loads(line) for line in (world / "train.jsonl").read_text().splitlines()]
    (folder / "images").mkdir()
    for number, row in enumerate(rows):
        if number % 40:
            row["image"] = None
        else:
            shutil.copy(world / row["image"], folder / "images")
    table = folder / "seldom.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


@pytest.mark.parametrize(
    "names",
    [
        ("accumulated", "in_parts", "train_seldom"),
        pytest.param(("train", "pretrain", "accumulated", "in_parts", "train_seldom"), marks=pytest.mark.real),
    ],
    ids=["some", "all"],
)
def test_two_processes_take_the_steps_of_one(
    tiny: dict[str, Any],
    world: Path,
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    names: tuple[str, ...],
) -> None:
    """Whatever the loss is a mean over: rows, or masked pieces, of which the rows have 2 to 7."""
    apart = PRETRAINING | {"data.train": str(corpus)}
    settings = {
        "train": tiny | SETTINGS,
        "pretrain": apart,
        "accumulated": apart | {"training.gradient_accumulation": 3},
        "in_parts": apart | {"training.parallel": "fsdp", "task.next_sentence": "off", "training.weight_decay": 1.0},
        "train_seldom": tiny | SETTINGS | SELDOM | {"data.train": str(with_few_pictures(world, tmp_path))},
    }
    together([("train" if name.startswith("train") else "pretrain", settings[name], tmp_path / name) for name in names])
    for name in names:
        alone = tmp_path / "one" / name
        (train if name.startswith("train") else pretrain)(settings[name], alone)
        assert losses(tmp_path / name) == pytest.approx(losses(alone), abs=2e-5), name
        assert training(tmp_path / name)["tokens"] == training(alone)["tokens"]
        assert training(tmp_path / name)["processes"] == 2
    unread = [load_file(root / "in_parts" / "model.safetensors") for root in (tmp_path, tmp_path / "one")]
    assert torch.equal(*(weights["bert.pooler.dense.weight"] for weights in unread))


@pytest.mark.real
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_compiled_processes_take_the_steps_of_one(corpus: Path, tmp_path: Path, parallel: str) -> None:  # noqa: F811
    given = PRETRAINING | {"data.train": str(corpus), "training.parallel": parallel}
    together([("pretrain", given | {"training.compile": True}, tmp_path / "compiled")])
    pretrain(given, tmp_path / "one")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "one"), abs=2e-4)


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.real)])
def test_a_lost_worker_costs_a_fresh_start_and_nothing_else(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    parallel: str,
) -> None:
    more = {"data.train": str(corpus), "training.checkpoint_steps": 4, "model.dropout": 0.1}
    given = PRETRAINING | more | {"training.parallel": parallel}
    together([("pretrain", given, tmp_path / "whole")])
    lose_a_worker([("pretrain", given, tmp_path / "killed")])
    with pytest.raises(UsageError, match="begun with processes: 2, and is resumed with 1"):
        pretrain(given, tmp_path / "killed", resume=True)
    together([("pretrain", given, tmp_path / "killed")], resume=True)
    found = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert found[0] == found[1]


class StopOnceSaved(Silence):
    """Breaks a run off after its first checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def step(self, *_: object) -> None:
        if list(self.folder.glob("checkpoints/step-*")):
            raise KeyboardInterrupt


@pytest.mark.parametrize("lacks", ["all", "checkpoint"])
def test_processes_that_see_different_folders_do_not_go_on(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    lacks: str,
) -> None:
    """Such as two machines with a disk each, of which only the first holds what was saved."""
    given = PRETRAINING | {"data.train": str(corpus), "training.checkpoint_steps": 4}
    own = tmp_path / "own0"
    with pytest.raises(KeyboardInterrupt):
        pretrain(given, own, progress=StopOnceSaved(own))
    for state in own.glob("checkpoints/step-*/state.json"):  # as if two processes had begun it
        state.write_text(json.dumps(json.loads(state.read_text()) | {"processes": 2}))
        seal(state.parent)
    if lacks == "checkpoint":
        (tmp_path / "own1").mkdir()
        shutil.copy(own / "recipe.yaml", tmp_path / "own1")
    processes = launch([("pretrain", given, tmp_path / "own{rank}")], resume=True)
    for process in processes:
        process.join(BOUND_SECONDS)
    assert [process.exitcode for process in processes] == [1, 1]
    for rank in range(2):
        assert "on a disk that they share" in (tmp_path / f"said{rank}").read_text()


def lose_the_reader(rank: int, port: int, settings: dict[str, Any], said: Path) -> None:
    """One of two processes, of which the first is killed while it reads the corpus and the other waits."""
    from torch import distributed

    run.look_into = lambda *_: distributed.barrier()  # type: ignore[assignment]
    module.read_corpus = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, return-value]
    work(rank, port, [("pretrain", settings, said.parent / "run")], False, said)


def test_a_worker_lost_before_training_is_named(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    said = tmp_path / "said"
    processes = start(lose_the_reader, PRETRAINING | {"data.train": str(corpus)}, said)
    for process in processes:
        process.join(BOUND_SECONDS)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 1]
    assert "another process of this run is gone" in said.read_text()


def command(rank: int, port: int, arguments: list[str], said: Path) -> None:
    """One of two processes of the command line; what it prints goes into a file of its own."""
    from fusebert.cli import main

    join_as(rank, port)
    with (said / f"out{rank}").open("w") as out, (said / f"err{rank}").open("w") as err:
        sys.stdout, sys.stderr = out, err
        code = 1
        try:
            code = main(arguments)
        except BaseException:
            traceback.print_exc()  # now: the file is closed when this process reports it
            raise
    os._exit(code)


def test_a_corpus_that_cannot_be_read_is_an_error_in_all(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    shutil.copytree(corpus, tmp_path / "corpus", ignore=shutil.ignore_patterns("vocabulary"))
    arguments = ["pretrain", str(tmp_path / "corpus"), "--output", str(tmp_path / "bert")]
    processes = start(command, arguments, tmp_path)
    for process in processes:
        process.join(BOUND_SECONDS)
    said = [(tmp_path / f"err{rank}").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [2, 2], said
    assert all("vocabulary" in one and "Traceback" not in one for one in said), said


def test_one_process_writes_the_model_and_speaks_of_it(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = {"data.train": str(Path(tiny["data.root"]) / "val.jsonl"), "training.epochs": 1, "training.trackers": []}
    settings |= {key: tiny[key] for key in ("data.target", "data.columns", "model.trunk")}
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings))
    folder = tmp_path / "model"
    processes = start(command, ["train", str(tmp_path / "recipe.yaml"), "--output", str(folder), "--json"], tmp_path)
    for process in processes:
        process.join(BOUND_SECONDS)
    said = [(tmp_path / f"err{rank}").read_text() for rank in range(2)]
    assert [process.exitcode for process in processes] == [0, 0], said
    assert json.loads((tmp_path / "out0").read_text())["folder"] == str(folder)
    assert (tmp_path / "out1").read_text() == ""
    assert (folder / "manifest.json").is_file()


@pytest.mark.alone
@pytest.mark.parametrize(("budget", "code"), [("20s", 0), ("0.01s", 2)])
def test_one_plan_for_all_and_one_process_speaks(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    budget: str,
    code: int,
) -> None:
    """A plan that cannot be made is an error in all, in words."""
    arguments = ["pretrain", str(corpus), "--output", str(tmp_path / "bert"), "--budget", budget, "--json"]
    started = time.monotonic()
    processes = start(command, [*arguments, "training.trackers=[]"], tmp_path)
    for process in processes:
        process.join(BOUND_SECONDS)
    said = [(tmp_path / name).read_text() for name in ("out0", "err0", "out1", "err1")]
    assert [process.exitcode for process in processes] == [code, code], said
    first, second = ((tmp_path / f"out{rank}").read_text() for rank in range(2))
    assert second == ""
    if code:
        assert "give more time" in json.loads(first)["error"]
        return
    assert time.monotonic() - started < 45
    found = json.loads(first)
    assert found["training"]["processes"] == 2
    assert 0.02 < found["training"]["tokens"] / found["plan"]["tokens"] < 10
    assert (tmp_path / "err0").read_text().count("The model is in") == 1
    assert "The model is in" not in (tmp_path / "err1").read_text()


def test_processes_that_never_met_are_told_so() -> None:
    with (
        pytest.raises(LostRankError, match=r"do not find each other \(connection reset\); start all"),
        naming_lost_ranks(),
    ):
        raise distributed.DistNetworkError("connection reset\nand where in C++")
