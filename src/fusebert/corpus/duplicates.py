"""Which documents were seen before, exactly or nearly: fingerprints by MinHash, memory of them on disk."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

PERMUTATIONS, BANDS = 64, 8
ROWS_A_BAND = PERMUTATIONS // BANDS
SIMILAR = 0.8
"""Least share of equal MinHash values, an estimate of the Jaccard similarity (Broder 1997), of a near-duplicate.
Pairs are compared where one of eight bands of eight values is the same. So of pairs of that similarity half are
found, of 0.85 82 %, of 0.9 98 %."""
SHINGLE_WORDS, SHINGLE_CHARACTERS = 5, 8
LEAST_SHINGLES = 20
"""Of shorter texts only exact copies count: two of their few shingles say little."""
UNSPACED = ("zh", "ja")
NO_LETTERS = re.compile(r"(?!(?<=\d)[.%]|[.-](?=\d))[\W_]")
"""Nor what makes another number of digits: a point, a sign, a per cent."""
MOST_COMPARED = 100
"""Documents of a form that thousands share would else each be compared with all of them."""
HASHES_AT_ONCE = 4096
SCHEME: Literal["affine32"] = "affine32"
BEYOND = 2**16
BASE, MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
INVERSE = np.uint64(pow(int(BASE), -1, 2**64))


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells one text from others.

    Args:
        exact: 16 bytes, equal for texts that differ in case and spaces only; of scripts without spaces, also in
            punctuation and the width of signs.
        signature: uint32[PERMUTATIONS] as bytes; empty for a short text.
    """

    exact: bytes
    signature: bytes

    def bands(self) -> list[bytes]:
        """Keys under which near-duplicates meet."""
        width = 4 * ROWS_A_BAND
        parts = [self.signature[start : start + width] for start in range(0, len(self.signature), width)]
        return [bytes([number]) + _digest(part, 8) for number, part in enumerate(parts)]


def fingerprint(text: str, language: str, near: bool = True) -> Fingerprint:
    """Of clean text; shingles are words, or characters in languages that do not space them.

    Args:
        near: whether near-duplicates are looked for at all.
    """
    plain = text.casefold()
    exact = _digest((_letters(plain) if language in UNSPACED else " ".join(plain.split())).encode(), 16)
    hashes = _shingles(plain, language in UNSPACED) if near else np.zeros(0, np.uint32)
    if all(len(np.unique(hashes[:some])) < LEAST_SHINGLES for some in (4 * LEAST_SHINGLES, HASHES_AT_ONCE)):
        return Fingerprint(exact, b"")
    made = _minhash()(PERMUTATIONS, hashfunc=lambda some: some, permutations=_permutations(), scheme=SCHEME)
    for start in range(0, len(hashes), HASHES_AT_ONCE):
        made.update_batch([hashes[start : start + HASHES_AT_ONCE]])
    return Fingerprint(exact, made.hashvalues.tobytes())


def _letters(text: str) -> str:
    """Letters and digits alone, full-width ones as plain ones; where there are none, the text as it is."""
    return NO_LETTERS.sub("", unicodedata.normalize("NFKC", text).casefold()) or " ".join(text.split())


def nearly(one: Fingerprint, other: Fingerprint) -> bool:
    """Whether two texts that share a band are near-duplicates."""
    signatures = [np.frombuffer(found.signature, np.uint32) for found in (one, other)]
    return bool((signatures[0] == signatures[1]).mean() >= SIMILAR)


def _shingles(text: str, unspaced: bool) -> np.ndarray:
    """uint32[n] hashes of all runs of words, or of characters; what is neither letter nor digit only parts words.

    A run's hash is a polynomial in its code points modulo 2^64, taken from a running sum over the whole text, so no
    shingle is ever made as a string.
    """
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    inside = _word_characters()[np.minimum(codes, BEYOND)]
    kept = inside.copy()
    kept[1:] |= inside[:-1]  # and one character after each word, to part it from the next
    codes, inside = np.where(inside, codes, 0)[kept], inside[kept]
    if unspaced:
        codes = codes[inside]
        starts = np.arange(max(0, len(codes) - SHINGLE_CHARACTERS + 1))
        ends = starts + SHINGLE_CHARACTERS
    else:
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        count = max(0, len(edges) // 2 - SHINGLE_WORDS + 1)
        starts, ends = edges[::2][:count], edges[1::2][SHINGLE_WORDS - 1 :]
    powers = np.multiply.accumulate(np.full(len(codes) + 1, BASE))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(codes * powers[:-1], dtype=np.uint64)])
    powers = np.multiply.accumulate(np.full(len(codes) + 1, INVERSE))
    return np.asarray((((sums[ends] - sums[starts]) * powers[starts] * MIX) >> np.uint64(32)).astype(np.uint32))


@cache
def _word_characters() -> np.ndarray:
    """bool[BEYOND + 1]: letters and digits of the basic plane; every character beyond it counts as one."""
    return np.array([chr(code).isalnum() for code in range(BEYOND)] + [True])


@cache
def _permutations() -> np.ndarray:
    return np.asarray(_minhash()(PERMUTATIONS, seed=1, scheme=SCHEME).permutations)


@cache
def _minhash() -> Any:
    """Imported by the processes that need it only: with it comes half a second of scipy."""
    from datasketch import MinHash

    return MinHash


class Seen:
    """Fingerprints of all documents kept so far, in an SQLite file, so that memory does not grow with them.

    Nothing is final before the caller commits the connection.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        database.execute("CREATE TABLE IF NOT EXISTS exact (key BLOB PRIMARY KEY) WITHOUT ROWID")
        columns = "key BLOB, document INTEGER, PRIMARY KEY (key, document)"
        database.execute(f"CREATE TABLE IF NOT EXISTS bands ({columns}) WITHOUT ROWID")
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
        query = "SELECT signature FROM bands NATURAL JOIN signatures WHERE key = ? ORDER BY document LIMIT ?"
        rows = (row for band in bands for row in self.database.execute(query, (band, MOST_COMPARED)))
        own = np.frombuffer(signature, np.uint32)
        return any((np.frombuffer(other, np.uint32) == own).mean() >= SIMILAR for (other,) in rows)


def _digest(data: bytes, size: int) -> bytes:
    return hashlib.blake2b(data, digest_size=size).digest()
