"""Rows of a corpus and their masks by the rules of BERT's data script, checked on the statistics of what is made."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from fusebert.corpus.tokens import Tokens, tokenize_corpus
from fusebert.corpus.vocabulary import corpus_tokenizer
from fusebert.modalities.text.tokenizer import special_tokens
from fusebert.tasks.pretraining.corpus_rows import PairRows
from fusebert.tasks.pretraining.masking import Masking

LENGTH = 64
SPECIAL = {"[CLS]": 2, "[SEP]": 3}


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
    pairs = made_rows.pairs
    for epoch in range(2):
        made_rows.epoch = epoch
        made_rows.pairs = pairs  # the same ones again, so that only masks can differ
        chosen.append({(number, int(place)) for number in range(200) for place in made_rows[number].target.places})
    assert len(chosen[0] & chosen[1]) < 0.3 * len(chosen[0]), "by chance 15 %"


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
    other = rows(made, 0.4, seed=1)
    assert not np.array_equal(other.pairs.spans[:50], rows(made, 0.4).pairs.spans[:50])


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


def test_what_is_left_of_a_word_is_a_word_of_its_own(made: Tokens, random: np.random.Generator) -> None:
    """Where a segment's front was cut off inside a word, the rest does not join the word before it."""
    made_rows, masking, seen = rows(made, 0.2), Masking(0.15, True, 4, np.arange(5, 2005)), list[np.ndarray]()

    def noting(ids: np.ndarray, inside: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        seen.append(inside)
        return masking(ids, inside, random)

    made_rows.masking = noting  # type: ignore[assignment]
    cut = 0
    for number in range(500):
        start_a, end_a, start_b, end_b = made_rows.pairs.spans[number].tolist()
        made_rows[number]
        inside, long_a = seen[-1], end_a - start_a
        assert not inside[0]
        assert not inside[long_a]
        cut += int(made.inside[start_b])
        assert (inside[1:long_a] == made.inside[start_a + 1 : end_a]).all()
        assert (inside[long_a + 1 :] == made.inside[start_b + 1 : end_b]).all()
    assert cut > 20


def test_worker_processes_map_the_corpus(corpus: Path) -> None:
    tokenizer = corpus_tokenizer(corpus)
    found = tokenize_corpus(corpus, "train", tokenizer)
    made_rows = PairRows(found, special_tokens(tokenizer), Masking.of(tokenizer, 0.15, True), LENGTH, "nsp", 0, 0.1)
    made_rows.epoch = 2
    assert len(pickle.dumps(found)) < 1000
    sent = pickle.dumps(made_rows)
    assert len(sent) < found.ids.nbytes / 10
    there = pickle.loads(sent)  # noqa: S301
    assert (there[7].features["text"]["input_ids"] == made_rows[7].features["text"]["input_ids"]).all()
    assert len(there) == len(made_rows)
    part = Tokens(found.ids[:50], found.inside[:50], found.sentences[:3], found.documents[:1])
    assert len(pickle.loads(pickle.dumps(part)).ids) == 50, "a part of the files is not the files"  # noqa: S301
