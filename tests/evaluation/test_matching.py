"""Matching: what belongs together lies close, in training, in files of vectors, and in an index on disk."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pyarrow import parquet
from scipy.stats import hypergeom

from fusebert.data.dataset import Preparer
from fusebert.data.decimals import CommaNumber, PointNumber, UnclearNumber
from fusebert.data.rows import rows_from_memory
from fusebert.data.tables import read_table
from fusebert.errors import FusebertError, RowError, UsageError
from fusebert.evaluation import inference, vectors
from fusebert.evaluation.catalogue import columns_to_read, read_with
from fusebert.evaluation.scoring import dealt_out
from fusebert.evaluation.trained_model import TrainedModel, load
from fusebert.evaluation.vectors import embed, values_as_json, write_vectors
from fusebert.modalities.audio.processor import Processor as AudioProcessor
from fusebert.modalities.image.processor import Config as ImageConfig
from fusebert.modalities.image.processor import Processor as ImageProcessor
from fusebert.modalities.table.processor import Config as TableConfig
from fusebert.modalities.table.processor import Processor as TableProcessor
from fusebert.modalities.text.processor import Config as TextConfig
from fusebert.modalities.text.processor import Processor as TextProcessor
from fusebert.modalities.values import content_key
from fusebert.model.trunk import TrunkConfig
from fusebert.storage import read_json
from fusebert.tasks.matching import task as module
from fusebert.tasks.matching.head import Head
from fusebert.tasks.matching.task import ROUNDING, Config, Task, _both_ways, _chance
from fusebert.training.run import train
from fusebert.types import Encoded, Layout, Sample
from tests.conftest import Notes
from tests.evaluation.conftest import matching_settings


def test_of_two_sides_one_is_dealt_out(matching: TrainedModel, world: Path) -> None:
    """Else what belongs together would go on together, and the score would stay."""
    table = world / "test.jsonl"
    scores = [matching.evaluate(table, shuffle=names)["metrics"] for names in ((), "image", ["image", "text"])]
    assert scores[1] == scores[2] != scores[0]
    scores.append(matching.evaluate(table, without="image")["metrics"])
    assert len({found["chance_recall_at_10"] for found in scores}) == 1  # what is right stays
    matching.task.sides = (("caption",), ("caption_too",))
    columns = ["caption", "caption_too"]
    try:
        matching.processors["text"].columns = columns
        assert dealt_out(matching, ["text"]) == ["caption"]
    finally:
        matching.processors["text"].columns = ["caption"]
        matching.task.sides = (("image",), ("caption",))


def test_media_within_rows_count_in_a_window(matching: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WINDOW_BYTES", 2**20)
    pulled = 0

    def rows() -> Iterator[Sample]:
        nonlocal pulled
        for number in range(40):
            pulled += 1
            yield Sample(Path("t.parquet"), number + 1, {"image": b"no picture" * 10_000, "caption": "a"}, None)

    next(embed(matching, rows(), "left"))
    assert pulled == 11


@pytest.mark.parametrize("rows", [256, 257])
def test_equal_vectors_find_nothing(rows: int, random: np.random.Generator) -> None:
    """Also where the last of them are compared alone, and their products rounded otherwise."""
    vector = random.normal(size=384)
    vectors = np.tile(vector / np.linalg.norm(vector), (rows, 2)).astype(np.float32)
    metrics = Task(Config(left=("a",), right=("b",))).evaluate(vectors, np.arange(2 * rows).reshape(rows, 2))["metrics"]
    assert metrics["recall_at_10"] == 0


def test_ranks_are_those_of_a_plain_search(random: np.random.Generator) -> None:
    vectors = random.normal(size=(40, 2, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    targets = np.stack([np.arange(40) // 2, np.arange(40) + 100], axis=1)  # two names for each of twenty pictures
    found = Task(Config(left=("a",), right=("b",))).evaluate(vectors.reshape(40, 16), targets)["metrics"]
    ranks = []
    for way in (0, 1):
        scores = vectors[:, way] @ vectors[:, 1 - way].T
        for query in range(40):
            right = targets[:, 0] == targets[query, 0]
            ranks.append(1 + int((scores[query, ~right] >= scores[query, right].max() - ROUNDING).sum()))
    assert found["recall_at_5"] == pytest.approx(np.mean(np.array(ranks) <= 5))
    assert found["mrr"] == pytest.approx(np.mean(1 / np.array(ranks)))
    names_of_a_picture, pictures_of_a_name = 1 - np.prod([(38 - n) / (40 - n) for n in range(10)]), 5 / 20
    assert found["chance_recall_at_10"] == pytest.approx((names_of_a_picture + pictures_of_a_name) / 2)


def random_sides(random: np.random.Generator, rows: int, kinds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets of rows whose sides show so many different things, each with a vector of its own."""
    targets = np.stack([random.integers(0, count, rows) for count in kinds], axis=1)
    sides = [
        random.normal(size=(count, 8)).astype(np.float32)[side] for count, side in zip(kinds, targets.T, strict=True)
    ]
    vectors = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    return np.concatenate(vectors, axis=1), targets + np.array([0, 1000])


