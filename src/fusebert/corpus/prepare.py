"""Documents -> clean, split, deduplicated Parquet shards: in parallel, within a memory cap, resumable after a kill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from fusebert.corpus.documents import Document, list_sources, probe, read_documents
from fusebert.corpus.duplicates import Fingerprint, Seen, fingerprint
from fusebert.corpus.engine import Engine, pick_engine
from fusebert.corpus.sentences import clean, language_of, split
from fusebert.errors import DataError, RowError, UsageError
from fusebert.storage import write_atomically, write_json

REPORT, STATE, BAD_DOCUMENTS = "corpus.json", "state.sqlite", "bad_documents.jsonl"
PARTS = ("train", "held_out")
SCHEMA = pa.schema([("id", pa.string()), ("language", pa.string()), ("sentences", pa.list_(pa.string()))])
PROCESS_BYTES = 160 * 2**20
"""What a process needs before it reads a document: Python, numpy, pyarrow, sentencex."""
LEAST_WORKING_BYTES = 64 * 2**20
MOST_SHARD_BYTES, MOST_BATCH_BYTES = 256 * 2**20, 2**22


def most_workers(max_memory: int) -> int:
    """Processes that so many bytes leave room for; at least one."""
    return max(1, (max_memory - LEAST_WORKING_BYTES) // PROCESS_BYTES - 1)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a corpus is prepared.

    Args:
        field: the column with the text, in tables.
        language: ISO 639 code of every document; `auto` looks at the script of each.
        held_out: share of documents kept apart, in [0, 1).
        least_characters: shorter documents are left out.
        near_duplicates: whether to drop near-duplicates, not only exact ones.
        bad_rows: `refuse` or `skip`; both list them.
        seed: of the choice of held-out documents.
    """

    field: str = "text"
    language: str = "auto"
    held_out: float = 0.02
    least_characters: int = 100
    near_duplicates: bool = True
    bad_rows: str = "refuse"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Processed:
    """A document as a shard holds it. No sentences: it was too short."""

    source: int
    row: int
    piece: int
    language: str
    sentences: list[str]
    found: Fingerprint


def process(batch: tuple[Settings, list[Document]]) -> list[Processed]:
    """What workers do: clean, split, fingerprint."""
    settings, documents = batch
    out = []
    for document in documents:
        text = clean(document.text)
        language = language_of(text) if settings.language == "auto" else settings.language
        long_enough = len(text.strip()) >= settings.least_characters
        sentences = split(text, language) if long_enough else []
        place = (document.source, document.row, document.piece)
        out.append(Processed(*place, language, sentences, fingerprint(text, language)))
    return out


def prepare_corpus(
    inputs: Sequence[str],
    output: Path,
    settings: Settings = Settings(),
    *,
    max_memory: int = 2**30,
    workers: int = 1,
    engine: str = "local",
    resume: bool = False,
) -> dict[str, Any]:
    """Write a corpus folder: `train-N.parquet`, `held_out-N.parquet`, and `corpus.json`, which comes last.

    A row of a shard is a document: `id` (source:row:piece), `language`, `sentences`.

    Args:
        inputs: files, folders, `hub:NAME`.
        output: a folder that does not exist yet, unless `resume`.
        max_memory: bytes that all processes together may take.
        engine: `local`, or `ray` for processes on other machines.

    Returns:
        The statistics, as in `corpus.json`.

    Raises:
        FusebertError: in words; after a kill or an error, `resume` goes on at the last whole shard.
    """
    sources = list_sources(inputs)
    probe(sources, settings.field)
    working = max_memory - (1 + workers) * PROCESS_BYTES
    if working < LEAST_WORKING_BYTES:
        least = (1 + workers) * PROCESS_BYTES + LEAST_WORKING_BYTES
        raise UsageError(f"--max-memory must be at least {least >> 20}m for {workers} workers")
    if (output / REPORT).exists() or (not resume and output.exists() and any(output.iterdir())):
        raise UsageError(f"{output} already holds files; choose another --output, or --resume a run that was stopped")
    output.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(output / STATE, isolation_level="DEFERRED")) as database:
        database.execute(f"PRAGMA cache_size = -{working // 8 >> 10}")
        with pick_engine(engine, workers) as pool:
            report = _Run(sources, output, settings, working, database).go(pool, 4 * workers)
    (output / STATE).unlink()
    return report


