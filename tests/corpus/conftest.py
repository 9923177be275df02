"""Documents of invented sentences: enough like language to be split, compared and learnt."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fusebert.corpus.tokens import Tokens

SUBJECTS = ("The king", "A ship", "The river", "Her brother", "The city", "An old clock", "The senate", "A painter")
VERBS = ("saw", "crossed", "left", "built", "forgot", "painted", "found", "ruled")
OBJECTS = ("the harbour", "a mountain", "the bridge", "two islands", "an army", "the garden", "a letter", "the tower")
ENDS = ("in the morning", "before the war", "after a long winter", "without a word", "for many years", "again")
CHINESE = ("国王看见了港口。", "那条河流过城市。", "1970年他离开了家乡。", "画家忘记了那封信。", "老钟停了很多年！")


def borders(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Starts of runs of these lengths, and the end: int64[n + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def document(random: np.random.Generator, sentences: int) -> str:
    """English, a few sentences a line."""
    out = []
    for number in range(sentences):
        words = [str(random.choice(part)) for part in (SUBJECTS, VERBS, OBJECTS, ENDS)]
        out.append(" ".join(words) + f" {random.integers(1000)}." + ("\n" if number % 3 == 2 else " "))
    return "".join(out).strip()


@pytest.fixture
def made(random: np.random.Generator) -> Tokens:
    """2,000 documents of 5 to 40 sentences of 3 to 20 pieces; each id says in which document it stands."""
    counts = random.integers(5, 40, 2000)
    lengths = random.integers(3, 20, counts.sum())
    documents, sentences = borders(counts), borders(lengths)
    ids = np.repeat(np.arange(2000), sentences[documents[1:]] - sentences[documents[:-1]]).astype(np.int32) + 5
    return Tokens(ids, random.random(len(ids)) < 0.3, sentences, documents)


@pytest.fixture(scope="session")
def documents() -> list[str]:
    random = np.random.default_rng(5)
    return [document(random, int(random.integers(6, 30))) for _ in range(300)]


@pytest.fixture
def jsonl(documents: list[str], tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "documents.jsonl", documents)


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> Path:
    data = "".join(json.dumps({field: text}, ensure_ascii=False) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture(scope="session")
def corpus(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus with a vocabulary. Tests do not change it."""
    from fusebert.corpus.prepare import Settings, prepare_corpus
    from fusebert.corpus.vocabulary import make_vocabulary

    folder = tmp_path_factory.mktemp("corpus")
    source = write_jsonl(folder / "documents.jsonl", documents)
    prepare_corpus([str(source)], folder / "corpus", Settings(held_out=0.1))
    make_vocabulary(folder / "corpus", 400)
    return folder / "corpus"