@pytest.mark.parametrize("kinds", [(1, 1), (3, 4), (1, 30), (200, 30), (200, 200), (2, 10_000)])
@pytest.mark.parametrize("rows", [1, 9, 90])
def test_ranks_and_chance_are_those_of_all_pairs(
    rows: int, kinds: tuple[int, int], random: np.random.Generator
) -> None:
    logits, targets = random_sides(random, rows, kinds)
    left, right = np.split(logits, 2, axis=1)
    pairs = {(a, b) for a, b in targets.tolist()}
    belongs = np.array([[(a, b) in pairs for b in targets[:, 1].tolist()] for a in targets[:, 0].tolist()])
    ways = ((left @ right.T, belongs, targets), (right @ left.T, belongs.T, targets[:, ::-1]))
    for found, (scores, mine, contents) in zip(_both_ways(logits, targets), ways, strict=True):
        best = np.where(mine, scores, -np.inf).max(axis=1, keepdims=True)
        assert found[0].tolist() == (1 + ((scores >= best - ROUNDING) & ~mine).sum(axis=1)).tolist()
        assert found[1].tolist() == (~mine).sum(axis=1).tolist()
        wanted = []
        for of_query in mine:
            own, others = (len(set(contents[some, 1])) for some in (of_query, ~of_query))
            first = min(math.ceil(10 / max(1, (~of_query).sum() / max(1, others))), own + others)
            wanted.append(1 - hypergeom.pmf(0, own + others, own, first))
        assert _chance(contents).tolist() == pytest.approx(wanted)


def test_all_tags_of_a_picture_belong_to_it(random: np.random.Generator) -> None:
    """Each picture has three of twelve tags, a row each; it is perfect to lay it beside just these."""
    tags = np.array([random.choice(12, 3, replace=False) for _ in range(40)])
    pictures = np.zeros((40, 12), dtype=np.float32)
    np.put_along_axis(pictures, tags, np.float32(3**-0.5), axis=1)
    picture, tag = np.repeat(np.arange(40), 3), tags.ravel()
    logits = np.concatenate([pictures[picture], np.eye(12, dtype=np.float32)[tag]], axis=1)
    found = Task(Config(left=("a",), right=("b",))).evaluate(logits, np.stack([picture, tag + 1000], axis=1))["metrics"]
    assert {found[name] for name in ("recall_at_1", "mrr", "ndcg_at_10", "recall_at_10_of_100")} == {1.0}


