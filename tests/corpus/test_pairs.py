"""Pairs and masks by the rules of BERT's data script, checked on the statistics of what is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusebert.corpus.pairs import IS_NEXT, NOT_NEXT, NextSentence, Pairs, draw_pairs
from fusebert.corpus.tokens import Tokens, borders, tokenize_corpus
from fusebert.corpus.vocabulary import corpus_tokenizer
from fusebert.tasks.pretraining.masking import Masking
from fusebert.tasks.pretraining.rows import PairRows

LENGTH = 64
SPECIAL = {"[CLS]": 2, "[SEP]": 3}


@pytest.fixture
def made(random: np.random.Generator) -> Tokens:
    """2,000 documents of 5 to 40 sentences of 3 to 20 pieces; each id says in which document it stands."""
    counts = random.integers(5, 40, 2000)
    lengths = random.integers(3, 20, counts.sum())
    documents, sentences = borders(counts), borders(lengths)
    ids = np.repeat(np.arange(2000), sentences[documents[1:]] - sentences[documents[:-1]]).astype(np.int32) + 5
    return Tokens(ids, random.random(len(ids)) < 0.3, sentences, documents)


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


def test_every_document_is_read(made: Tokens, random: np.random.Generator) -> None:
    pairs = draw(made, "off", random)
    read = np.zeros(len(made.ids), dtype=int)
    for start, end, *_ in pairs.spans:
        read[start:end] += 1
    assert read.max() == 1
    assert read.mean() > 0.8


def test_sentence_order(made: Tokens, random: np.random.Generator) -> None:
    pairs = draw(made, "sentence_order", random)
    swapped = pairs.labels == NOT_NEXT
    assert abs(swapped.mean() - 0.5) < 0.03
    assert (pairs.spans[swapped, 0] > pairs.spans[swapped, 2]).all()
    assert (pairs.spans[~swapped, 0] < pairs.spans[~swapped, 2]).all()


@pytest.mark.parametrize("whole_words", [True, False])
def test_masking(whole_words: bool, random: np.random.Generator) -> None:
    masking = Masking(0.15, whole_words, 4, np.arange(5, 1000))
    share = kept = mask = other = total = 0
    for _ in range(2000):
        ids = random.integers(5, 1000, int(random.integers(20, 120)))
        inside = random.random(len(ids)) < 0.3
        inside[0] = False
        replaced, chosen = masking(ids, inside, random)
        untouched = np.setdiff1d(np.arange(len(ids)), chosen)
        assert (replaced[untouched] == ids[untouched]).all()
        assert (np.diff(chosen) > 0).all()
        if whole_words:
            word = np.cumsum(~inside)
            assert np.isin(word[chosen], word[chosen]).all()
            assert all((np.isin(np.flatnonzero(word == w), chosen)).all() for w in np.unique(word[chosen]))
        share += len(chosen)
        total += len(ids)
        mask += (replaced[chosen] == 4).sum()
        kept += (replaced[chosen] == ids[chosen]).sum()
        other += ((replaced[chosen] != 4) & (replaced[chosen] != ids[chosen])).sum()
    assert share / total == pytest.approx(0.15, abs=0.006)
    assert mask / share == pytest.approx(0.8, abs=0.01)
    assert kept / share == pytest.approx(0.1, abs=0.01)
    assert other / share == pytest.approx(0.1, abs=0.01)


def rows(made: Tokens, share: float, seed: int = 0) -> PairRows:
    return PairRows(made, SPECIAL, Masking(0.15, True, 4, np.arange(5, 2005)), LENGTH, "nsp", seed, share)


def test_rows_are_a_function_of_seed_epoch_and_number(made: Tokens) -> None:
    first, second = rows(made, 0.4), rows(made, 0.4)
    first.epoch = second.epoch = 2
    one, other = first[7], second[7]
    assert (one.features["text"]["input_ids"] == other.features["text"]["input_ids"]).all()
    assert (one.target.places == other.target.places).all()
    second.epoch = 1
    second.epoch = 2
    assert (second[7].features["text"]["input_ids"] == one.features["text"]["input_ids"]).all()
    assert len(rows(made, 0.4, seed=1)) != 0


def test_epochs_share_out_the_passes(made: Tokens) -> None:
    whole, part = rows(made, 1.0), rows(made, 0.4)
    spans = []
    for epoch in range(5):  # two passes
        part.epoch = epoch
        spans.append(part.pairs.spans)
    joined = np.concatenate(spans)
    wanted = [whole.pairs.spans]
    whole.epoch = 1
    wanted.append(whole.pairs.spans)
    assert (joined == np.concatenate(wanted)).all()


def test_a_row_reads_as_bert_writes_it(made: Tokens) -> None:
    made_rows = rows(made, 1.0)
    for number in range(50):
        row = made_rows[number]
        text = row.features["text"]
        assert row.length == len(text["input_ids"]) + 1 == made_rows.lengths[number]
        (first, last) = np.flatnonzero(text["input_ids"] == 3)
        assert last == len(text["input_ids"]) - 1
        assert (text["token_type_ids"] == (np.arange(len(text["input_ids"])) > first)).all()
        start_a, _, start_b, _ = made_rows.pairs.spans[number]
        original = np.where(
            row.target.places - 1 < first,
            made.ids[start_a + row.target.places - 1],
            made.ids[np.minimum(start_b + row.target.places - 2 - first, len(made.ids) - 1)],
        )
        assert (row.target.pieces == original).all()


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
