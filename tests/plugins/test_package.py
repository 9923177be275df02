"""A package from outside adds a modality and a task: installed, trained, asked, and wrong input is told in words.

`package/` is what its author writes; CONTRIBUTING.md quotes it.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusebert
from fusebert import plugins
from fusebert.cli import main
from fusebert.config import Recipe
from fusebert.data.tables import read_table
from fusebert.errors import DataError, RecipeError, RowError
from fusebert.types import Sample
from tests.contracts import test_modalities, test_tasks

PACKAGE = Path(__file__).parent / "package"
SIZE, GRADES = 6, 5
SETTINGS = ["task.name=ordinal", "model.trunk=tiny", "training.epochs=8", "training.learning_rate=3e-3"]
SETTINGS += ["training.trackers=[]", "training.precision=fp32", "data.test=test.jsonl"]


def install(package: Path, site: Path) -> None:
    """Lay a package out as pip does: its modules, and beside them what its pyproject.toml declares."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    for modules in (path for path in package.iterdir() if (path / "__init__.py").is_file()):
        shutil.copytree(modules, site / modules.name, ignore=shutil.ignore_patterns("__pycache__"))
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {module}\n" for name, module in found.items())
        for group, found in project["entry-points"].items()
    ]
    (about / "entry_points.txt").write_text("\n".join(groups))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of installed packages that this process reads, while these tests run."""
    folder = tmp_path_factory.mktemp("site")
    install(PACKAGE, folder)
    sys.path.insert(0, str(folder))
    invalidate_caches()
    plugins.names.cache_clear()
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.partition(".")[0] == "fusebert_extras"]:
        del sys.modules[name]
    plugins.names.cache_clear()


def rows_of(seed: int, count: int) -> list[dict[str, Any]]:
    """Reviews whose grade is where their vector points, whatever its length; the words say nothing, and a few lack a
    vector."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        vector = random.normal(size=SIZE)
        share = vector[0] / np.linalg.norm(vector)  # in [-1, 1]
        grade = 1 + int(np.digitize(share, [-0.45, -0.15, 0.15, 0.45]))
        kept = [round(one, 4) for one in vector * random.uniform(0.1, 10)]
        words = f"a thing I had on day {random.integers(99)}"
        rows.append({"review": words, "embedding": None if number % 40 == 39 else kept, "grade": grade})
    return rows


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables, and a model that the command line has trained on them."""
    place = tmp_path_factory.mktemp("reviews")
    write(place / "train.jsonl", rows_of(0, 400))
    write(place / "test.jsonl", rows_of(1, 120))
    command = ["train", str(place / "train.jsonl"), "--target", "grade", "--output", str(place / "model")]
    assert main([*command, *SETTINGS, f"data.root={place}"]) == 0
    return place


@pytest.fixture(scope="module")
def samples(folder: Path) -> list[Sample]:
    return [row for row in read_table(folder / "train.jsonl") if isinstance(row, Sample)]


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return fusebert.load(folder / "model")


def test_it_is_found_in_a_table_and_in_the_settings(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["check", str(folder / "train.jsonl"), "--target", "grade", "task.name=ordinal", "--json"]) == 0
    found = {one["column"]: one for one in json.loads(capsys.readouterr().out)["columns"]}
    assert {name: one["kind"] for name, one in found.items()} == {
        "review": "text",
        "embedding": "vector",
        "grade": "ordinal",
    }
    assert not found["embedding"]["ambiguous"]
    assert main(["settings", "ordinal"]) == 0
    assert "task.lowest" in capsys.readouterr().out


def test_it_learns(folder: Path) -> None:
    metrics = json.loads((folder / "model" / "metrics.json").read_text())
    scores = metrics["evaluations"]["test"]["metrics"]
    grades = [row["grade"] for row in rows_of(1, 120)]
    constant = min(np.abs(np.array(grades) - one).mean() for one in range(1, GRADES + 1))
    assert list(scores) == ["mae", "accuracy", "within_one", "loss"]
    assert scores["mae"] < constant / 2
    assert metrics["ledger"]["without vector"]["mae"] > constant / 2
    assert (folder / "model" / "plots" / "confusion_matrix.png").is_file()


def test_another_process_that_finds_it_by_its_entry_point_answers_the_same(
    folder: Path, site: Path, model: Any, tmp_path: Path
) -> None:
    """Of which nothing was told but where packages lie; and the light halves are light."""
    code = """if True:
        import sys
        from fusebert import plugins
        from fusebert.cli import main
        plugins.load("modalities", "vector", "processor"), plugins.load("tasks", "ordinal", "task")
        assert not {"torch", "transformers"} & set(sys.modules)
        sys.exit(main(sys.argv[1:]))"""
    asked = ["predict", str(folder / "model"), str(folder / "test.jsonl"), "--output", str(tmp_path / "a.jsonl")]
    done = subprocess.run(
        [sys.executable, "-c", code, *asked], env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    here = [answer.to_json() for answer in model.predict(folder / "test.jsonl")]
    assert [line["answer"] for line in lines] == [answer["answer"] for answer in here]
    assert [line["probability"] for line in lines] == pytest.approx([one["probability"] for one in here], abs=1e-5)
    assert {type(line["answer"]) for line in lines} == {int}


def test_what_is_saved_again_answers_the_same(model: Any, folder: Path, tmp_path: Path) -> None:
    processor, task = model.processors["vector"], model.task
    processor.save(tmp_path)
    task.save(tmp_path)
    assert type(processor).load_from(tmp_path).__dict__ == processor.__dict__
    assert type(task).load_from(tmp_path).__dict__ == task.__dict__ == {"lowest": 1, "highest": GRADES}


def test_a_cell_of_a_csv_and_a_row_that_is_typed_are_read_too(
    model: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vector = [0.5, -1.25, 3, 0, 0, 1]
    listed, spelled = (model.predict({"embedding": one}, top=GRADES) for one in (vector, json.dumps(vector)))
    assert listed == spelled
    assert listed.value == listed.top[0][0]
    assert sum(share for _, share in listed.top) == pytest.approx(1)
    assert main(["predict", str(folder / "model"), "--embedding", json.dumps(vector), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == listed.value


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ([1.0] * 5, "the list has 5 numbers, but those of the training rows 6"),
        ([1.0] * 5 + [math.inf], "inf is not a finite number"),
        ([1.0] * 5 + [None], "None is not a number"),
        ([1.0] * 5 + ["many"], "'many' is not a number"),
        ("a word", r"'a word' is not a list of numbers such as \[0.5, -1.25\]"),
        (7, "7 is not a list of numbers"),
    ],
)
def test_a_wrong_vector_is_told_in_words(model: Any, cell: Any, said: str) -> None:
    with pytest.raises(RowError, match=f"row 2, column 'embedding': {said}"):
        model.predict([{"embedding": [1.0] * SIZE}, {"embedding": cell}])


@pytest.mark.parametrize(
    ("grade", "said"),
    [
        (9, r"grade 9 is not from 1 to 5 \(task.lowest, task.highest\)"),
        (2.5, "2.5 is not a whole grade"),
        (True, "True is not a whole grade"),
        ("good", "'good' is not a number"),
    ],
)
def test_a_wrong_grade_is_told_in_words(model: Any, grade: Any, said: str) -> None:
    rows = [{"embedding": [1.0] * SIZE, "grade": 3}, {"embedding": [1.0] * SIZE, "grade": grade}]
    with pytest.raises(DataError, match=f"row 2, column 'grade': {said}"):
        model.evaluate(rows)
    assert model.evaluate(rows, bad_rows="skip")["bad_rows"] == 1


def test_rows_that_cannot_be_used_are_listed_before_anything_is_trained(site: Path, tmp_path: Path) -> None:
    rows = rows_of(2, 30)
    rows[4]["embedding"] = [1.0, 2.0]
    settings = {"data.train": str(write(tmp_path / "train.jsonl", rows)), "data.target": "grade"}
    with pytest.raises(DataError, match=r"1 of 30 rows .*row 5, column 'embedding': the list has 2 numbers"):
        fusebert.train({**settings, "task.name": "ordinal"}, tmp_path / "model")
    with pytest.raises(DataError, match=r"30 of 30 rows .*'a thing .*' is not a list of numbers"):
        fusebert.train({**settings, "task.name": "ordinal", "data.columns.review": "vector"}, tmp_path / "model")
    with pytest.raises(DataError, match="column 'grade': 2 to 100 grades expected, not 9 to 5"):
        fusebert.train({**settings, "task.name": "ordinal", "task.lowest": 9}, tmp_path / "model")


def test_its_settings_are_checked_as_any(site: Path) -> None:
    assert Recipe.from_flat({"task.name": "ordinal", "task.highest": 7}).task_config().highest == 7
    with pytest.raises(RecipeError, match=r"task\.highest='many' will not do"):
        Recipe.from_flat({"task.name": "ordinal", "task.highest": "many"})
    with pytest.raises(RecipeError, match=r"'vector\.size' is not a setting"):
        Recipe.from_flat({"vector.size": 3})


PROMISES = [
    test_modalities.test_tokens_are_as_many_as_the_processor_says,
    test_modalities.test_a_batch_gives_the_numbers_of_its_rows_one_by_one,
    test_modalities.test_an_absent_modality_changes_nothing_but_itself,
    test_modalities.test_a_row_with_nothing_in_its_columns_has_no_features,
    test_modalities.test_gradients_reach_the_embedder_and_the_trunk,
]


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_what_every_modality_promises_holds(
    promise: Any, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_modalities, "COLUMNS", {"text": ["review"], "vector": ["embedding"]})
    monkeypatch.setattr(test_modalities, "MODALITIES", ["text", "vector"])
    promise("vector", samples)


def test_gold_decodes_to_the_raw_target_and_scores_perfectly(samples: list[Sample]) -> None:
    task = test_tasks.task_of("ordinal", "grade", samples)
    targets = np.stack([task.target(sample.values["grade"]) for sample in samples])
    gold = np.where(targets[:, None] > np.arange(task.head_config["outputs"]), 20.0, -20.0)
    assert [answer.value for answer in task.decode(gold)] == [sample.values["grade"] for sample in samples]
    perfect = task.evaluate(gold, targets)["metrics"]
    shuffled = task.evaluate(np.random.default_rng(0).permutation(gold), targets)["metrics"]
    assert (perfect["mae"], perfect["accuracy"], perfect["within_one"]) == (0, 1, 1)
    assert shuffled["mae"] > 0.5
    assert [*perfect] == [*task.metric_names]


def test_a_package_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = tmp_path / "broken-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[fusebert.modalities]\nsmell = gone.smell\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.names.cache_clear()
    try:
        assert main(["settings"]) == 2
    finally:
        plugins.names.cache_clear()
    assert "'smell' of the modalities cannot be used: gone.smell.processor cannot" in capsys.readouterr().err


def test_what_contributing_quotes_is_what_runs_here() -> None:
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    package = "\n".join(path.read_text() for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml"))
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        for part in block.strip("\n").split("\n\n"):  # between which something is left out
            assert part.strip() in package