class _Run:
    """One run over all sources; what it knows is committed together with each pair of shards."""

    def __init__(
        self, sources: Sequence[str], output: Path, settings: Settings, working: int, database: sqlite3.Connection
    ) -> None:
        self.sources, self.output, self.settings, self.database = sources, output, settings, database
        self.shard_bytes, self.batch_bytes = min(MOST_SHARD_BYTES, working // 16), min(MOST_BATCH_BYTES, working // 64)
        self.seen = Seen(database)
        database.execute("CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT)")
        saved = dict(database.execute("SELECT name, value FROM state"))
        identity = json.dumps([list(sources), asdict(settings)])
        if saved.get("identity", identity) != identity:
            raise UsageError(f"{output} was begun with other inputs or settings; resume with the same ones")
        self.identity = identity
        self.position: tuple[int, int, int] = tuple(json.loads(saved.get("position", "[0, 0, 0]")))
        self.counts: Counter[str] = Counter(json.loads(saved.get("counts", "{}")))
        self.shards: Counter[str] = Counter(json.loads(saved.get("shards", "{}")))
        self.seconds = float(saved.get("seconds", 0))
        self.rows: dict[str, list[Processed]] = {part: [] for part in PARTS}
        self.bytes = 0

    def go(self, pool: Engine, in_flight: int) -> dict[str, Any]:
        """Everything, from the last whole shard on."""
        started, before = time.monotonic(), self.seconds
        for done in pool.map(process, self._batches(), in_flight):
            for document in done:
                self._take(document)
            self.seconds = before + time.monotonic() - started
            if self.bytes >= self.shard_bytes:
                self._write()
        if not self.counts["documents"]:
            raise DataError(f"{', '.join(self.sources)}: no document could be read")
        self._write()
        report = self._report()
        write_json(self.output / REPORT, report)
        return report

    def _batches(self) -> Iterator[tuple[Settings, list[Document]]]:
        """Runs of documents, from where the last shard ended."""
        batch: list[Document] = []
        size = 0
        for number, source in enumerate(self.sources):
            if number < self.position[0]:
                continue
            for document in read_documents(source, number, self.settings.field):
                piece = document.piece if isinstance(document, Document) else 0
                if (number, document.row, piece) <= self.position:
                    continue
                if isinstance(document, RowError):
                    self._refuse(document)
                    continue
                batch.append(document)
                size += len(document.text)
                if size >= self.batch_bytes:
                    yield self.settings, batch
                    batch, size = [], 0
        if batch:
            yield self.settings, batch

    def _refuse(self, error: RowError) -> None:
        line = {"table": str(error.table), "row": error.row, "column": error.column, "problem": error.problem}
        with (self.output / BAD_DOCUMENTS).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.counts["bad"] += 1
        if self.settings.bad_rows == "refuse":
            raise DataError(f"{error}. Mend it, or leave out what cannot be read with --bad-rows skip")

    def _take(self, document: Processed) -> None:
        self.counts["documents"] += 1
        self.last = (document.source, document.row, document.piece)
        if not document.sentences:
            self.counts["too_short"] += 1
            return
        found = document.found if self.settings.near_duplicates else Fingerprint(document.found.exact, b"")
        if (kind := self.seen.add(found)) is not None:
            self.counts[f"{kind}_duplicates"] += 1
            return
        key = hashlib.blake2b(document.found.exact, salt=self.settings.seed.to_bytes(8, "big"), digest_size=4)
        share = int.from_bytes(key.digest(), "big")
        part = "held_out" if share % 10_000 < 10_000 * self.settings.held_out else "train"
        self.rows[part].append(document)
        characters = sum(map(len, document.sentences))
        self.bytes += characters
        self.counts[f"{part}_documents"] += 1
        self.counts[f"{part}_sentences"] += len(document.sentences)
        self.counts[f"{part}_characters"] += characters
        self.counts[f"language_{document.language}"] += 1

    def _write(self) -> None:
        """Shards first, each whole or absent; then, at once, all that is known. A kill between the two costs a shard
        that the next run writes again, byte for byte."""
        for part, rows in self.rows.items():
            if rows:
                table = pa.table(
                    {
                        "id": [f"{row.source}:{row.row}:{row.piece}" for row in rows],
                        "language": [row.language for row in rows],
                        "sentences": [row.sentences for row in rows],
                    },
                    schema=SCHEMA,
                )
                sink = pa.BufferOutputStream()
                parquet.write_table(table, sink, compression="zstd", row_group_size=1024)
                write_atomically(self.output / f"{part}-{self.shards[part]:05d}.parquet", sink.getvalue())
                self.shards[part] += 1
        self.rows, self.bytes = {part: [] for part in PARTS}, 0
        self.position = getattr(self, "last", self.position)
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
