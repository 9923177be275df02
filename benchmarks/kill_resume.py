"""Training processes killed at any moment and resumed: how many end with the very bytes of an uninterrupted run?

Each kill has a run of its own: a real `fusebert train` process gets SIGKILL at a random moment of the run (every third
one inside the next save), then `--resume` until it finishes. A fork server has the heavy modules loaded, which only
saves the start-up. --peer does the same to an unmodified transformers Trainer.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random
from typing import Any, Protocol

import common

PICTURES = {"train": 30, "val": 8}
KILLS, QUICK_KILLS = 20, 2
EVERY_WHICH_INSIDE_SAVE = 3
LOOK_SECONDS = 0.0005
SETTINGS = {
    "data.validation": "val.jsonl",
    "data.target": "answer",
    "data.columns": "{image: image, question: text, language: ignore, caption: ignore, shapes: ignore,"
    " colours: ignore}",
    "model.trunk": "tiny",
    "image.size_pixels": 32,
    "image.patch_pixels": 16,
    "training.epochs": 5,
    "training.tokens_per_batch": 360,  # about six batches an epoch
    "training.checkpoint_steps": 2,
    "training.trackers": "[]",
    "training.precision": "fp32",
}


class Trainee(Protocol):
    """Something that trains in a process of its own; `module.run(world, folder, resume)` must be importable."""

    modules: list[str]

    @staticmethod
    def run(world: Path, folder: Path, resume: bool) -> None: ...

    @staticmethod
    def weights(folder: Path) -> Path: ...

    @staticmethod
    def is_saving(folder: Path) -> bool: ...


class Fusebert:
    """`fusebert train`."""

    modules = ["fusebert.cli", "fusebert.training.run", "fusebert.training.progress"]  # noqa: RUF012

    @staticmethod
    def run(world: Path, folder: Path, resume: bool) -> None:
        common.quiet_process(folder)
        from fusebert.cli import main

        settings = [f"{name}={value}" for name, value in SETTINGS.items()] + [f"data.root={world}"]
        table, resumed = str(world / "train.jsonl"), ["--resume"] if resume else []
        sys.exit(main(["train", table, "--output", str(folder), *resumed, *settings]))

    @staticmethod
    def weights(folder: Path) -> Path:
        return folder / "model.safetensors"

    @staticmethod
    def is_saving(folder: Path) -> bool:
        return any(folder.glob("checkpoints/.step-*"))


@dataclass
class Tally:
    """What became of the killed runs."""

    kills: int = 0
    resumed: int = 0
    identical: int = 0
    inside_save: int = 0


class Experiment:
    """Kills and resumes one kind of trainee."""

    def __init__(self, trainee: type[Trainee], world: Path, room: Path, seed: int) -> None:
        self.trainee, self.world, self.room, self.random = trainee, world, room, Random(seed)
        self.processes = multiprocessing.get_context("forkserver")
        self.start(room / "warm-up", False).join()
        started = time.monotonic()
        whole = self.start(room / "uninterrupted", False)
        whole.join()
        assert whole.exitcode == 0, (room / "uninterrupted.log").read_text()
        self.seconds = time.monotonic() - started
        self.expected = self.hash(room / "uninterrupted")

    def start(self, folder: Path, resume: bool) -> BaseProcess:
        process = self.processes.Process(target=self.trainee.run, args=(self.world, folder, resume))
        process.start()
        return process

    def hash(self, folder: Path) -> str:
        path = self.trainee.weights(folder)
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    def kill_once(self, number: int, tally: Tally) -> None:
        """One run: killed once, resumed to its end. One that ended before its kill is done again with a new moment."""
        folder = self.room / f"run-{number}"
        while not self._killed(folder, inside_save=number % EVERY_WHICH_INSIDE_SAVE == 0):
            shutil.rmtree(folder)
        tally.kills += 1
        tally.inside_save += self.trainee.is_saving(folder)
        again = self.start(folder, True)
        again.join()
        finished, same = again.exitcode == 0, self.hash(folder) == self.expected
        tally.resumed += finished
        tally.identical += finished and same
        common.note(f"  {number}: {'identical' if finished and same else 'different' if finished else 'NOT RESUMED'}")
        if finished:
            shutil.rmtree(folder)

    def _killed(self, folder: Path, inside_save: bool) -> bool:
        process = self.start(folder, False)
        process.join(self.random.uniform(0, self.seconds))
        while inside_save and process.is_alive() and not self.trainee.is_saving(folder):
            time.sleep(LOOK_SECONDS)
        if inside_save:
            time.sleep(self.random.uniform(0, 0.01))
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), folder.with_suffix(".log").read_text()
        return process.exitcode == -signal.SIGKILL


def measure(trainee: type[Trainee], kills: int, seed: int) -> dict[str, Any]:
    """Kill that many runs."""
    from fusebert.data.toyworld import write_toyworld

    multiprocessing.get_context("forkserver").set_forkserver_preload(trainee.modules)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="kill-resume-") as room:
        world = write_toyworld(Path(room) / "world", pictures=PICTURES)
        experiment = Experiment(trainee, world, Path(room), seed)
        common.note(f"{trainee.__name__}: an uninterrupted run takes {experiment.seconds:.1f} s")
        for number in range(kills):
            experiment.kill_once(number, tally)
    return {
        "kills": tally.kills,
        "resumed_share": round(tally.resumed / tally.kills, 4),
        "identical_share": round(tally.identical / tally.kills, 4),
        "killed_inside_save": tally.inside_save,
        "uninterrupted_seconds": round(experiment.seconds, 2),
    }


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, help=f"how many (default {KILLS})")
    options.add_argument("--seed", type=int, default=0, help="of the moments")
    options.add_argument("--peer", action="store_true", help="kill the transformers Trainer instead")
    given = options.parse_args()
    trainee: type[Trainee] = Fusebert
    if given.peer:
        from kill_resume_peer import TransformersTrainer as trainee  # noqa: N813
    found = measure(trainee, given.kills or (QUICK_KILLS if given.quick else KILLS), given.seed)
    common.show({"machine": common.machine(), "trainer": trainee.__name__} | found, given.json)


if __name__ == "__main__":
    main()
