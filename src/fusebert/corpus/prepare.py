"""Documents -> clean, split, deduplicated Parquet shards: in parallel, within a memory cap, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fusebert.corpus.documents import HUB, Document, check_room, list_sources, probe, read_documents
from fusebert.corpus.duplicates import Seen
from fusebert.corpus.engine import Engine, pick_engine
from fusebert.corpus.languages import language_code
from fusebert.corpus.process import Bad, Processed, process
from fusebert.corpus.process import Settings as Settings
from fusebert.corpus.sentences import load_sentencex
from fusebert.corpus.shards import REPORT, ShardWriter, shard_paths
from fusebert.corpus.state import file_state, in_words, open_state
from fusebert.errors import DataError, RowError, UsageError
from fusebert.storage import refuse_in_finished, write_json, write_lines

STATE, BAD_DOCUMENTS = "state.sqlite", "bad_documents.jsonl"
PARTS = ("train", "held_out")
READER_BYTES, WORKER_BYTES, PAGE_BYTES = 320 * 2**20, 192 * 2**20, 32 * 2**20
"""At most what the process that reads and writes needs, and each that works for it, batches included; measured on
the worst of `tests/corpus/test_memory.py`. What --max-memory leaves may unpack pages of Parquet that take more than
PAGE_BYTES."""
MOST_CACHED = 2**23
"""Bytes of what was seen that this process keeps, lest its memory grow with the corpus; the system keeps the file."""
DEFAULTS = Settings()
SHARD_BYTES, BATCH_CHARACTERS, DOCUMENT_CHARACTERS = 2**24, 2**17, 200
"""A batch counts something for each document too: a million tiny ones are no small thing."""
MOST_READ = 8 * SHARD_BYTES
"""A shard ends after so much was read, however little of it was kept, since a kill costs what was read for a shard."""


def most_workers(max_memory: int) -> int:
    """Processes that so many bytes leave room for; at least one."""
    return max(1, (max_memory - READER_BYTES) // WORKER_BYTES)


def prepare_corpus(
    inputs: str | Path | Sequence[str | Path],
    output: Path,
    settings: Settings = DEFAULTS,
    *,
    max_memory: int = 2**30,
    workers: int = 1,
    engine: str = "local",
    resume: bool = False,
) -> dict[str, Any]:
    """Write a corpus folder: `train-N.parquet`, `held_out-N.parquet`, and `corpus.json`, which comes last.

    Only the shards that the report counts belong to the corpus. A row of a shard is a document, or a piece of a very
    long one: `id` (source:row:piece), `language`, `sentences`. The bytes do not depend on the number of workers, the
    engine, or how often the run was stopped. Rows and files that were skipped are listed in `bad_documents.jsonl`.

    Args:
        inputs: files, folders, `hub:NAME[:CONFIG][@REVISION]`; or one of them.
        output: a folder that does not exist yet, unless `resume`.
        max_memory: bytes that all processes here may take together (not those of a cluster, nor Ray's own services).
        engine: `local`, or `ray` for processes on other machines.

    Returns:
        The statistics, as in `corpus.json`.

    Raises:
        FusebertError: in words; after a kill or an error, `resume` goes on at the last whole shard.
    """
    load_sentencex()
    settings = replace(settings, language=language_code(settings.language))
    if not 0 <= settings.held_out < 1:
        raise UsageError(f"--held-out must be at least 0 and less than 1, not {settings.held_out:g}")
    if not 0 <= settings.seed < 2**64:
        raise UsageError(f"--seed must be at least 0 and less than 2^64, not {settings.seed}")
    if workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}")
    given = [inputs] if isinstance(inputs, str | Path) else inputs
    sources, ignored = list_sources([str(one) for one in given], output)
    here = 0 if engine == "ray" and os.environ.get("RAY_ADDRESS") else workers
    least = READER_BYTES + here * WORKER_BYTES
    if max_memory < least:
        raise UsageError(f"--max-memory must be at least {least >> 20}m for {here} workers here")
    if (output / REPORT).exists():
        raise UsageError(f"{output} already holds a finished corpus; choose another --output")
    refuse_in_finished(output)
    if not resume and output.exists() and any(output.iterdir()):
        raise UsageError(f"{output} already holds files; choose another --output, or --resume a run that was stopped")
    cached = min(MOST_CACHED, (max_memory - least) // 2)
    check_room(sources, settings.field, PAGE_BYTES + max_memory - least - cached)
    if settings.bad_rows == "refuse":
        probe(sources, settings.field)
    output.mkdir(parents=True, exist_ok=True)
    needed = True
    try:
        with in_words(output / STATE), closing(open_state(output / STATE, cached)) as database:
            run = _Run(sources, output, settings, database)
            try:
                run.begin()
                with pick_engine(engine, workers) as pool:
                    report = run.go(pool, 3 * workers, ignored)
                needed = False
            except BaseException:
                needed = run.is_begun()
                if not needed:  # the next try may have other inputs and settings
                    run.leave_nothing()
                raise
    finally:
        if not needed:
            (output / STATE).unlink(missing_ok=True)
    return report


class _Run:
    """One run over all sources; what it knows is committed together with each pair of shards."""

    def __init__(self, sources: Sequence[str], output: Path, settings: Settings, database: sqlite3.Connection) -> None:
        self.sources, self.output, self.settings, self.database = sources, output, settings, database
        self.seen = Seen(database)
        database.execute("CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT)")
        database.execute("CREATE TABLE IF NOT EXISTS bad (line TEXT)")
        saved = self.saved = dict(database.execute("SELECT name, value FROM state"))
        self.identity = json.dumps(
            [[file_state(source) for source in sources], asdict(settings) | {"bad_rows": "either"}]
        )
        self.position: tuple[int, int, int] = tuple(json.loads(saved.get("position", "[0, 0, 0]")))
        self.resumed_at = self.position
        self.part: str | None = json.loads(saved.get("part", "null"))
        self.counts: Counter[str] = Counter(json.loads(saved.get("counts", "{}")))
        self.shards: Counter[str] = Counter(json.loads(saved.get("shards", "{}")))
        self.seconds = float(saved.get("seconds", 0))
        self.writers: dict[str, ShardWriter] = {}
        self.bytes = self.read = 0

    def is_begun(self) -> bool:
        """Whether there is a place to go on from: so much was read, be anything of it kept or not."""
        return "position" in self.saved

    def begin(self) -> None:
        """Check that the folder is this run's, and remove what a kill left there that no commit speaks of."""
        if (self.output / REPORT).exists():
            raise UsageError(f"{self.output} has been finished by another run")
        if not self.saved and any(self.output.glob("*.parquet")):
            raise UsageError(f"{self.output} holds shards, but not the state of their run; choose another --output")
        if self.is_begun() and self.saved["identity"] != self.identity:
            raise UsageError(
                f"{self.output} was begun with other inputs or settings; resume with the same ones, or remove it"
            )
        whole = [path for part in PARTS for path in shard_paths(self.output, part, self.shards[part])]
        for path in whole:
            if not path.exists():
                raise DataError(f"{path} has been removed since it was written; remove {self.output} and start again")
        self._remove_all_but(whole)
        self._save({"identity": self.identity})

    def leave_nothing(self) -> None:
        """Remove the shards of a run that has committed none; but not those of somebody else."""
        if self.saved:
            self._remove_all_but([])

    def _remove_all_but(self, whole: Sequence[Path]) -> None:
        for path in (*self.output.glob("*.parquet"), *self.output.glob(".*.part")):
            if path not in whole:
                path.unlink()

    def go(self, pool: Engine, in_flight: int, ignored: int) -> dict[str, Any]:
        """Everything, from the last whole shard on.

        Args:
            ignored: files of other kinds in the folders, which the report mentions.
        """
        started, before = time.monotonic(), self.seconds
        for done in pool.map(process, self._batches(), in_flight):
            for one in done:
                self._take(one)
                if self.bytes >= SHARD_BYTES or self.read >= MOST_READ:
                    self.seconds = before + time.monotonic() - started
                    self._commit()
        if not self.counts["documents"]:
            first = self.database.execute("SELECT line FROM bad ORDER BY rowid").fetchone()
            why = f"; first: {json.loads(first[0])['problem']}" if first else ""
            raise DataError(f"{', '.join(self.sources)}: no document could be read{why}")
        if not self.counts["train_documents"]:
            kinds = ("documents", "too_short", "exact_duplicates", "near_duplicates", "held_out_documents")
            found = ", ".join(f"{self.counts[name]} {name.replace('_', ' ')}" for name in kinds)
            raise DataError(f"no document is left to train on ({found}); see --least-characters and --held-out")
        self.seconds = before + time.monotonic() - started
        self._commit()
        if self.counts["bad"]:
            lines = (line for (line,) in self.database.execute("SELECT line FROM bad ORDER BY rowid"))
            write_lines(self.output / BAD_DOCUMENTS, lines)
        report = self._report() | {"ignored_files": ignored}
        write_json(self.output / REPORT, report)
        return report

    def _batches(self) -> Iterator[tuple[Settings, list[Document | Bad]]]:
        """Runs of documents, from where the last shard ended."""
        batch: list[Document | Bad] = []
        size = 0
        for number, source in enumerate(self.sources):
            if number < self.resumed_at[0]:
                continue
            for one in self._read(source, number):
                if (number, one.row, one.piece) <= self.resumed_at:
                    continue
                cost = DOCUMENT_CHARACTERS + (len(one.text) if isinstance(one, Document) else 0)
                if batch and size + cost > BATCH_CHARACTERS:
                    yield self.settings, batch
                    batch, size = [], 0
                batch.append(one)
                size += cost
        if batch:
            yield self.settings, batch

    def _read(self, source: str, number: int) -> Iterator[Document | Bad]:
        """One source; where bad rows are skipped, a damaged file ends with one, and the next file goes on."""
        row = 0
        try:
            for found in read_documents(source, number, self.settings.field):
                row = found.row
                if isinstance(found, RowError):
                    yield Bad(number, row, found.problem, found.column, line=found.line)
                else:
                    yield found
        except DataError as error:
            if self.settings.bad_rows == "refuse" or source.startswith(HUB):
                raise
            problem = str(error).replace(f"{source} ", "", 1)  # it is said anyway
            yield Bad(number, row + 1, f"{problem}; what follows in this file is lost", rest=True)

    def _list(self, bad: Bad) -> None:
        source = self.sources[bad.source]
        error = RowError(bad.problem, source, bad.row, bad.column, bad.line)
        if self.settings.bad_rows == "refuse":
            if self.is_begun():  # a file that was mended is another input
                todo = "Go on without what cannot be read, with --bad-rows skip --resume; or mend it and begin anew"
            else:
                todo = "Mend it, or leave out what cannot be read with --bad-rows skip"
            raise DataError(f"{error}. {todo}")
        line = json.dumps(error.to_json(), ensure_ascii=False).encode(errors="backslashreplace").decode()
        self.database.execute("INSERT INTO bad VALUES (?)", (line,))
        self.counts["bad"] += 1
        if bad.rest:
            self.counts["damaged_files"] += 1

    def _take(self, one: Processed | Bad) -> None:
        if (one.source, one.row) != self.position[:2]:
            self.part = None
        self.position = (one.source, one.row, one.piece)
        self.read += DOCUMENT_CHARACTERS
        if isinstance(one, Bad):
            self._list(one)
            return
        self.counts["documents"] += 1
        self.read += one.characters
        if not one.text:
            self.counts["too_short"] += 1
            return
        part = self.part = self.part or self._part(one)  # the pieces of a long document follow the first
        if (kind := self.seen.add(one.found)) is not None:
            self.counts[f"{kind}_duplicates"] += 1
            return
        if part not in self.writers:
            self.writers[part] = ShardWriter(self.output / f"{part}-{self.shards[part]:05d}.parquet")
        self.writers[part].add(one)
        self.bytes += len(one.text)
        sentences = one.text.count(b"\n") + 1
        self.counts[f"{part}_documents"] += 1
        self.counts[f"{part}_sentences"] += sentences
        self.counts[f"{part}_characters"] += len(one.text.decode()) - sentences + 1
        self.counts[f"language_{one.language}"] += 1

    def _part(self, one: Processed) -> str:
        """By a hash of the text: the same document is always on the same side."""
        key = hashlib.blake2b(one.found.exact, salt=self.settings.seed.to_bytes(8, "big"), digest_size=4)
        return "held_out" if int.from_bytes(key.digest(), "big") < self.settings.held_out * 2**32 else "train"

    def _commit(self) -> None:
        """Shards first, each whole or absent; then, at once, all that is known. A kill between the two costs a shard
        that the next run writes again, byte for byte."""
        for part, writer in self.writers.items():
            writer.close()
            self.shards[part] += 1
        self.writers, self.bytes, self.read = {}, 0, 0
        state = {
            "position": json.dumps(self.position),
            "part": json.dumps(self.part),
            "counts": json.dumps(self.counts),
            "shards": json.dumps(self.shards),
            "seconds": str(self.seconds),
        }
        self._save(state)

    def _save(self, state: dict[str, str]) -> None:
        self.database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())
        self.database.commit()
        self.saved |= state

    def _report(self) -> dict[str, Any]:
        counts = dict(sorted(self.counts.items()))
        languages = {name.removeprefix("language_"): count for name, count in counts.items() if "language_" in name}
        return {
            "sources": [source.encode(errors="backslashreplace").decode() for source in self.sources],
            "settings": asdict(self.settings),
            "counts": {name: count for name, count in counts.items() if "language_" not in name},
            "languages": languages,
            "shards": dict(self.shards),
            "seconds": round(self.seconds, 2),
        }
