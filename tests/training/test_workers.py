"""Processes that read and prepare rows: how they begin and end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

TRAIN = "import json, sys; from fusebert.training.run import train; train(json.loads(sys.argv[1]), sys.argv[2])"
BOUND_SECONDS = 60


def test_they_are_forked_from_what_is_imported() -> None:
    """In a process of its own, for this one may have begun to fork already."""
    program = (
        "import sys; from concurrent.futures import ProcessPoolExecutor as Pool\n"
        "if __name__ == '__main__':\n"
        "    from fusebert.training.trainer import worker_context\n"
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
