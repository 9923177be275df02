"""Runs side by side: what the table says is what the folders hold, and nothing is trained twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from fusebert.cli import main
from fusebert.config import Recipe, read_recipe
from fusebert.errors import UsageError
from fusebert.recipe_yaml import parse_overrides
from fusebert.training.compare import FUSIONS, compare
from tests.conftest import ended

BOUND_SECONDS = 120


@pytest.fixture
def recipe(tiny: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in tiny.items() if key != "training.trackers"}))
    return path


def test_fusions_side_by_side(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "compared"
    command = ["compare", str(recipe), "--fusion", "one_stream,two_stream", "--seeds", "1", "--output", str(folder)]
    command += ["--json", "training.epochs=1", "training.trackers=[]"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)["fusions"]
    assert found == json.loads((folder / "compare.json").read_text())
    for fusion, row in found.items():
        metrics = json.loads((folder / f"{fusion}-0" / "metrics.json").read_text())
        assert row["mean"] == row["min"] == row["max"] == metrics["evaluations"]["test"]["metrics"][row["metric"]]
        assert row["validation"] == metrics["evaluations"]["validation"]["metrics"][row["metric"]]
        card = (folder / f"{fusion}-0" / "README.md").read_text()
        assert f"{row['parameters']:,} parameters" in card
        assert 100 < row["peak_mebibytes"] < 8000
    assert found["two_stream"]["parameters"] > found["one_stream"]["parameters"]
    written = (folder / "one_stream-0" / "manifest.json").stat().st_mtime_ns
    assert main(command) == 0  # again: finished runs are read, not trained
    assert json.loads(capsys.readouterr().out)["fusions"] == found
    assert (folder / "one_stream-0" / "manifest.json").stat().st_mtime_ns == written
    how = ["training.epochs=1", "training.trackers=[tensorboard]", "training.workers=1"]  # changes nothing of a model
    other = compare(recipe, how, folder, ["one_stream"], 1, print, metric="auroc")
    assert (
        other["one_stream"]["mean"]
        == json.loads((folder / "one_stream-0" / "metrics.json").read_text())["evaluations"]["test"]["metrics"]["auroc"]
    )
    with pytest.raises(UsageError, match="'speed' is not one of accuracy"):
        compare(recipe, command[-2:], folder, ["one_stream"], 1, print, metric="speed")
    with pytest.raises(UsageError, match=r"was trained in another way \(training\.epochs\)"):
        compare(recipe, [*command[-2:], "training.epochs=2"], folder, ["one_stream"], 1, print)
    text = recipe.read_text()
    recipe.write_text(f"{text}\ntraining.patience: 3\n")
    with pytest.raises(UsageError, match=r"was trained in another way \(training\.patience\)"):
        compare(recipe, command[-2:], folder, ["one_stream"], 1, print)
    recipe.write_text(text)
    metrics = json.loads((folder / "one_stream-0" / "metrics.json").read_text())
    del metrics["evaluations"]["validation"]["metrics"]["auroc"]  # as where all its rows have one label
    (folder / "one_stream-0" / "metrics.json").write_text(json.dumps(metrics))
    capsys.readouterr()
    assert main([*command, "--fusion", "one_stream", "--metric", "auroc"]) == 0
    assert json.loads(capsys.readouterr().out)["fusions"]["one_stream"]["validation"] is None


def test_a_changed_catalogue_is_another_training(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"item": "a"}\n')
    recipe = Recipe.from_flat(
        {"data.root": str(tmp_path), "task.name": "recommendation", "task.catalogue": "items.jsonl"}
    )
    before = recipe.table_hashes()
    (tmp_path / "items.jsonl").write_text('{"item": "b"}\n')
    assert before.keys() == recipe.table_hashes().keys() == {"catalogue"}
    assert before != recipe.table_hashes()


def test_a_trunk_made_anew_is_another_training(recipe: Path, tmp_path: Path) -> None:
    trunk, folder = tmp_path / "bert", tmp_path / "compared"
    for path in (trunk, folder):
        path.mkdir()
    (trunk / "manifest.json").write_text("of one")
    named = [f"model.trunk={trunk}"]
    kept = read_recipe(recipe, parse_overrides([*named, "model.fusion=concat", "training.seed=0"]))
    trained = kept.flat() | {f"the {name} table": found for name, found in kept.table_hashes().items()}
    trained |= {f"the folder of {name}": found for name, found in kept.model_hashes().items()}
    (folder / "concat-0.json").write_text(json.dumps({"trained": trained, "peak_mebibytes": 0}))
    (trunk / "manifest.json").write_text("of another")
    with pytest.raises(UsageError, match=r"was trained in another way \(the folder of model\.trunk\)"):
        compare(recipe, named, folder, ["concat"], 1, print)


def test_a_recommender_has_nothing_to_fuse(tmp_path: Path) -> None:
    recipe = tmp_path / "next.yaml"
    recipe.write_text("task.name: recommendation\ndata.train: events.jsonl\n")
    with pytest.raises(UsageError, match="with --fusion one_stream"):
        compare(recipe, [], tmp_path / "compared", FUSIONS, 1, print)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_run_that_is_on(recipe: Path, tmp_path: Path, number: signal.Signals) -> None:
    """To compare alone: it goes on to the run, which saves; both are gone."""
    command = [sys.executable, "-m", "fusebert.cli", "compare", str(recipe), "--fusion", "concat", "--seeds", "1"]
    command += ["--output", str(tmp_path / "compared"), "training.epochs=10000", "training.trackers=[]"]
    comparing = psutil.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_listen)
    with ended(comparing):
        until = time.monotonic() + BOUND_SECONDS
        while not [*(tmp_path / "compared").glob("concat-0/checkpoints/step-*")]:
            assert time.monotonic() < until
            time.sleep(0.01)
        started = comparing.children()
        os.kill(comparing.pid, number)
        said = comparing.communicate(timeout=BOUND_SECONDS)[1]
    assert comparing.returncode == 1
    assert "all is saved, go on with --resume" in said
    assert "fusebert: stopped; the same command goes on" in said
    assert not any(process.is_running() for process in started)


def test_a_run_stops_with_a_comparison_that_is_killed(recipe: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fusebert.cli", "compare", str(recipe), "--fusion", "concat", "--seeds", "1"]
    command += ["--output", str(tmp_path / "compared"), "training.epochs=10000", "training.trackers=[]"]
    comparing = psutil.Popen(command, stderr=subprocess.DEVNULL)
    with ended(comparing):
        until = time.monotonic() + BOUND_SECONDS
        while not [*(tmp_path / "compared").glob("concat-0/checkpoints/step-*")]:
            assert time.monotonic() < until
            time.sleep(0.01)
        (run,) = comparing.children()
        comparing.kill()
        _, alive = psutil.wait_procs([run], timeout=BOUND_SECONDS)
        for one in alive:
            one.kill()
        assert not alive


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a test may run where it is ignored, as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fusion", "all,none"], "'all' is not one of all, one_stream, concat, two_stream"),
        (["--metric", "speed"], "--metric: 'speed' is not one of accuracy, f1_macro, auroc"),
        (["--metric", "rmse"], "'rmse' is not one of accuracy"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["model.fusion=concat"], "choose with --fusion"),
        (["training.seed=7"], "choose with --seeds"),
        (["--time-limit", "9s", "training.time_limit=8"], "name one of them"),
        (["--fusion", "concat", "--seeds", "1", "training.epochs=none"], "training.epochs"),
        (["--fusion", "concat", "--seeds", "1", "data.target=nothing"], "the target column 'nothing' does not exist"),
    ],
)
def test_wrong_use_is_said(
    recipe: Path,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["compare", str(recipe), "--output", str(tmp_path / "c"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_run_that_fails_ends_the_comparison(recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.jsonl").write_text('{"question": "what is it", "image": "none.png", "answer": "a"}\n')
    table = f"data.test={tmp_path / 'bad.jsonl'}"
    assert main(["compare", str(recipe), "--output", str(tmp_path / "c"), "--fusion", "concat", table]) == 1
    said = capfd.readouterr().err
    assert "bad.jsonl, row 1" in said
    assert "the run in " in said
    assert "failed with exit code 1" in said


def test_a_table_of_bad_rows_alone_is_not_called_empty(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text("{\n")
    table = f"data.train={tmp_path / 'bad.jsonl'}"
    assert main(["compare", str(recipe), "--output", str(tmp_path / "c"), "--metric", "accuracy", table]) == 1
    assert f"{tmp_path / 'bad.jsonl'}, row 1: not a JSON object" in capsys.readouterr().err
