"""Memory of a whole preparation, its worker processes included, against --max-memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from fusebert.corpus.prepare import READER_BYTES, WORKER_BYTES
from tests.corpus.conftest import document

PROGRAM = "import sys; from fusebert.cli import main; sys.exit(main(sys.argv[1:]))"
MEGABYTE = 2**20


def chinese(random: np.random.Generator) -> str:
    """One line of 2^20 characters, a full stop after every 20."""
    codes = random.integers(0x4E00, 0x5600, MEGABYTE).astype(np.uint32)
    codes[20::21] = ord("。")
    return codes.tobytes().decode("utf-32-le")


def texts(kind: str, random: np.random.Generator) -> Iterable[str]:
    if kind == "normal":
        return (document(random, 60) for _ in range(1000))
    if kind == "tiny":
        return (f"number {number} says little" for number in range(50_000))
    return (chinese(random) for _ in range(4))


def written(kind: str, folder: Path, random: np.random.Generator) -> Path:
    path = folder / f"a.{'parquet' if kind == 'parquet' else 'jsonl'}"
    if kind == "one line of 200 MB":
        path.write_bytes(b'{"text": "' + b"word " * (40 * MEGABYTE) + b'"}\n')
    elif kind == "parquet":
        parquet.write_table(pa.table({"text": list(texts("chinese", random))}), path)
    else:
        with path.open("w", encoding="utf-8") as file:
            for text in texts(kind, random):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return path


def peak_bytes(command: list[str]) -> tuple[int, int, str]:
    """Exit code, the most resident memory of the process and all under it, and what it said."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            told = most_resident(process.pid) if len(family) == 1 else 0
            peak = max(peak, told, sum(member.memory_info().rss for member in family))
        except (psutil.Error, OSError):
            pass
        time.sleep(0.02)
    return process.returncode, peak, process.communicate()[1]


def most_resident(process: int) -> int:
    """Bytes at its peak, which Linux keeps: nothing is missed between two looks."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) * 1024 if found else 0


SMALL_SHARDS = f"from fusebert.corpus import prepare; prepare.SHARD_BYTES = {MEGABYTE}; {PROGRAM}"
WORDS_A_DOCUMENT, WORDS_A_SENTENCE = 600, 12


def shuffled_words(documents: int, random: np.random.Generator) -> Iterable[str]:
    """Texts of the same words in random orders, of which no two are alike; 4 KB each."""
    words = np.array(["".join(chr(97 + letter) for letter in random.integers(0, 26, 6)) for _ in range(2000)])
    ends = np.where(np.arange(1, WORDS_A_DOCUMENT + 1) % WORDS_A_SENTENCE, "", ".")
    for _ in range(documents):
        yield " ".join(np.char.add(random.choice(words, WORDS_A_DOCUMENT), ends).tolist())


@pytest.mark.parametrize("documents", [600, pytest.param(3000, marks=pytest.mark.real)])
def test_memory_does_not_grow_with_the_corpus(documents: int, tmp_path: Path, random: np.random.Generator) -> None:
    """Ten times the text, in shards so small that both runs write several."""
    peaks = []
    for times in (1, 10):
        source, output = tmp_path / f"{times}.jsonl", tmp_path / f"corpus-{times}"
        with source.open("w") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in shuffled_words(times * documents, random))
        command = [sys.executable, "-c", SMALL_SHARDS, "corpus", "prepare", str(source), "--output", str(output)]
        cap = READER_BYTES + WORKER_BYTES
        code, peak, said = peak_bytes([*command, "--workers", "1", "--max-memory", f"{cap >> 20}m"])
        assert code == 0, said
        report = json.loads((output / "corpus.json").read_text())
        assert report["counts"]["train_documents"] + report["counts"]["held_out_documents"] == times * documents
        assert report["shards"]["train"] > times
        peaks.append(peak)
    assert peaks[1] < 1.10 * peaks[0], [peak >> 20 for peak in peaks]


@pytest.mark.parametrize(
    "kind",
    [
        *(pytest.param(kind, marks=pytest.mark.real) for kind in ("normal", "tiny", "chinese")),
        "parquet",
        "one line of 200 MB",
    ],
)
def test_the_cap_is_kept(kind: str, tmp_path: Path, random: np.random.Generator) -> None:
    cap = READER_BYTES + 2 * WORKER_BYTES
    source = written(kind, tmp_path, random)
    flags = ["--output", str(tmp_path / "out"), "--workers", "2", "--least-characters", "5"]
    command = [sys.executable, "-c", PROGRAM, "corpus", "prepare", str(source), *flags, "--max-memory"]
    code, peak, said = peak_bytes([*command, f"{cap >> 20}m"])
    if kind == "parquet":  # all documents on one page, for which there is no room; it says how much would do
        assert (code, len(said.splitlines())) == (2, 1), said
        more = re.search(r"raise --max-memory by (\d+)m", said)
        assert more is not None, said
        cap += int(more[1]) * MEGABYTE
        code, peak, said = peak_bytes([*command, f"{cap >> 20}m"])
    assert peak <= cap, f"{peak >> 20} MiB of {cap >> 20}"
    if kind == "one line of 200 MB":
        assert (code, "row 1" in said, "8 MiB" in said) == (1, True, True)
    else:
        assert code == 0, said
        counts = json.loads((tmp_path / "out" / "corpus.json").read_text())["counts"]
        assert counts["documents"] == {"normal": 1000, "tiny": 50_000}.get(kind, 4)
