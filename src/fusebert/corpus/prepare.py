"""Documents -> clean, split, deduplicated Parquet shards: in parallel, within a memory cap, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusebert.corpus.documents import Document, list_sources, probe, read_documents
from fusebert.corpus.duplicates import Seen
from fusebert.corpus.engine import Engine, pick_engine
from fusebert.corpus.process import Bad, Processed, process
from fusebert.corpus.process import Settings as Settings
from fusebert.corpus.shards import REPORT, ShardWriter
from fusebert.errors import DataError, RowError, UsageError
from fusebert.storage import write_json, write_lines

STATE, BAD_DOCUMENTS = "state.sqlite", "bad_documents.jsonl"
READER_BYTES, WORKER_BYTES = 320 * 2**20, 192 * 2**20
"""At most what the process that reads and writes needs, and each that works for it, batches included; measured on
the worst of `tests/corpus/test_memory.py`. What --max-memory leaves is the cache of what was seen."""
DEFAULTS = Settings()
SHARD_BYTES, BATCH_CHARACTERS, DOCUMENT_CHARACTERS = 2**25, 2**17, 200
"""A batch counts something for each document too: a million tiny ones are no small thing."""


def most_workers(max_memory: int) -> int:
    """Processes that so many bytes leave room for; at least one."""
    return max(1, (max_memory - READER_BYTES) // WORKER_BYTES)


def prepare_corpus(
    inputs: Sequence[str],
    output: Path,
    settings: Settings = DEFAULTS,
    *,
    max_memory: int = 2**30,
    workers: int = 1,
    engine: str = "local",
    resume: bool = False,
) -> dict[str, Any]:
    """Write a corpus folder: `train-N.parquet`, `held_out-N.parquet`, and `corpus.json`, which comes last.

    A row of a shard is a document: `id` (source:row:piece), `language`, `sentences`. The bytes do not depend on the
    number of workers, the engine, or how often the run was stopped. Rows that were skipped are listed in
    `bad_documents.jsonl`.

    Args:
        inputs: files, folders, `hub:NAME`.
        output: a folder that does not exist yet, unless `resume`.
        max_memory: bytes that all processes together may take (Ray's own services not counted).
        engine: `local`, or `ray` for processes on other machines.

    Returns:
        The statistics, as in `corpus.json`.

    Raises:
        FusebertError: in words; after a kill or an error, `resume` goes on at the last whole shard.
    """
    sources = list_sources(inputs)
    least = READER_BYTES + workers * WORKER_BYTES
    if max_memory < least:
        raise UsageError(f"--max-memory must be at least {least >> 20}m for {workers} workers")
    if (output / REPORT).exists() or (not resume and output.exists() and any(output.iterdir())):
        raise UsageError(f"{output} already holds files; choose another --output, or --resume a run that was stopped")
    probe(sources, settings.field)
    output.mkdir(parents=True, exist_ok=True)
    with _explained(output / STATE), closing(_open_state(output / STATE, max_memory - least)) as database:
        for left_by_a_kill in output.glob(".*.part"):
            left_by_a_kill.unlink()
        run = _Run(sources, output, settings, database)
        try:
            with pick_engine(engine, workers) as pool:
                report = run.go(pool, 3 * workers)
        except BaseException:
            if not run.shards:  # nothing to go on from: the next try may have other inputs and settings
                (output / STATE).unlink()
            raise
    (output / STATE).unlink()
    return report


def _open_state(path: Path, cache_bytes: int) -> sqlite3.Connection:
    """The state, locked against every other run until it is closed."""
    database = sqlite3.connect(path, timeout=0, isolation_level="DEFERRED")
    database.execute(f"PRAGMA cache_size = -{max(2**22, cache_bytes // 2) >> 10}")
    database.execute("PRAGMA locking_mode = EXCLUSIVE")
    database.execute("BEGIN EXCLUSIVE")
    database.commit()
    return database


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors, in words."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_BUSY:
            raise DataError(f"{path.parent} is being written by another run; wait until it has ended") from None
        if code == sqlite3.SQLITE_FULL or (code or 0) & 0xFF == sqlite3.SQLITE_IOERR:
            raise DataError(f"{path} cannot be written ({error}); make room and go on with --resume") from None
        raise DataError(f"{path} is damaged ({error}); remove {path.parent} and start again") from None


class _Run:
    """One run over all sources; what it knows is committed together with each pair of shards."""

    def __init__(self, sources: Sequence[str], output: Path, settings: Settings, database: sqlite3.Connection) -> None:
        self.sources, self.output, self.settings, self.database = sources, output, settings, database
        self.seen = Seen(database)
        database.execute("CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT)")
        database.execute("CREATE TABLE IF NOT EXISTS bad (line TEXT)")
        saved = dict(database.execute("SELECT name, value FROM state"))
        sizes = [[source, Path(source).stat().st_size if Path(source).is_file() else 0] for source in sources]
        self.identity = json.dumps([sizes, asdict(settings) | {"bad_rows": "either"}])
        if saved.get("identity", self.identity) != self.identity:
            raise UsageError(f"{output} was begun with other inputs or settings; resume with the same ones")
        self.position: tuple[int, int, int] = tuple(json.loads(saved.get("position", "[0, 0, 0]")))
        self.resumed_at = self.position
        self.counts: Counter[str] = Counter(json.loads(saved.get("counts", "{}")))
        self.shards: Counter[str] = Counter(json.loads(saved.get("shards", "{}")))
        self.seconds = float(saved.get("seconds", 0))
        self.writers: dict[str, ShardWriter] = {}
        self.bytes = 0

    def go(self, pool: Engine, in_flight: int) -> dict[str, Any]:
        """Everything, from the last whole shard on."""
        started, before = time.monotonic(), self.seconds
        for done in pool.map(process, self._batches(), in_flight):
            for one in done:
                self._take(one)
                if self.bytes >= SHARD_BYTES:
                    self.seconds = before + time.monotonic() - started
                    self._commit()
        if not self.counts["documents"]:
            raise DataError(f"{', '.join(self.sources)}: no document could be read")
        self.seconds = before + time.monotonic() - started
        self._commit()
        if self.counts["bad"]:
            lines = (line for (line,) in self.database.execute("SELECT line FROM bad ORDER BY rowid"))
            write_lines(self.output / BAD_DOCUMENTS, lines)
        report = self._report()
        write_json(self.output / REPORT, report)
        return report

    def _batches(self) -> Iterator[tuple[Settings, list[Document | Bad]]]:
        """Runs of documents, from where the last shard ended."""
        batch: list[Document | Bad] = []
        size = 0
        for number, source in enumerate(self.sources):
            if number < self.resumed_at[0]:
                continue
            for found in read_documents(source, number, self.settings.field):
                one = self._listed(found, number) if isinstance(found, RowError) else found
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

    def _listed(self, error: RowError, source: int) -> Bad:
        if self.settings.bad_rows == "refuse":
            raise DataError(f"{error}. Mend it, or leave out what cannot be read with --bad-rows skip")
        return Bad.of(error, source)

    def _take(self, one: Processed | Bad) -> None:
        self.position = (one.source, one.row, one.piece)
        if isinstance(one, Bad):
            line = json.dumps(one.line, ensure_ascii=False).encode(errors="backslashreplace").decode()
            self.database.execute("INSERT INTO bad VALUES (?)", (line,))
            self.counts["bad"] += 1
            return
        self.counts["documents"] += 1
        if not one.text:
            self.counts["too_short"] += 1
            return
        if (kind := self.seen.add(one.found)) is not None:
            self.counts[f"{kind}_duplicates"] += 1
            return
        part = self._part(one)
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
        share = int.from_bytes(key.digest(), "big")
        return "held_out" if share % 10_000 < 10_000 * self.settings.held_out else "train"

    def _commit(self) -> None:
        """Shards first, each whole or absent; then, at once, all that is known. A kill between the two costs a shard
        that the next run writes again, byte for byte."""
        for part, writer in self.writers.items():
            writer.close()
            self.shards[part] += 1
        self.writers, self.bytes = {}, 0
        state = {
            "identity": self.identity,
            "position": json.dumps(self.position),
            "counts": json.dumps(self.counts),
            "shards": json.dumps(self.shards),
            "seconds": str(self.seconds),
        }
        self.database.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", state.items())
        self.database.commit()

    def _report(self) -> dict[str, Any]:
        counts = dict(sorted(self.counts.items()))
        languages = {name.removeprefix("language_"): count for name, count in counts.items() if "language_" in name}
        return {
            "sources": [*self.sources],
            "settings": asdict(self.settings),
            "counts": {name: count for name, count in counts.items() if "language_" not in name},
            "languages": languages,
            "shards": dict(self.shards),
            "seconds": round(self.seconds, 2),
        }
