"""Pairs and masks by the rules of BERT's data script, checked on the statistics of what is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusebert.corpus.pairs import IS_NEXT, NOT_NEXT, NextSentence, Pairs, draw_pairs
from fusebert.corpus.tokens import Tokens, borders, tokenize_corpus
from fusebert.corpus.vocabulary import corpus_tokenizer
from fusebert.modalities.text.processor import special_tokens
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
    """Lengths of A and B, share of random B, share of full rows, each within five standard errors."""
    lengths = np.diff(made.sentences)
    texts = [lengths[a:b].tolist() for a, b in zip(made.documents[:-1], made.documents[1:], strict=True)]
    theirs = np.array(original_pairs(texts, random), dtype=float)
    pairs = draw(made, "nsp", random)
    spans = pairs.spans
    ours = np.stack([spans[:, 1] - spans[:, 0], spans[:, 3] - spans[:, 2], pairs.labels == NOT_NEXT], axis=1)
    assert len(ours) == pytest.approx(len(theirs), rel=0.02)
    full = [found[:, :2].sum(axis=1, keepdims=True) == LENGTH - 3 for found in (ours, theirs)]
    ours, theirs = (np.hstack([found, whole]) for found, whole in zip((ours, theirs), full, strict=True))
    error = ours.std(axis=0) * (1 / len(ours) + 1 / len(theirs)) ** 0.5
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * error).all()


@pytest.mark.parametrize("wanted", [0.15, 0.3])
@pytest.mark.parametrize("whole_words", [True, False])
def test_masking(whole_words: bool, wanted: float, random: np.random.Generator) -> None:
    masking = Masking(wanted, whole_words, 4, np.arange(5, 1000))
    share = kept = mask = other = total = 0
    for _ in range(1000):
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
        assert np.isin(replaced[chosen], [4, *range(5, 1000)]).all()  # never another special piece
    assert share / total == pytest.approx(wanted, abs=0.006)
    for found, expected in ((mask, 0.8), (kept, 0.1), (other, 0.1)):
        assert found / share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / share) ** 0.5 + 1e-3)


def test_a_word_that_no_longer_fits_is_passed_over(random: np.random.Generator) -> None:
    """As in BERT's script: never more than the share, but for a row whose every word is longer."""
    masking = Masking(0.15, True, 4, np.arange(5, 1000))
    inside = np.arange(40) % 4 != 0  # ten words of four pieces; six are wanted
    assert {len(masking(np.full(40, 9), inside, random)[1]) for _ in range(50)} == {4}
    lone = np.array([False, True, True, True, True])
    assert len(masking(np.full(5, 9), lone, random)[1]) == 5


def test_masks_are_drawn_anew_each_epoch(made: Tokens) -> None:
    made_rows, chosen = rows(made, 1.0), []
    for epoch in range(2):
        made_rows.epoch = epoch
        masked = np.zeros(len(made.ids), dtype=bool)
        for number in range(1500):
            start_a, end_a, start_b, _ = made_rows.pairs.spans[number].tolist()
            places = made_rows[number].target.places - 1
            inside_a = places < end_a - start_a
            masked[start_a + places[inside_a]] = True
            masked[start_b + places[~inside_a] - 1 - (end_a - start_a)] = True
        chosen.append(masked)
    again = (chosen[0] & chosen[1]).sum() / chosen[0].sum()
    assert again < 0.3, "by chance 15 % of what was read twice"


def test_words_of_a_corpus_are_masked_whole(corpus: Path) -> None:
    tokenizer = corpus_tokenizer(corpus)
    found = tokenize_corpus(corpus, "train", tokenizer)
    masking = Masking.of(tokenizer, 0.15, True)
    made_rows = PairRows(found, special_tokens(tokenizer), masking, LENGTH, "off", 0)
    longer = 0
    for number in range(200):
        start, end, *_ = made_rows.pairs.spans[number].tolist()
        pieces = [tokenizer.id_to_token(one) for one in found.ids[start:end].tolist()]
        chosen = set((made_rows[number].target.places - 1).tolist())
        for place in range(1, len(pieces)):
            if pieces[place].startswith("##"):
                assert (place in chosen) == (place - 1 in chosen)
                longer += place in chosen
    assert longer > 20


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