def test_of_many_rows_some_seek_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    # One seed: over many, a quarter of the rows differs from all by up to four standard errors (0.02 one way).
    logits, targets = random_sides(np.random.default_rng(0), 2000, (1500, 1800))
    logits[:, 8:] += logits[:, :8]
    logits[:, 8:] /= np.linalg.norm(logits[:, 8:], axis=1, keepdims=True)
    task = Task(Config(left=("a",), right=("b",)))
    whole, each = task.evaluate(logits, targets), task.score_rows(logits, targets)
    monkeypatch.setattr(module, "MOST_QUERIES", 500)
    part, some = task.evaluate(logits, targets), task.score_rows(logits, targets)
    asked = np.isfinite(some)
    assert "queries" not in whole
    assert part["queries"] == asked.sum() == 500
    assert (some[asked] == each[asked]).all()
    assert part["metrics"]["recall_at_10"] == pytest.approx(each[asked].mean())
    for name, value in whole["metrics"].items():
        assert part["metrics"][name] == pytest.approx(value, abs=0.05), name


@pytest.mark.parametrize("metric", ["recall_at_10", "recall_at_5", "recall_at_1", "mrr", "ndcg_at_10"])
def test_the_metric_that_is_asked_for_comes_first(metric: Any, random: np.random.Generator) -> None:
    logits, targets = random_sides(random, 60, (40, 50))
    task = Task(Config(left=("a",), right=("b",), metric=metric))
    found = task.evaluate(logits, targets)["metrics"]
    assert next(iter(found)) == task.primary_metric == metric
    assert found == Task(Config(left=("a",), right=("b",))).evaluate(logits, targets)["metrics"]
    assert task.score_rows(logits, targets).mean() == pytest.approx(found[metric])


