"""Rows for pre-training with pictures and sound: what is swapped, what is masked, and where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusebert import plugins
from fusebert.corpus.pairs import IS_NEXT, NOT_NEXT
from fusebert.data.collate import Collator
from fusebert.data.dataset import Dataset, Preparer, check
from fusebert.data.tables import read_table
from fusebert.data.toyworld import write_toyworld
from fusebert.errors import RowError
from fusebert.tasks.pretraining.masking import Masking
from fusebert.tasks.pretraining.table_rows import TableRows
from fusebert.tasks.pretraining.task import IGNORED, Task
from fusebert.types import Example, Sample

SMALL = {"image": {"size_pixels": 16, "patch_pixels": 8, "width": 8}}
COLUMNS = {"audio": ["audio"], "image": ["image"], "text": ["caption"]}
MASK = 4


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Ten rows a picture, in two languages, each with a recording."""
    folder = tmp_path_factory.mktemp("sounding") / "world"
    world = write_toyworld(folder, pictures={"train": 80}, sounds=True)
    return [row for row in read_table(world / "train.jsonl") if isinstance(row, Sample)]


def make(samples: list[Sample], names: tuple[str, ...] = ("image", "text"), **changed: Any) -> TableRows:
    processors, columns = {}, COLUMNS | changed.pop("columns", {})
    for name in names:
        half = plugins.load("modalities", name, "processor")
        processors[name] = half.Processor.fit(half.Config(**SMALL.get(name, {})), columns[name], samples, None)
    good, lengths, bad = check(samples, Preparer(processors))
    assert not bad
    masking = Masking.of(processors["text"].tokenizer, 0.15, True)
    rows = Dataset(good, lengths, Preparer(processors), changed.pop("hidden", 0.0), 0)
    return TableRows(rows, masking, **{"matching": True, "one_stream": True, "seed": 0, **changed})


def lacking(sample: Sample, column: str) -> Sample:
    return Sample(sample.table, sample.row, {**sample.values, column: None}, sample.root)


def test_half_of_the_rows_show_another_picture_with_another_caption(samples: list[Sample]) -> None:
    rows = make(samples)
    assert rows.differ
    swapped = rows.own != rows.shown
    assert abs(swapped.mean() - 0.5) < 4 * 0.5 / len(rows) ** 0.5
    assert sorted(rows.own) == list(range(len(samples)))
    for number in np.flatnonzero(swapped).tolist():
        own, other = samples[rows.own[number]].values, samples[rows.shown[number]].values
        assert own["caption"] != other["caption"]
        assert own["image"] != other["image"]
        shown = rows._together(number, int(rows.own[number]), int(rows.shown[number])).features
        for name, row in (("text", rows.own[number]), ("image", rows.shown[number])):
            assert shown[name] is rows.all.prepared(int(row)).features[name]  # type: ignore[union-attr]
    labels = np.array([row.target.next_sentence for row in rows])
    assert (labels == np.where(swapped, NOT_NEXT, IS_NEXT)).all()


@pytest.mark.parametrize("count", [2, 5, 6])
def test_of_few_rows_too_half_keep_their_words_to_be_guessed(samples: list[Sample], count: int) -> None:
    apart = samples[: 10 * count : 10]  # each with a picture of its own
    for seed in range(20):
        rows = make(apart, seed=seed)
        assert (rows.own != rows.shown).sum() <= round(count / 2)
        assert sum(len(row.target.pieces) > 0 for row in rows) >= count // 2


