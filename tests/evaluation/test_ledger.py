"""What the ledger warns of."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusebert.cli import main
from fusebert.data.dataset import Dataset, ExampleCache, check
from fusebert.data.tables import read_table
from fusebert.data.toyworld import write_toyworld
from fusebert.errors import DataError
from fusebert.evaluation import ledger as module
from fusebert.evaluation.ledger import beaten, guessing, ledger, variants, warnings
from fusebert.evaluation.publish import _things
from fusebert.evaluation.scoring import changed_outputs, outputs
from fusebert.evaluation.trained_model import load
from fusebert.recipe_yaml import read_settings
from fusebert.storage import read_json
from fusebert.tasks.classification.task import Config as ClassificationConfig
from fusebert.tasks.classification.task import Task as Classification
from fusebert.tasks.fit import preparers
from fusebert.tasks.matching import task as matching_task
from fusebert.tasks.matching.task import Config as MatchingConfig
from fusebert.tasks.matching.task import Task as Matching
from fusebert.training.run import train
from fusebert.types import Sample

RECIPES = Path(__file__).parents[2] / "recipes"


def ledger_of(metric: str = "accuracy", error: float = 0.015, **scores: float) -> dict[str, dict[str, float]]:
    labels = {
        name.replace("_", " "): {metric: score, "loss": 1.0, "standard_error": error} for name, score in scores.items()
    }
    return {"all": labels.pop("all")} | labels


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ({"all": 0.9, "without_image": 0.6, "image_shuffled": 0.5, "without_text": 0.4, "text_shuffled": 0.3}, []),
        (
            {"all": 0.67, "without_image": 0.66, "image_shuffled": 0.66, "without_text": 0.2, "text_shuffled": 0.2},
            ["image is not used", "text alone does at least as well"],
        ),
        ({"all": 0.9, "image_shuffled": 0.86, "text_shuffled": 0.3}, []),
        ({"all": 0.9, "image_shuffled": 0.875, "text_shuffled": 0.3}, ["image is not shown to be used"]),
        ({"all": 0.9, "image_shuffled": 0.89, "text_shuffled": 0.3}, ["image is not used"]),
        (
            {"all": 0.9, "audio_shuffled": 0.5, "audio_alone": 0.88, "image_shuffled": 0.4, "text_shuffled": 0.3},
            ["audio alone may do at least as well"],
        ),
        (
            {"all": 0.9, "audio_shuffled": 0.5, "audio_alone": 0.9, "image_shuffled": 0.4, "text_shuffled": 0.3},
            ["audio alone does at least as well"],
        ),
        ({"all": 1.0, "image_shuffled": 1.0}, ["image is not used"]),
        (
            {"all": 0.9, "without_image": 0.9, "image_shuffled": 0.9, "without_text": 0.9, "text_shuffled": 0.9},
            ["image is not used, as others say the same", "text is not used, as others say the same"],
        ),
        (
            {"all": 0.7, "without_text": 0.78, "text_shuffled": 0.6, "image_shuffled": 0.1, "table_shuffled": 0.1},
            ["text misleads"],
        ),
        (
            {"all": 0.7, "without_text": 0.72, "text_shuffled": 0.6, "image_shuffled": 0.1, "table_shuffled": 0.1},
            [],
        ),
    ],
)
def test_warnings(scores: dict[str, float], wanted: list[str]) -> None:
    said = warnings(ledger_of(**scores), higher_is_better=True)
    assert len(said) == len(wanted)
    assert all(line.startswith(start) for line, start in zip(said, wanted, strict=True))
    assert all("a difference known to ±0.030" in line for line in said)


@pytest.mark.parametrize("unit", [1.0, 0.1])
def test_an_error_is_better_when_it_is_lower(unit: float) -> None:
    scores = {"all": 5.0 * unit, "image_shuffled": 5.02 * unit, "table_shuffled": 5.2 * unit}
    said = warnings(ledger_of("mae", 0.025 * unit, **scores), higher_is_better=False)
    assert [line.split()[0] for line in said] == ["image"]
    said = warnings(ledger_of("mae", 0.025 * unit, **scores, without_table=4.5 * unit), higher_is_better=False)
    assert any(line.startswith("table misleads") for line in said)


def test_of_few_rows_no_worse_is_as_good_and_nothing_misleads() -> None:
    found = ledger_of(all=0.9, without_text=1.0, text_shuffled=0.89, image_shuffled=0.9, table_shuffled=0.1)
    for scores in found.values():
        del scores["standard_error"]
    assert [line.split(":")[0] for line in warnings(found, higher_is_better=True)] == ["image is not used"]


def test_rows_about_one_picture_are_not_independent() -> None:
    """Two models that understand different pictures: ten questions about a picture say little more than one."""
    random = np.random.default_rng(0)
    pictures, questions = 100, 10
    task = Classification(ClassificationConfig(), ["no", "yes"], multi_label=False, frequencies=[0.5, 0.5])
    things = np.repeat(np.arange(pictures), questions)
    targets = random.integers(0, 2, len(things))
    differences, errors, naive = [], [], []
    for _ in range(60):
        right = [random.random(pictures)[things] < 0.75 for _ in range(2)]
        whole, other = (np.eye(2)[np.where(one, targets, 1 - targets)] for one in right)
        differences.append(right[1].mean() - right[0].mean())
        changed = [("image shuffled", (other, targets))]
        errors.append(ledger(task, whole, targets, changed, things)["image shuffled"]["standard_error"])
        naive.append(ledger(task, whole, targets, changed)["image shuffled"]["standard_error"])
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.25)
    assert np.mean(naive) < 0.5 * np.std(differences)


def test_rows_are_about_their_group_or_else_their_files() -> None:
    picture, other = ({"bytes": data, "path": None} for data in (b"a", b"b"))
    values = [
        {"scan": picture, "who": 1.0},
        {"scan": {"bytes": b"a"}, "who": 2.0},
        {"scan": other, "who": 1.0},
        {"scan": {"bytes": None, "path": None}, "who": math.nan},
        {"scan": None, "who": None},
        {"scan": [], "who": None},
        {"scan": [], "who": None},
        {"scan": [other, {"bytes": b"a"}], "who": None},
        {"scan": [{"bytes": b"a"}], "who": None},
    ]
    samples = [Sample(Path("rows.parquet"), row, one, None) for row, one in enumerate(values, 1)]

    def dealt(group: str | None) -> list[int]:
        found = _things(samples, {"scan": "image", "said": "text"}, group)
        return [found.index(thing) for thing in found]

    assert dealt(None) == dealt("not in this table") == [0, 0, 2, 3, 4, 5, 6, 7, 0]
    assert dealt("who") == [0, 1, 0, 3, 4, 5, 6, 7, 8]


def test_of_many_logits_a_part_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    task = Classification(ClassificationConfig(), ["no", "yes"], multi_label=False, frequencies=[0.5, 0.5])
    targets, logits, other = random.integers(0, 2, 20_000), *random.normal(size=(2, 20_000, 2))
    things, changed = np.arange(20_000) // 4, [("image shuffled", (other, targets))]
    found = ledger(task, logits, targets, changed, things)["image shuffled"]
    monkeypatch.setattr(module, "MOST_LOGITS", 8000)
    part = ledger(task, logits, targets, changed, things)["image shuffled"]
    assert part["standard_error"] != found["standard_error"]
    assert part["standard_error"] == pytest.approx(found["standard_error"], rel=0.5)


def test_few_things_have_no_error_and_ranks_are_among_all() -> None:
    random = np.random.default_rng(0)
    task = Classification(ClassificationConfig(), ["no", "yes"], multi_label=False, frequencies=[0.5, 0.5])
    targets, logits = random.integers(0, 2, 100), random.normal(size=(100, 2))
    found = ledger(task, logits, targets, [("image shuffled", (logits, targets))], np.arange(100) % 3)
    assert "standard_error" not in found["image shuffled"]
    ranking = Matching(MatchingConfig(left="image", right="text"))
    vectors = random.normal(size=(200, 2, 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).reshape(200, 16)
    contents = np.arange(400).reshape(200, 2)
    whole = ranking.evaluate(vectors, contents)["metrics"]["recall_at_10"]
    assert ranking.score_rows(vectors, contents).mean() == pytest.approx(whole)


def test_the_error_is_of_the_rows_that_seek(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    ranking = Matching(MatchingConfig(left="image", right="text"))
    contents, found = np.arange(4000).reshape(2000, 2), []
    left, noise, other = random.normal(size=(3, 2000, 8))
    for more in (noise, other):
        vectors = np.stack([left, left + more], axis=1)
        found.append((vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).reshape(2000, 16))
    error = []
    for most in (2000, 500):
        monkeypatch.setattr(matching_task, "MOST_QUERIES", most)
        changed = [("image shuffled", (found[1], contents))]
        error.append(ledger(ranking, found[0], contents, changed)["image shuffled"]["standard_error"])
    assert error[1] == pytest.approx(2 * error[0], rel=0.4)  # a quarter of the rows


@pytest.mark.parametrize("rows", [100, 900, 5000])
def test_the_error_is_that_of_the_paired_difference(rows: int) -> None:
    """Two models that mostly err on the same rows differ by less than either differs from the truth."""
    random = np.random.default_rng(0)
    task = Classification(ClassificationConfig(), ["no", "yes"], multi_label=False, frequencies=[0.5, 0.5])
    targets = random.integers(0, 2, rows)
    wrong = random.random(rows) < 0.3
    also_wrong = np.where(random.random(rows) < 0.05, ~wrong, wrong)
    errors = []
    for _ in range(20):
        order = random.permutation(rows)
        whole, other = (
            [
                [1.0, 0.0] if bad == truth else [0.0, 1.0]
                for bad, truth in zip(mistakes[order], targets[order], strict=True)
            ]
            for mistakes in (wrong, also_wrong)
        )
        changed = [("image shuffled", (np.array(other), targets[order]))]
        errors.append(ledger(task, np.array(whole), targets[order], changed)["image shuffled"]["standard_error"])
    expected = np.std(wrong.astype(float) - also_wrong) / math.sqrt(rows)
    assert np.mean(errors) == pytest.approx(expected, rel=0.15)
    assert expected < 0.8 * math.sqrt(0.3 * 0.7 / rows)


def test_blank_pictures_are_noticed(
    tiny: dict[str, Any], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blank = shutil.copytree(world, tmp_path / "world")
    for path in (blank / "images").iterdir():
        Image.new("RGB", (64, 64), "white").save(path)
    settings = [
        f"{key}={value}" for key, value in tiny.items() if key not in ("data.columns", "data.root", "data.train")
    ]
    columns = [f"data.columns.{column}={kind}" for column, kind in tiny["data.columns"].items()]
    folder = tmp_path / "model"
    given = ["train", str(blank / "train.jsonl"), "--output", str(folder), f"data.root={blank}", *columns, *settings]
    assert main(given) == 0
    assert "Warning: image is not used" in capsys.readouterr().err
    assert any("image is not used" in line for line in read_json(folder / "metrics.json")["warnings"])
    for name in ("report.html", "README.md"):
        assert "image is not used" in (folder / name).read_text(encoding="utf-8")


def test_every_subset_of_five_modalities_is_scored(tiny: dict[str, Any], tmp_path: Path) -> None:
    columns = {"question": "text", "image": "image", "audio": "audio", "language": "table", "history": "events"}
    ignored = dict.fromkeys(("caption", "shapes", "colours"), "ignore")
    world = write_toyworld(tmp_path / "world", pictures={"train": 24, "val": 4, "test": 4}, sounds=True)
    for split in ("train", "val", "test"):
        path = world / f"{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps(row | {"history": [{"item": row["language"]}]}) for row in rows]
        path.write_text("\n".join(lines))
    settings = tiny | {"data.root": str(world), "data.columns": columns | ignored, "training.epochs": 1}
    train(settings, tmp_path / "model")
    found = read_json(tmp_path / "model" / "metrics.json")["ledger"]
    names = sorted(columns.values())
    subsets = {frozenset(names): 0}
    for label in found:
        match label.split(" "):
            case ["without", name]:
                kept = frozenset(names) - {name}
            case [name, "alone"]:
                kept = frozenset([name])
            case [_, "shuffled"] | ["all"]:
                continue
            case parts:
                kept = frozenset(part for part in parts if part != "+")
        assert kept not in subsets, label
        subsets[kept] = 1
    assert len(subsets) == 2**5 - 1
    assert all(math.isfinite(value) for metrics in found.values() for value in metrics.values())


@pytest.mark.parametrize(("recall", "said"), [(0.10, 1), (0.14, 1), (0.2, 0)])
def test_a_score_of_chance_is_named(recall: float, said: int) -> None:
    found = {"rows": 200, "metrics": {"recall_at_10": recall, "chance_recall_at_10": 0.1}}
    assert len(guessing(found)) == said
    assert not guessing({"rows": 9, "metrics": {"accuracy": 0.1}})


def test_a_simple_way_that_does_as_well_is_named() -> None:
    found = {
        "metrics": {"ndcg_at_10": 0.5},
        "baselines": {"popularity": {"ndcg_at_10": 0.2}, "knn": {"ndcg_at_10": 0.5}},
    }
    assert beaten(found, "ndcg_at_10") == ["knn does as well as the model: ndcg at 10 is 0.500, the model's 0.500"]
    assert not beaten(found | {"metrics": {"loss": 1.0}}, "ndcg_at_10")


def test_every_variant_is_of_the_same_rows(trained: Path, world: Path) -> None:
    model = load(trained)
    rows = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    rows = [row | {"image": str(world / row["image"])} for row in rows]
    sparse = [row | {"image": None} if number % 3 else row | {"question": ""} for number, row in enumerate(rows)]
    for change in ({}, {"without": ["image"]}, {"without": ["text"]}, {"shuffle": ["image"]}):
        assert model.evaluate(sparse, **change)["rows"] == len(rows)
    logits, targets, _ = outputs(model, sparse)
    data, changes = model.dataset(sparse), list(variants(list(model.processors)))
    changed = ((label, changed_outputs(model, data, **change)) for label, change in changes)
    found = ledger(model.task, logits, targets, changed)
    for label, change in changes:
        assert found[label].items() >= model.evaluate(sparse, **change)["metrics"].items()
    assert found["all"] == model.evaluate(sparse)["metrics"]
    assert set(found) == {"all", "without image", "image shuffled", "without text", "text shuffled"}
    with pytest.raises(DataError, match="nothing to read"):
        model.evaluate([row | {"image": None, "question": ""} for row in rows])


@pytest.mark.parametrize(("room", "loads"), [(2**20, 0), (50_000, None), (0, 4)])
@pytest.mark.parametrize("kind", ["trained", "two_sided"])
def test_what_is_kept_is_not_prepared_for_each_variant(
    kind: str,
    room: int,
    loads: int | None,
    request: pytest.FixtureRequest,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, made = load(request.getfixturevalue(kind)), list[Sample]()
    asking, _ = preparers(model.processors, model.task, model.target)
    kept = ExampleCache(room)
    samples, lengths, _ = check(read_table(world / "test.jsonl"), asking, kept)
    text: Any = model.processors["text"]
    monkeypatch.setattr(text, "load", lambda sample, load=text.load: made.append(sample) or load(sample))
    rows = Dataset(samples, lengths, asking, kept=kept)
    found = [changed_outputs(model, rows, **change) for _, change in variants(list(model.processors))]
    most = 4 * len(rows) * (2 if kind == "two_sided" else 1)
    assert len(made) in ({loads * most // 4} if loads is not None else range(1, most))
    for (logits, targets), (_, change) in zip(found, variants(list(model.processors)), strict=True):
        wanted = outputs(model, world / "test.jsonl", **change)
        assert (logits == wanted[0]).all()
        assert (targets == wanted[1]).all()


@pytest.mark.real
def test_blank_pictures_cost_easy_vqa_all_but_its_questions(real_data: Path, tmp_path: Path) -> None:
    """What questions alone are worth is 66.1 % there: the most frequent answer to each in training."""
    Image.new("RGB", (64, 64), "white").save(tmp_path / "blank.png")
    for split in ("train", "test"):
        lines = (real_data / "easy_vqa" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.dumps(json.loads(line) | {"image": "blank.png"}) for line in lines]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    recipe = read_settings(RECIPES / "easy_vqa.yaml")
    files = {"data.root": str(tmp_path), "data.train": "train.jsonl", "data.test": "test.jsonl"}
    shorter = {"data.validation_group": None, "training.epochs": 3, "training.trackers": []}
    train(recipe | files | shorter, tmp_path / "model")
    found = read_json(tmp_path / "model" / "metrics.json")
    assert found["evaluations"]["test"]["metrics"]["accuracy"] == pytest.approx(0.66, abs=0.02)
    assert any("image is not used" in line for line in found["warnings"])