@pytest.mark.parametrize("names", [1, 5])
def test_chance_is_what_random_vectors_reach(names: int, random: np.random.Generator) -> None:
    targets = np.stack([np.arange(400) // names, np.arange(400) + 1000], axis=1)
    scores = []
    for _ in range(4):
        vectors = random.normal(size=(400, 2, 32)).astype(np.float32)
        vectors[:, 0] = vectors[targets[:, 0], 0]
        vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
        scores.append(Task(Config(left=("a",), right=("b",))).evaluate(vectors.reshape(400, 64), targets)["metrics"])
    reached = np.mean([found["recall_at_10"] for found in scores])
    assert reached == pytest.approx(scores[0]["chance_recall_at_10"], abs=0.03 * names**0.5)


def test_gold_is_perfect_and_shuffled_at_chance(random: np.random.Generator) -> None:
    left = random.normal(size=(1000, 32)).astype(np.float32)
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    targets = np.arange(2000).reshape(1000, 2)
    task = Task(Config(left=("a",), right=("b",)))
    perfect = task.evaluate(np.concatenate([left, left], axis=1), targets)["metrics"]
    assert {perfect[name] for name in ("recall_at_1", "mrr", "ndcg_at_10", "recall_at_10_of_100")} == {1.0}
    lost = task.evaluate(np.concatenate([left, random.permutation(left)], axis=1), targets)["metrics"]
    assert abs(lost["recall_at_10"] - lost["chance_recall_at_10"]) < 0.06
    assert abs(lost["recall_at_10_of_100"] - 0.1) < 0.06


def test_recall_among_a_hundred_is_what_drawing_them_gives(random: np.random.Generator) -> None:
    both = random.normal(size=(300, 2, 8)).astype(np.float32)
    both[:, 1] += 0.6 * both[:, 0]
    both /= np.linalg.norm(both, axis=2, keepdims=True)
    task = Task(Config(left=("a",), right=("b",)))
    found = task.evaluate(both.reshape(300, 16), np.arange(600).reshape(300, 2))["metrics"]
    assert set(found) == set(task.metric_names)
    hits = []
    for left, right in ((both[:, 0], both[:, 1]), (both[:, 1], both[:, 0])):
        scores = left @ right.T
        for query in range(300):
            others = np.delete(np.arange(300), query)
            for _ in range(10):
                drawn = random.choice(others, 99, replace=False)
                hits.append((scores[query, drawn] >= scores[query, query]).sum() < 10)
    assert found["recall_at_10_of_100"] == pytest.approx(np.mean(hits), abs=0.02)


def test_pictures_find_their_captions(matching: TrainedModel) -> None:
    scores = read_json(matching.folder / "metrics.json")["evaluations"]
    assert next(iter(scores["test"]["metrics"])) == "recall_at_10"
    assert scores["validation"]["metrics"]["recall_at_10"] > scores["validation"]["metrics"]["chance_recall_at_10"]


def test_a_side_alone_has_the_vector_it_has_in_its_row(matching: TrainedModel, world: Path) -> None:
    rows = list(read_table(world / "test.jsonl"))[:6]
    for side, column in (("left", "image"), ("right", "caption")):
        whole = [vector for _, vector in embed(matching, iter(rows), side)]
        alone = [
            next(embed(matching, rows_from_memory({column: _placed(row.values[column], world, column)}), side))[1]
            for row in rows  # type: ignore[union-attr]
        ]
        np.testing.assert_allclose(np.stack(whole), np.stack(alone), atol=1e-5)  # type: ignore[arg-type]
        np.testing.assert_allclose(np.linalg.norm(np.stack(whole), axis=1), 1, atol=1e-5)  # type: ignore[arg-type]


def test_a_program_gets_an_array_of_vectors(matching: TrainedModel, trained: Path, world: Path) -> None:
    rows = [{"caption": "a red circle"}, {"caption": "一个蓝色的圆形"}]
    vectors = matching.embed(rows, "right")
    assert (vectors.shape, vectors.dtype) == ((2, matching.task.config.vector_size), np.float32)  # type: ignore[attr-defined]
    np.testing.assert_allclose(matching.embed(rows[1], "right"), vectors[1], atol=1e-5)
    assert matching.embed([], "right").shape == (0, vectors.shape[1])
    assert len(matching.embed(world / "test.jsonl", "left")) == 32
    with pytest.raises(RowError, match="row 2: nothing to read"):
        matching.embed([rows[0], {"caption": ""}], "right")
    with pytest.raises(UsageError, match="side='above' is neither 'left' nor 'right'"):
        matching.embed(rows, "above")
    with pytest.raises(UsageError, match="makes no vectors"):
        load(trained).embed(rows, "left")


def _placed(value: str, world: Path, column: str) -> str:
    return str(world / value) if column == "image" else value


def test_it_loads_and_answers_with_a_similarity(matching: TrainedModel, world: Path) -> None:
    row = next(iter(read_table(world / "test.jsonl")))
    values = {**row.values, "image": str(world / row.values["image"])}  # type: ignore[union-attr]
    ours, theirs = (one.predict(values) for one in (matching, load(matching.folder)))
    assert ours.value == pytest.approx(theirs.value, abs=1e-5)
    assert -1 <= ours.value <= 1


def test_a_matching_model_reads_the_side_that_it_read_in_training(matching: TrainedModel, world: Path) -> None:
    rows = [json.loads(line) for line in (world / "train.jsonl").read_text().splitlines()[:3]]
    samples = [Sample(world / "x.jsonl", n, row, world) for n, row in enumerate(rows)]
    captions = [replace(sample, values={"item": "a", "caption": sample.values["caption"]}) for sample in samples]
    reader = str(matching.folder)
    assert list(columns_to_read(reader, "item", samples)) == ["image"]
    columns = columns_to_read(reader, "item", captions)
    assert list(columns) == ["caption"]
    found = read_with(reader, columns, samples)
    np.testing.assert_allclose(found, read_with(reader, columns, captions), atol=1e-6)
    with pytest.raises(UsageError, match=r"reads image or caption, which .* does not have"):
        columns_to_read(reader, "item", [replace(captions[0], values={"item": "a", "title": "x"})])


def test_vectors_are_written_whole(matching: TrainedModel, world: Path, tmp_path: Path) -> None:
    rows = embed(matching, read_table(world / "test.jsonl"), "left")
    count = write_vectors(tmp_path / "vectors.parquet", rows)  # type: ignore[arg-type]
    table = parquet.read_table(tmp_path / "vectors.parquet")
    assert table.num_rows == count > 0
    assert len(table["vector"][0]) == 16

    def broken() -> Any:
        yield from embed(matching, read_table(world / "test.jsonl"), "left")
        raise RowError("gone", world / "test.jsonl", 1)

    with pytest.raises(RowError):
        write_vectors(tmp_path / "half.parquet", broken())
    assert not [path for path in tmp_path.iterdir() if "half" in path.name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task.left": ["picture"]}, "no column 'picture'"),
        ({"task.left": ["caption"]}, "both name caption"),
        ({"data.target": "answer"}, "asks for no target"),
        ({"model.modality_dropout": 0.1}, "modality_dropout"),
        ({"data.columns": {"image": "image", "caption": "ignore"}}, "caption"),
    ],
)
def test_wrong_settings_are_refused(tiny: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(FusebertError, match=words):
        train(matching_settings(tiny) | change, tmp_path / "model")


def test_one_side_has_no_similarity(matching: TrainedModel) -> None:
    with pytest.raises(RowError, match="image is empty"):
        matching.predict({"caption": "a red circle"})


def test_one_column_needs_no_brackets() -> None:
    assert Config(left="image", right=["caption"]).left == ("image",)  # type: ignore[arg-type]


def test_a_model_of_answers_makes_no_vectors(trained: Path, world: Path) -> None:
    with pytest.raises(UsageError, match="makes no vectors"):
        next(embed(load(trained), read_table(world / "test.jsonl"), "left"))


def test_rows_without_a_side_are_named(tiny: dict[str, Any], world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    lines = (world / "train.jsonl").read_text(encoding="utf-8").splitlines()
    lines[2] = lines[2].replace('"caption": "', '"caption": "", "was": "')
    (tmp_path / "world" / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(FusebertError, match=r"row 3.*caption is empty"):
        train(matching_settings(tiny) | {"data.root": str(tmp_path / "world")}, tmp_path / "model")


def lookalikes(folder: Path) -> dict[str, Any]:
    """Settings over names of things and what they look like, where the hard negative differs in the colour alone."""
    colours, rows = ("red", "blue", "green", "black"), []
    for number, (start, end) in enumerate(product(("ba", "ko", "mi", "tu"), ("lan", "rep", "sod", "vix", "zum"))):
        for article in ("a", "the", "one", "this", "that"):  # a thing's name tells it from all but its lookalike
            right, wrong = (f"{start}{end}, painted {colours[(number + more) % 4]}" for more in (0, 1 + number % 3))
            rows.append({"left": f"{article} {start}{end}", "right": right, "lookalike": wrong})
    shuffled = [rows[place] for place in np.random.default_rng(0).permutation(len(rows))]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in shuffled))
    return {
        "data.train": str(folder / "train.jsonl"),
        "data.columns": {"left": "text", "right": "text", "lookalike": "text"},
        "task.name": "matching",
        "task.left": "left",
        "task.right": "right",
        "model.trunk": "tiny",
        "training.epochs": 20,
        "training.tokens_per_batch": 256,
        "training.learning_rate": 2e-3,
        "training.trackers": [],
    }


def test_the_loss_with_hard_negatives_is_that_of_the_plain_formula() -> None:
    torch.manual_seed(0)
    trunk = TrunkConfig.of_size("tiny", 5)
    head = Head({"pooling": "mean", "vector_size": 8}, trunk)
    head.log_scale.weight.data.zero_()
    rows, hidden = 6, torch.randn(18, trunk.hidden_size)
    layout = Layout(torch.arange(19, dtype=torch.int32), (1,) * 18)
    encoded = Encoded(hidden, hidden, layout)
    labels = torch.arange(18).reshape(rows, 3)
    labels[2, 0] = labels[0, 0]  # two rows with the same left
    labels[3, 2] = labels[1, 1]  # a negative that is what belongs to another row
    labels[4, 2] = labels[2, 1]  # and to both rows of one left
    labels[5, 1] = labels[2, 1]  # a right of another left that is also beside that of rows 0 and 2
    found = head.loss(encoded, labels)
    left, right, negative = F.normalize(
        torch.stack([head.left(hidden[0::3]), head.right(hidden[1::3]), head.right(hidden[2::3])]), dim=2
    )
    losses = []
    for row in range(rows):
        shown = {0: (2, 5), 2: (0, 5), 5: (2,)}.get(row, ())  # beside its left in other rows
        showing = {0: (2,), 2: (0, 5), 5: (0, 2)}.get(row, ())  # beside its right
        rights, lefts = ([other for other in range(rows) if other not in out] for out in (shown, showing))
        against = [right[other] for other in rights]
        against += [negative[other] for other in range(rows) if (row, other) not in ((1, 3), (0, 4), (2, 4), (5, 4))]
        to_right = left[row] @ torch.stack(against).T / 0.07
        to_left = right[row] @ left[lefts].T / 0.07
        for scores, others in ((to_right, rights), (to_left, lefts)):
            losses.append(F.cross_entropy(scores[None], torch.tensor([others.index(row)])))
    torch.testing.assert_close(found["loss"], torch.stack(losses).mean())
    torch.testing.assert_close(found["logits"], torch.cat([left, right], dim=1))


def test_hard_negatives_are_told_apart_better(tmp_path: Path) -> None:
    base = lookalikes(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    margins = {}
    for name, more in (("plain", {}), ("hard", {"task.hard_negative": "lookalike"})):
        model = train(base | more, tmp_path / name)
        assert set(model.columns) == {"left", "right"}
        assert model.evaluate(rows)["rows"] == len(rows)
        own = np.array([answer.value for answer in model.predict(rows)])
        wrong = np.array([a.value for a in model.predict([row | {"right": row["lookalike"]} for row in rows])])
        margins[name] = (own - wrong).mean()
        training = read_json(tmp_path / name / "metrics.json")["training"]
        assert training["best_step"] == training["steps"]  # all are among the first ten of ten: the last is as good
    assert margins["hard"] > 2 * margins["plain"], margins


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"task.hard_negative": "right"}, "a column of a side itself"),
        ({"task.hard_negative": "nowhere"}, "no column 'nowhere'"),
        ({"task.hard_negative": "lookalike", "task.left": "lookalike", "task.right": ["left", "right"]}, "of a side"),
        ({"task.hard_negative": "more", "task.left": "lookalike", "task.right": ["left", "right"]}, "has several"),
        ({"task.hard_negative": "lookalike"}, "row 2, column 'lookalike'"),
    ],
)
def test_hard_negatives_that_will_not_do(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    given = lookalikes(tmp_path) | change
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"lookalike": {"no": "text"}})
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    with pytest.raises(FusebertError, match=problem):
        train(given, tmp_path / "model")