def test_each_row_is_prepared_once_whatever_it_is_shown_with(
    samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make(samples[:40])
    made: list[int] = []
    prepare = rows.all.preparer

    def counting(sample: Sample) -> Example | RowError:
        made.append(sample.row)
        return prepare(sample)

    monkeypatch.setattr(rows.all, "preparer", counting)
    for epoch in range(3):
        rows.epoch = epoch
        for number in range(len(rows)):
            rows[number]
    assert sorted(made) == sorted(sample.row for sample in samples[:40])


def test_masks_do_not_give_the_answer_away(samples: list[Sample]) -> None:
    """As many words are masked where the picture is wrong, but only the others are to be guessed."""
    rows = make(samples, share=3.0)
    masked: dict[int, list[float]] = {IS_NEXT: [], NOT_NEXT: []}
    for row in rows:
        ids = row.features["text"]["input_ids"]
        masked[row.target.next_sentence].append(float((ids == MASK).sum() / (len(ids) - 1)))
        assert (len(row.target.pieces) > 0) == (row.target.next_sentence == IS_NEXT)
    right, wrong = (np.array(masked[label]) for label in (IS_NEXT, NOT_NEXT))
    error = (right.var() / len(right) + wrong.var() / len(wrong)) ** 0.5
    assert abs(right.mean() - wrong.mean()) < 4 * error


@pytest.mark.parametrize("one_stream", [True, False])
@pytest.mark.parametrize("names", [("image", "text"), ("audio", "image", "text")])
def test_places_are_those_of_the_pieces(samples: list[Sample], one_stream: bool, names: tuple[str, ...]) -> None:
    """In a batch, each place leads through the packed order to the very piece that was there before."""
    rows = make(samples[:60], names, one_stream=one_stream)
    examples = [rows[number] for number in range(24)]
    batch = Collator(rows.preparer.processors, Task.collate, text_alone=not one_stream)(examples)
    before = sum(batch["counts"][name] != [] and sum(batch["counts"][name]) for name in names if name != "text")
    places = batch["labels"]["places"].numpy()
    if one_stream:
        found = batch["order"].numpy()[places] - len(examples) - before
        assert batch["lengths"] == rows.lengths[:24].tolist()
    else:  # the trunk reads [CLS] and text, row after row
        ends = np.cumsum(1 + np.array(batch["counts"]["text"]))
        found = places - np.searchsorted(ends, places, side="right") - 1
    originals = [rows.text.load(rows.all.samples[rows.own[number]])["input_ids"] for number in range(24)]  # type: ignore[index]
    original, now = np.concatenate(originals), batch["inputs"]["text"]["input_ids"].numpy()
    assert (original[found] == batch["labels"]["pieces"].numpy()).all()
    untouched = original == now
    assert MASK in now[found]
    matched = np.repeat([row.target.next_sentence == IS_NEXT for row in examples], [len(ids) for ids in originals])
    assert set(np.flatnonzero(~untouched & matched)) <= set(found.tolist())


def test_lengths_follow_what_is_shown(samples: list[Sample]) -> None:
    rows = make(samples, ("audio", "text"), share=0.3)
    rows.epoch = 2
    swapped = rows.own != rows.shown
    assert len(set(rows.beside_lengths.tolist())) > 3  # recordings of different lengths
    assert (rows.beside_lengths[rows.own] != rows.beside_lengths[rows.shown])[swapped].any()
    assert [rows[number].length for number in range(len(rows))] == rows.lengths.tolist()


def test_rows_are_a_function_of_seed_epoch_and_number(samples: list[Sample]) -> None:
    first, second, other = make(samples, share=0.4), make(samples, share=0.4), make(samples, share=0.4, seed=1)
    first.epoch = 3
    for epoch in (1, 0, 3):
        second.epoch = epoch
    other.epoch = 3
    assert (first.own == second.own).all()
    assert (first.shown == second.shown).all()
    assert not np.array_equal(first.own, other.own)
    for number in (0, 7, len(first) - 1):
        one, two = first[number], second[number]
        assert (one.features["text"]["input_ids"] == two.features["text"]["input_ids"]).all()
        assert (one.target.places == two.target.places).all()
    second.epoch = 2
    assert not np.array_equal(first.own, second.own)


def test_five_epochs_of_two_fifths_are_two_passes(samples: list[Sample]) -> None:
    rows, read = make(samples, share=0.4), np.zeros(len(samples), dtype=int)
    for epoch in range(5):
        rows.epoch = epoch
        np.add.at(read, rows.own, 1)
    assert (read == 2).all()


def test_a_word_is_masked_anew_each_pass(samples: list[Sample]) -> None:
    rows = make(samples[:40], matching=False)
    own, shown = rows.own, rows.shown
    places: list[set[tuple[int, int]]] = []
    for epoch in range(2):
        rows.epoch = epoch
        rows.own, rows.shown = own, shown  # the same ones again, so that only masks can differ
        places.append({(int(rows.own[n]), int(p)) for n in range(len(rows)) for p in rows[n].target.places})
    assert len(places[0] & places[1]) < 0.5 * len(places[0])


def test_rows_that_lack_a_part_are_asked_for_the_rest(samples: list[Sample]) -> None:
    rows = make([lacking(sample, "image") if number % 2 else sample for number, sample in enumerate(samples)])
    for number, row in enumerate(rows):
        whole = rows.own[number] % 2 == 0
        assert ("image" in row.features) == whole
        assert (row.target.next_sentence == IGNORED) == (not whole)
        assert len(row.target.pieces) or row.target.next_sentence == NOT_NEXT
    assert (rows.shown[rows.own % 2 == 0] % 2 == 0).all(), "nobody is shown what is not there"


def test_hidden_modalities_ask_nothing(samples: list[Sample]) -> None:
    rows = make(samples, hidden=0.4)
    kinds = {tuple(sorted(row.features)): row.target for row in rows}
    assert set(kinds) == {("image",), ("text",), ("image", "text")}
    assert kinds["image",].next_sentence == IGNORED
    assert len(kinds["image",].places) == 0
    for row in rows:
        assert (row.target.next_sentence == IGNORED) == (len(row.features) < 2)


def test_rows_alike_are_never_swapped(samples: list[Sample]) -> None:
    """Where every picture is the same, or every caption, no other row is wrong."""
    for column in ("image", "caption"):
        same = samples[0].values[column]
        alike = [Sample(s.table, s.row, {**s.values, column: same}, s.root) for s in samples[:30]]
        rows = make(alike)
        assert (rows.own == rows.shown).all()
        assert not rows.differ


def test_chinese_words_of_a_row_are_masked_whole(tmp_path: Path) -> None:
    columns = {"caption": "国王看见了港口，画家离开了城市。", "n": 1}
    rows = [Sample(tmp_path / "x.jsonl", number, columns, None) for number in range(1, 9)]
    made = make(rows, ("text",), matching=False, share=30.0)
    pieces = [made.text.tokenizer.id_to_token(number) for number in made.text.load(rows[0])["input_ids"]]  # type: ignore[index]
    words = [("国", "王"), ("港", "口"), ("画", "家"), ("城", "市")]
    for row in made:
        chosen = {pieces[place - 1] for place in row.target.places}
        assert all((first in chosen) == (second in chosen) for first, second in words)


def test_a_list_that_holds_no_words_is_no_text(tmp_path: Path) -> None:
    """As a dialogue's first turn has no history; in a csv, `[]`."""
    turns: list[Any] = [["eins", "zwei"], [], [" "], "[]", "nichts davor"]
    columns = {"text": ["history", "caption"]}
    values = [{"history": turns[number % 5], "caption": f"Satz {number}"} for number in range(20)]
    rows = [Sample(tmp_path / "x.jsonl", number, one, None) for number, one in enumerate(values, 1)]
    made = make(rows, ("text",), matching=False, columns=columns)
    separators = [int((row.features["text"]["input_ids"] == made.text.special["[SEP]"]).sum()) for row in made]
    assert sorted(separators) == [1] * 12 + [2] * 8


def test_a_long_chinese_text_with_many_blanks_is_cut_as_it_is_read(tmp_path: Path) -> None:
    columns = {"caption": "中国" + "\n" * 6000 + "人民大学" * 60, "n": 1}
    rows = [Sample(tmp_path / "x.jsonl", number, columns, None) for number in range(1, 5)]
    assert all(row.length > 60 for row in make(rows, ("text",), matching=False))
