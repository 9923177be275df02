"""From raw documents to shards: every format, duplicates, workers, kills."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from fusebert.corpus.duplicates import Fingerprint, Seen, fingerprint
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.sentences import clean, language_of, split
from fusebert.corpus.shards import read_shards
from fusebert.errors import UsageError
from tests.corpus.conftest import CHINESE, document, write_jsonl

ALL = Settings(held_out=0.0)


def sentences(folder: Path) -> list[list[str]]:
    return [row["sentences"] for row in read_shards(folder, "train")]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.parametrize("kind", ["txt", "jsonl", "jsonl.gz", "parquet", "folder"])
def test_every_format_gives_the_same_documents(kind: str, documents: list[str], tmp_path: Path) -> None:
    texts, source = documents[:40], tmp_path / f"documents.{kind}"
    if kind == "txt":
        source.write_text("\n \n\n".join(texts) + "\n", encoding="utf-8")
    elif kind == "parquet":
        parquet.write_table(pa.table({"text": texts}), source)
    elif kind == "folder":
        (tmp_path / "folder" / "inner").mkdir(parents=True)
        source = tmp_path / "folder"
        write_jsonl(source / "a.jsonl", texts[:25])
        (source / "inner" / "b.txt").write_text("\n\n".join(texts[25:]), encoding="utf-8")
    else:
        write_jsonl(source, texts)
    report = prepare_corpus([str(source)], tmp_path / "out", ALL)
    assert report["counts"]["documents"] == 40
    assert [" ".join(found) for found in sentences(tmp_path / "out")] == [" ".join(text.split()) for text in texts]


def test_another_field(documents: list[str], tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", documents[:5], "body")
    assert prepare_corpus([str(source)], tmp_path / "out", Settings(field="body"))["counts"]["documents"] == 5


def test_two_workers_write_the_bytes_of_one(jsonl: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        prepare_corpus([str(jsonl)], tmp_path / str(workers), workers=workers)
    assert shards(tmp_path / "1") == shards(tmp_path / "2")


def test_duplicates_are_dropped_and_counted(documents: list[str], tmp_path: Path, random: np.random.Generator) -> None:
    long = [document(random, 40) for _ in range(6)]
    near = [text.replace("The king", "The queen", 1).replace(".", "!", 1) for text in long]
    exact = [text.upper() for text in long[:3]] + [documents[0].replace(" ", "  ")]
    source = write_jsonl(tmp_path / "a.jsonl", [*documents[:50], *long, *near, *exact])
    counts = prepare_corpus([str(source)], tmp_path / "out", ALL)["counts"]
    assert counts["exact_duplicates"] == 4
    assert counts["near_duplicates"] == 6
    assert counts["train_documents"] == 56
    kept = prepare_corpus([str(source)], tmp_path / "all", Settings(held_out=0.0, near_duplicates=False))["counts"]
    assert kept["train_documents"] == 62


def test_near_is_not_merely_alike(random: np.random.Generator) -> None:
    prints = [fingerprint(document(random, 30), "en") for _ in range(100)]
    values = np.stack([np.frombuffer(found.signature, np.uint32) for found in prints])
    alike = (values[:, None] == values[None]).mean(axis=2)
    assert alike[~np.eye(100, dtype=bool)].max() < 0.5
    assert isinstance(prints[0], Fingerprint)
    assert len(prints[0].bands()) == 8


def test_held_out_documents_are_apart_and_a_copy_stays_on_its_side(documents: list[str], tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", documents)
    second = write_jsonl(tmp_path / "b.jsonl", documents[::-1])
    settings = Settings(held_out=0.2)
    prepare_corpus([str(first)], tmp_path / "1", settings)
    prepare_corpus([str(second)], tmp_path / "2", settings)
    held = [{" ".join(row["sentences"]) for row in read_shards(tmp_path / n, "held_out")} for n in ("1", "2")]
    assert held[0] == held[1]
    assert 30 < len(held[0]) < 90
    assert not held[0] & {" ".join(found) for found in sentences(tmp_path / "1")}


PROGRAM = """
import sys
from fusebert.corpus import prepare
prepare.SHARD_BYTES, prepare.BATCH_CHARACTERS = 4_000, 1_000
prepare.prepare_corpus([sys.argv[1]], prepare.Path(sys.argv[2]), prepare.Settings(held_out=0.1), resume=True)
"""


def test_killed_at_any_moment_the_next_run_writes_the_same_bytes(
    jsonl: Path, tmp_path: Path, random: np.random.Generator
) -> None:
    def run(folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(jsonl), str(folder)])

    assert run(tmp_path / "whole").wait() == 0

    def written(folder: Path) -> int:
        return len(list(folder.glob("*.parquet")))

    kills = 0
    while not (tmp_path / "killed" / "corpus.json").exists():
        process, wanted = run(tmp_path / "killed"), written(tmp_path / "killed") + int(random.integers(1, 12))
        while process.poll() is None and written(tmp_path / "killed") < wanted:
            time.sleep(0.0005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    assert len(shards(tmp_path / "whole")) > 3
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    reports = [json.loads((tmp_path / name / "corpus.json").read_text()) for name in ("killed", "whole")]
    assert [report.pop("seconds") >= 0 for report in reports]
    assert reports[0] == reports[1]


def test_a_folder_begun_otherwise_is_refused(jsonl: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.sqlite").write_bytes(b"")
    with pytest.raises(UsageError, match="already holds"):
        prepare_corpus([str(jsonl)], tmp_path / "out")


def test_clean_text() -> None:
    assert clean("cafe\u0301\u200b  a\u00a0b\r\nc\x00\ufeff\ud800") == "caf\u00e9 a b\nc"
    assert clean("\u202eabc\u202c") == "abc"
    assert (
        clean("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645") == "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )


def test_sentences_and_languages() -> None:
    assert split("Dr. Smith came. He left at 5 p.m. yesterday!\nA new line", "en") == [
        "Dr. Smith came.",
        "He left at 5 p.m. yesterday!",
        "A new line",
    ]
    assert split("".join(CHINESE), "zh") == list(CHINESE)
    assert split("他说：“你好。”然后走了。", "zh")[-1].endswith("走了。")
    assert [language_of(text) for text in ("Hello there.", "".join(CHINESE), "これはペンです。")] == ["en", "zh", "ja"]
    assert split("Ein Satz. Noch einer.", "de") == ["Ein Satz.", "Noch einer."]


def test_a_megabyte_without_a_line_end_is_split_in_time() -> None:
    """sentencex alone takes minutes for it."""
    text = "".join(CHINESE) * 20_000
    started = time.process_time()
    assert split(text, "zh") == list(CHINESE) * 20_000
    assert len(split("国" * 100_000, "zh")) == 49
    assert time.process_time() - started < 10


def test_what_is_compared_is_bounded(tmp_path: Path) -> None:
    """Thousands of documents may share a band of their fingerprints and yet not be near-duplicates."""
    band = np.arange(8, dtype=np.uint32)
    random = np.random.default_rng(0)
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        seen = Seen(database)
        steps: list[int] = []
        database.set_progress_handler(lambda: steps.append(1), 100)
        for number in range(600):
            signature = np.concatenate([band, random.integers(0, 2**32, 56, dtype=np.uint32)])
            assert seen.add(Fingerprint(number.to_bytes(16, "big"), signature.tobytes())) is None
            if number == 299:
                half = len(steps)
    assert len(steps) - half < 1.5 * half  # and not three times, as all pairs would cost