def test_with_a_side_taken_away_nothing_is_found_but_by_chance(tmp_path: Path) -> None:
    """More rows than are drawn for the recall among a hundred; whole folders are written."""
    rows = [{"a": f"word{number}", "n": number, "b": f"thing {number}"} for number in range(140)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "data.train": str(tmp_path / "rows.jsonl"),
        "data.validation": str(tmp_path / "rows.jsonl"),
        "data.columns": {"a": "table", "n": "table", "b": "text"},
        "table.categories": ["a"],
        "task.name": "matching",
        "task.left": ["a", "n"],
        "task.right": "b",
        "model.trunk": "tiny",
        "training.epochs": 1,
        "training.trackers": [],
    }
    model = train(settings, tmp_path / "model")
    found = read_json(model.folder / "metrics.json")["ledger"]
    for label in ("without text", "without table"):
        assert found[label]["recall_at_10"] < 0.25
        assert found[label]["recall_at_10_of_100"] < 0.25
    for wrong in ({"without": ["text", "table"]}, {"without": ["text"], "shuffle": ["text"]}):
        with pytest.raises(UsageError):
            model.evaluate(rows, **wrong)


def test_contents_of_sides_with_nothing() -> None:
    task = Task(Config(left=("a",), right=("b",)))
    targets = [task.target([{"a": left}, {"b": right}]) for left, right in ((None, 1), (None, 2), (None, 1), (3, None))]
    assert len({int(one[0]) for one in targets}) == 3
    assert targets[0][0] == targets[2][0]
    assert targets[0][1] == targets[2][1] != targets[1][1]


