"""Pairs by the rules of BERT's data script, checked on the statistics of what is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusebert.corpus.pairs import IS_NEXT, NOT_NEXT, NextSentence, Pairs, draw_pairs
from fusebert.corpus.tokens import Tokens, tokenize_corpus
from fusebert.corpus.vocabulary import corpus_tokenizer
from tests.corpus.conftest import borders

LENGTH = 64


def draw(made: Tokens, kind: NextSentence, random: np.random.Generator) -> Pairs:
    return draw_pairs(made, LENGTH, kind, random)


@pytest.mark.parametrize("kind", ["nsp", "sentence_order", "off"])
def test_lengths(made: Tokens, kind: NextSentence, random: np.random.Generator) -> None:
    pairs = draw(made, kind, random)
    assert pairs.lengths.max() == LENGTH
    assert ((pairs.spans[:, 1] - pairs.spans[:, 0]) > 0).all()
    full = (pairs.lengths == LENGTH).mean()
    assert 0.6 < full < 0.95, full  # ends of documents and one in ten are shorter


def test_next_sentences(made: Tokens, random: np.random.Generator) -> None:
    pairs = draw(made, "nsp", random)
    a, b = made.ids[pairs.spans[:, 0]], made.ids[pairs.spans[:, 2]]
    follows = pairs.labels == IS_NEXT
    assert (a[follows] == b[follows]).all()
    assert (a[~follows] != b[~follows]).all()
    for column in (1, 3):  # no segment runs over the end of its document
        assert (made.ids[pairs.spans[:, column] - 1] == made.ids[pairs.spans[:, column - 1]]).all()
    untouched = follows & (pairs.lengths < LENGTH)  # nothing was cut off between A and B
    assert untouched.sum() > 100
    assert (pairs.spans[untouched, 1] == pairs.spans[untouched, 2]).all()
    assert 0.5 <= (pairs.labels == NOT_NEXT).mean() < 0.62  # a lone last sentence always gets a random B


def times_read(found: Tokens, kind: NextSentence, random: np.random.Generator) -> np.ndarray:
    """How often a pass reads each piece."""
    read = np.zeros(len(found.ids), dtype=int)
    for start_a, end_a, start_b, end_b in draw(found, kind, random).spans:
        read[start_a:end_a] += 1
        read[start_b:end_b] += 1
    return read


def test_every_document_is_read(made: Tokens, random: np.random.Generator) -> None:
    whole = times_read(made, "off", random)
    assert whole.max() == 1
    assert whole.mean() > 0.8
    ordered = times_read(made, "sentence_order", random)
    assert ordered.max() == 1
    assert ordered.mean() > whole.mean() - 0.01


def test_sentence_order_reads_lone_sentences(random: np.random.Generator) -> None:
    lengths = random.integers(2, LENGTH - 3, 500)
    sentences = borders(lengths)
    ids = np.zeros(sentences[-1], np.int32)
    found = Tokens(ids, np.zeros(len(ids), bool), sentences, np.arange(501))
    assert (times_read(found, "sentence_order", random) == 1).all()
    spans = draw(found, "sentence_order", random).spans
    assert (np.abs(np.diff(spans[:, :2]) - np.diff(spans[:, 2:])) <= 1).all()


def test_sentence_order(made: Tokens, random: np.random.Generator) -> None:
    pairs = draw(made, "sentence_order", random)
    swapped = pairs.labels == NOT_NEXT
    assert abs(swapped.mean() - 0.5) < 0.03
    assert (pairs.spans[swapped, 0] > pairs.spans[swapped, 2]).all()
    assert (pairs.spans[~swapped, 0] < pairs.spans[~swapped, 2]).all()


def test_one_pair_in_ten_is_short_and_half_are_not_next(random: np.random.Generator) -> None:
    """In documents so long that their ends hardly count."""
    counts, lengths = np.full(6, 4000), random.integers(3, 20, 24_000)
    documents, sentences = borders(counts), borders(lengths)
    ids = np.arange(sentences[-1], dtype=np.int32)
    pairs = draw(Tokens(ids, np.zeros(len(ids), bool), sentences, documents), "nsp", random)
    count = len(pairs.labels)
    assert count > 5000
    short = (pairs.lengths < LENGTH).mean()  # a short target may still be overrun by its last sentence
    assert 0.06 < short < 0.1 + 4 * (0.09 / count) ** 0.5
    lone = 0.1 * 12 / 60  # a target so short that one sentence fills it: nothing is left to follow it
    error = 4 * (0.25 / count) ** 0.5
    assert 0.5 - error < (pairs.labels == NOT_NEXT).mean() < 0.5 + lone + error


def test_unused_sentences_are_put_back(random: np.random.Generator) -> None:
    """Sentences of one piece fill every target exactly, so nothing is cut off and the whole walk can be seen."""
    counts = random.integers(50, 300, 40)
    documents, sentences = borders(counts), np.arange(counts.sum() + 1)
    ids = np.zeros(len(sentences) - 1, np.int32)
    pairs = draw(Tokens(ids, np.zeros(len(ids), bool), sentences, documents), "nsp", random)
    expected, ends = -1, set(documents[1:].tolist())
    for (start_a, end_a, start_b, end_b), label in zip(pairs.spans.tolist(), pairs.labels.tolist(), strict=True):
        if expected >= 0:
            assert start_a == expected
        assert start_b == end_a or label == NOT_NEXT
        expected = end_a if label == NOT_NEXT else end_b
        expected = -1 if expected in ends else expected
    assert expected == -1


def original_pairs(documents: list[list[int]], random: np.random.Generator) -> list[tuple[int, int, bool]]:
    """The rules of `create_instances_from_document` in BERT's create_pretraining_data.py, on lengths alone.

    One difference is ours: the script draws a target once a document, so that far more than one pair in ten is short
    (a document with a small target makes many pairs); here it is drawn for each pair.

    Returns:
        Tokens of A and of B after truncation, and whether B is random.
    """
    most, out = LENGTH - 3, []
    for number, document in enumerate(documents):
        chunk: list[int] = []
        i = 0
        while i < len(document):
            if not chunk:
                target = int(random.integers(2, most + 1)) if random.random() < 0.1 else most
            chunk.append(document[i])
            if i == len(document) - 1 or sum(chunk) >= target:
                a_end = 1 if len(chunk) < 2 else int(random.integers(1, len(chunk)))
                a, b, is_random = sum(chunk[:a_end]), sum(chunk[a_end:]), False
                if len(chunk) == 1 or random.random() < 0.5:
                    is_random, b = True, 0
                    other = number
                    while other == number:
                        other = int(random.integers(len(documents)))
                    for length in documents[other][int(random.integers(len(documents[other]))) :]:
                        b += length
                        if b >= target - a:
                            break
                    i -= len(chunk) - a_end
                while a + b > most:
                    a, b = (a - 1, b) if a > b else (a, b - 1)
                out.append((a, b, is_random))
                chunk = []
            i += 1
    return out


def test_pairs_have_the_statistics_of_the_original_script(made: Tokens, random: np.random.Generator) -> None:
    """Number of pairs; lengths of A and B, share of random B, share of full rows, each within five standard errors.

    Two draws differ in their number of pairs by 0.75 % (standard deviation, 60 seeds), means of four by half of that.
    """
    lengths = np.diff(made.sentences)
    texts = [lengths[a:b].tolist() for a, b in zip(made.documents[:-1], made.documents[1:], strict=True)]
    theirs = np.array([row for _ in range(4) for row in original_pairs(texts, random)], dtype=float)
    drawn = [draw(made, "nsp", random) for _ in range(4)]
    spans = np.concatenate([pairs.spans for pairs in drawn])
    labels = np.concatenate([pairs.labels for pairs in drawn])
    ours = np.stack([spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2], labels == NOT_NEXT], axis=1)
    assert len(ours) == pytest.approx(len(theirs), rel=0.02)
    full = [found[:, :2].sum(axis=1, keepdims=True) == LENGTH - 3 for found in (ours, theirs)]
    ours, theirs = (np.hstack([found, whole]) for found, whole in zip((ours, theirs), full, strict=True))
    error = ours.std(axis=0) * (1 / len(ours) + 1 / len(theirs)) ** 0.5
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error).all()


def test_no_pair_crosses_the_held_out_line(corpus: Path) -> None:
    """Each part's rows are spans of its own pieces, and no document stands in both."""
    from fusebert.corpus.shards import read_shards

    texts = {part: {"".join(row["sentences"]) for row in read_shards(corpus, part)} for part in ("train", "held_out")}
    assert texts["train"]
    assert texts["held_out"]
    assert not texts["train"] & texts["held_out"]
    tokenizer = corpus_tokenizer(corpus)
    sentences = {part: {s for row in read_shards(corpus, part) for s in row["sentences"]} for part in texts}
    only_held_out = sorted(sentences["held_out"] - sentences["train"])
    assert only_held_out
    train = tokenize_corpus(corpus, "train", tokenizer)
    spans = draw_pairs(train, LENGTH, "nsp", np.random.default_rng(0)).spans
    read = {tuple(train.ids[start:end].tolist()) for a, b, c, d in spans.tolist() for start, end in ((a, b), (c, d))}
    joined = {" ".join(map(str, segment)) + " " for segment in read}
    for sentence in only_held_out[:50]:
        ids = " ".join(map(str, tokenizer.encode(sentence, add_special_tokens=False).ids)) + " "
        assert not any(ids in segment for segment in joined)


def test_tokens_are_those_of_the_shards(corpus: Path) -> None:
    from fusebert.corpus.shards import read_shards

    tokenizer = corpus_tokenizer(corpus)
    found = tokenize_corpus(corpus, "held_out", tokenizer)
    documents = [row["sentences"] for row in read_shards(corpus, "held_out")]
    assert len(found.documents) == len(documents) + 1
    assert found.documents[-1] == len(found.sentences) - 1 == sum(map(len, documents))
    for number, sentence in enumerate(sentence for part in documents for sentence in part):
        ids = found.ids[found.sentences[number] : found.sentences[number + 1]]
        assert ids.tolist() == tokenizer.encode(sentence, add_special_tokens=False).ids
    assert not found.inside[found.sentences[:-1]].any()
