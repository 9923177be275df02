"""Which documents were seen before, exactly or nearly: fingerprints by MinHash, memory of them on disk."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasketch import MinHash

PERMUTATIONS, BANDS = 64, 8
ROWS_A_BAND = PERMUTATIONS // BANDS
SIMILAR = 0.8
"""Least share of equal MinHash values, an estimate of the Jaccard similarity (Broder 1997), of a near-duplicate.
Eight bands of eight values find a pair of that similarity with 77 % and one of 0.9 with 99 %."""
SHINGLE_WORDS, SHINGLE_CHARACTERS = 5, 8
LEAST_SHINGLES = 20
"""Of shorter texts only exact copies count: two of their few shingles say little."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Args:
    exact: 16 bytes, equal for texts that differ in case and spaces only.
    signature: uint32[PERMUTATIONS] as bytes; empty for a short text.
    """

    exact: bytes
    signature: bytes

    def bands(self) -> list[bytes]:
        """Keys under which near-duplicates meet."""
        width = 4 * ROWS_A_BAND
        parts = [self.signature[start : start + width] for start in range(0, len(self.signature), width)]
        return [bytes([number]) + _digest(part, 8) for number, part in enumerate(parts)]


def fingerprint(text: str, language: str) -> Fingerprint:
    """Of clean text; shingles are words, or characters in languages that do not space them."""
    plain = " ".join(text.casefold().split())
    exact = _digest(plain.encode(), 16)
    if language in ("zh", "ja"):
        shingles = {plain[start : start + SHINGLE_CHARACTERS] for start in range(len(plain) - SHINGLE_CHARACTERS + 1)}
    else:
        words = WORD.findall(plain)
        shingles = {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(len(words) - SHINGLE_WORDS + 1)}
    if len(shingles) < LEAST_SHINGLES:
        return Fingerprint(exact, b"")
    made = MinHash(num_perm=PERMUTATIONS, seed=1)
    made.update_batch([shingle.encode() for shingle in shingles])
    return Fingerprint(exact, made.hashvalues.astype(np.uint32).tobytes())


class Seen:
    """Fingerprints of all documents kept so far, in an SQLite file, so that memory does not grow with them.

    Nothing is final before the caller commits the connection.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        database.execute("CREATE TABLE IF NOT EXISTS exact (key BLOB PRIMARY KEY) WITHOUT ROWID")
        database.execute("CREATE TABLE IF NOT EXISTS bands (key BLOB, document INTEGER)")
        database.execute("CREATE INDEX IF NOT EXISTS by_key ON bands (key)")
        database.execute("CREATE TABLE IF NOT EXISTS signatures (document INTEGER PRIMARY KEY, signature BLOB)")

    def add(self, found: Fingerprint) -> str | None:
        """`exact` or `near` for a document seen before; None for a new one, which is remembered."""
        fresh = self.database.execute("INSERT OR IGNORE INTO exact VALUES (?)", (found.exact,)).rowcount
        if not fresh:
            return "exact"
        if not found.signature:
            return None
        bands = found.bands()
        if self._is_near(found.signature, bands):
            return "near"
        number = self.database.execute("INSERT INTO signatures (signature) VALUES (?)", (found.signature,)).lastrowid
        self.database.executemany("INSERT INTO bands VALUES (?, ?)", [(band, number) for band in bands])
        return None

    def _is_near(self, signature: bytes, bands: Sequence[bytes]) -> bool:
        query = "SELECT signature FROM signatures NATURAL JOIN bands WHERE key = ?"
        rows = (row for band in bands for row in self.database.execute(query, (band,)))
        own = np.frombuffer(signature, np.uint32)
        return any((np.frombuffer(other, np.uint32) == own).mean() >= SIMILAR for (other,) in rows)


def _digest(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()