def test_texts_that_the_model_reads_alike_belong_together() -> None:
    texts = ["a red Circle", "A red  circle", "a red square"]
    samples = [Sample(Path("t"), n, {"a": text, "b": n}, None) for n, text in enumerate(texts)]
    processors = {
        "text": TextProcessor.fit(TextConfig(vocabulary_size=100), ["a"], samples, None),
        "table": TableProcessor.fit(TableConfig(), ["b"], samples, None),
    }
    task = Task(Config(left=("a",), right=("b",)))
    found = [Preparer(processors, task, sides=task.sides).belonging(sample)[0] for sample in samples]
    assert found[0] == found[1]
    assert found[0] != found[2]
    prices = [5, "5.0 ", 5.5, "n/a", None]
    samples = [Sample(Path("t"), n, {"a": "a circle", "b": price}, None) for n, price in enumerate(prices)]
    found = [Preparer(processors, task, sides=task.sides).belonging(sample)[1] for sample in samples]
    assert found[0] == found[1] != found[2]
    assert found[3] == found[4] != found[0]


def test_arrays_that_differ_in_the_middle_are_other_contents() -> None:
    one, other = np.zeros(16_000, np.float32), np.zeros(16_000, np.float32)
    other[8000] = 1
    task = Task(Config(left=("a",), right=("b",)))
    found = [task.target([{"a": sound}, {"b": "x"}])[0] for sound in (one, other, one.copy())]
    assert found[0] != found[1]
    assert found[0] == found[2]


