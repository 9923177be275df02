"""What is done to one batch of documents: clean, split, fingerprint. Imports little, since workers are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fusebert.corpus.documents import Document
from fusebert.corpus.duplicates import Fingerprint, fingerprint
from fusebert.corpus.languages import AUTO
from fusebert.corpus.sentences import clean, language_of, split


@dataclass(frozen=True, slots=True)
class Settings:
    """How a corpus is prepared.

    Args:
        field: the column with the text, in tables.
        language: of every document, as `languages.py` has it; `auto` looks at the script of each.
        held_out: share of documents kept apart, in [0, 1).
        least_characters: shorter documents are left out.
        near_duplicates: whether to drop near-duplicates, not only exact ones.
        bad_rows: `refuse` stops at the first; `skip` lists them.
        seed: of the choice of held-out documents.
    """

    field: str = "text"
    language: str = AUTO
    held_out: float = 0.02
    least_characters: int = 100
    near_duplicates: bool = True
    bad_rows: str = "refuse"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that cannot be read, in its place among the documents.

    Args:
        problem: what is wrong with it.
        column: where, if in one.
        line: where it begins, in a text file.
        rest: all that follows in its file is lost, too.
    """

    source: int
    row: int
    problem: str
    column: str | None = None
    piece: int = 0
    line: int | None = None
    rest: bool = False


@dataclass(frozen=True, slots=True)
class Processed:
    """A document as a shard holds it.

    Args:
        characters: of the document as it was read.
        text: its sentences in UTF-8, one a line; empty when it was too short.
    """

    source: int
    row: int
    piece: int
    characters: int
    language: str
    text: bytes
    found: Fingerprint


def process(work: tuple[Settings, Sequence[Document | Bad]]) -> list[Processed | Bad]:
    """One batch, in order; bad rows pass through."""
    settings, batch = work
    return [one if isinstance(one, Bad) else _process_or_name(one, settings) for one in batch]


def _process_or_name(document: Document, settings: Settings) -> Processed | Bad:
    """One document that a library cannot take does not stop the others."""
    try:
        return _process(document, settings)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of sentencex, which is written in Rust, is no Exception
        problem = f"the text cannot be processed ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        return Bad(document.source, document.row, problem, settings.field, document.piece)


def _process(document: Document, settings: Settings) -> Processed:
    text = clean(document.text)
    language = language_of(text) if settings.language == AUTO else settings.language
    place = (document.source, document.row, document.piece)
    sentences = split(text, language) if len(text.strip()) >= settings.least_characters else []
    found = fingerprint(text, language, settings.near_duplicates) if sentences else Fingerprint(b"", b"")
    return Processed(*place, len(document.text), language, "\n".join(sentences).encode(), found)