def test_the_content_of_a_picture_is_what_it_shows(tmp_path: Path) -> None:
    """Not where in memory it lies: pictures of a generator come and go."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    task = Task(Config(left=("a",), right=("b",)))
    opened = [Image.open(tmp_path / "a.png"), Image.open(tmp_path / "a.png")]
    made = (Image.new("RGB", (8, 8), (number, 0, 0)) for number in range(200))
    same, again, *others = (task.target([{"a": picture}, {"b": "x"}])[0] for picture in chain(opened, made))
    assert same == again
    assert len(set(others)) == 200
    other_shape, other_kind = Image.new("RGB", (4, 16), "red"), Image.new("L", (8, 24), 0)
    assert same not in [task.target([{"a": picture}, {"b": "x"}])[0] for picture in (other_shape, other_kind)]
    data = [{"bytes": b"x" * 10**6, "path": path} for path in ("a", "b")]
    assert len({content_key(one) for one in data}) == 1
    assert len(content_key(data[0])) < 100


def test_values_beside_a_vector_are_json() -> None:
    values = {"image": {"bytes": b"\x89PNG", "path": "a.png"}, "price": float("nan"), "tags": ["a", math.inf]}
    told = json.loads(values_as_json(Sample(Path("t"), 1, values, None)), parse_constant=pytest.fail)
    assert told == {"image": {"bytes": None, "path": "a.png"}, "price": None, "tags": ["a", None]}


def test_a_map_of_parquet_beside_a_vector_is_json(tmp_path: Path) -> None:
    sizes = pa.array([[("width", math.nan), ("height", 2.0)]], pa.map_(pa.string(), pa.float64()))
    parquet.write_table(pa.table({"sizes": sizes}), tmp_path / "rows.parquet")
    (row,) = read_table(tmp_path / "rows.parquet")
    assert isinstance(row, Sample)
    told = json.loads(values_as_json(row), parse_constant=pytest.fail)
    assert told == {"sizes": [["width", None], ["height", 2.0]]}


def test_media_beside_a_vector_are_left_out_however_a_program_holds_them() -> None:
    sound = {"array": [0.1] * 5, "sampling_rate": 8000, "path": "a.wav"}
    pictures = [Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8)]
    values = {"scans": pictures, "sound": sound, "count": np.int64(3), "grid": {"array": [1, 2]}}
    (row,) = rows_from_memory([values])
    assert isinstance(row, Sample)
    told = {"scans": [None, None], "sound": sound | {"array": None}, "count": 3, "grid": {"array": [1, 2]}}
    assert json.loads(values_as_json(row)) == told


def test_numbers_with_a_comma_beside_a_vector_are_numbers() -> None:
    cells = [CommaNumber("1.234,5"), CommaNumber("1,234.5"), PointNumber("1,234.5"), UnclearNumber("1.234")]
    assert vectors._plain(cells) == [1234.5, "1,234.5", 1234.5, "1.234"]


def test_half_a_character_beside_a_vector_is_written_as_a_question_mark() -> None:
    assert vectors._plain({"meta": {"tweet\ud800": ["a\ud800"]}}) == {"meta": {"tweet?": ["a?"]}}


def test_scores_are_exact_where_the_trunk_computes_in_bf16() -> None:
    torch.manual_seed(0)
    trunk = TrunkConfig.of_size("tiny", 5)
    head = Head({"pooling": "mean", "vector_size": 8}, trunk)
    head.log_scale.weight.data.fill_(9.0)  # the largest scale
    hidden = torch.randn(16, trunk.hidden_size)
    encoded = Encoded(hidden, hidden, Layout(torch.arange(17, dtype=torch.int32), (1,) * 16))
    labels = torch.arange(16).reshape(8, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.loss(encoded, labels)
    torch.testing.assert_close(found["loss"], head.loss(encoded, labels)["loss"])


def test_the_scale_can_come_back_from_its_end() -> None:
    head = Head({"pooling": "mean", "vector_size": 8}, TrunkConfig.of_size("tiny", 5))
    head.log_scale.weight.data.fill_(9.0)
    hidden = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    encoded = Encoded(hidden, hidden, Layout(torch.arange(17, dtype=torch.int32), (1,) * 16))
    head.loss(encoded, torch.arange(16).reshape(8, 2))["loss"].backward()
    assert head.log_scale.weight.exp().item() == pytest.approx(7)  # a hundred, from 1 / 0.07
    assert abs(head.log_scale.weight.grad.item()) > 1


def test_batches_need_rows_to_compare(tiny: dict[str, Any], tmp_path: Path) -> None:
    given = matching_settings(tiny)
    with pytest.raises(UsageError, match=r"nearly each row is a batch by itself; set training.tokens_per_batch=\d+ or"):
        train(given | {"training.tokens_per_batch": 8}, tmp_path / "one")
    notes = Notes()
    train(given | {"training.tokens_per_batch": 200, "training.epochs": 1}, tmp_path / "few", progress=notes)
    assert "rows, and matching learns from comparing them" in " ".join(notes.lines)


def test_sound_that_is_decoded_is_told_by_its_samples() -> None:
    """As datasets gives it: the path may lie nowhere, or be of a longer recording."""
    quiet, loud = np.zeros(1600, np.float32), np.ones(1600, np.float32)
    for path in (None, "x.wav"):
        sounds = [{"path": path, "array": array, "sampling_rate": 16_000} for array in (quiet, loud, quiet.copy())]
        found = [AudioProcessor.content(sound, None) for sound in sounds]
        assert found[0] == found[2] != found[1]


def test_copies_of_a_file_belong_together_whatever_they_are_called(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("copy", "red"), ("b", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    held = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    values = ["a.png", "copy.png", "b.png", held, ["copy.png"], ["a.png", "b.png"], ["b.png", "copy.png"]]
    samples = [Sample(tmp_path / "t", n, {"a": value, "b": "x"}, tmp_path) for n, value in enumerate(values)]
    processors = {"image": ImageProcessor(ImageConfig(size_pixels=16), ["a"])}
    task = Task(Config(left=("a",), right=("b",)))
    preparer = Preparer(processors, task, sides=(("a",), ()))
    found = [preparer(sample).target[0] for sample in samples]
    assert found[0] == found[1] == found[3] == found[4]
    assert found[5] == found[6]
    assert len({*found}) == 3
    (tmp_path / "a.png").unlink()
    with pytest.raises(RowError, match=r"row 0, column 'a'.*does not exist"):
        preparer.belonging(samples[0])
