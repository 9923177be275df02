"""A plan for a given time keeps its time, keeps what the user chose, and says what it expects."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertForPreTraining

from fusebert.config import Recipe, without_places
from fusebert.corpus.tokens import Tokens, tokenize_corpus
from fusebert.corpus.vocabulary import corpus_tokenizer
from fusebert.errors import ModelError, UsageError
from fusebert.recipe_yaml import as_yaml, read_settings
from fusebert.training import budget
from fusebert.training.budget import (
    LENGTH,
    LONG_LENGTH,
    beginning,
    pick_batch,
    pick_length,
    pick_scoring,
    pick_workers,
)
from fusebert.training.lock import _held, lock, unlocking
from fusebert.training.loss_law import expected_loss, layer_parameters
from fusebert.training.plan_file import find_begun, keep_plan
from fusebert.training.pretrain import pretrain
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.trainer import Trainer
from tests.conftest import Stop
from tests.corpus.conftest import *  # noqa: F403 - the corpus fixture
from tests.corpus.conftest import borders

pytestmark = pytest.mark.alone
SECONDS = 12.0
RUNS = Path(__file__).parents[2] / "benchmarks" / "pretrain_law.jsonl"


def test_more_of_anything_is_expected_to_help() -> None:
    tiny, mini = layer_parameters("tiny"), layer_parameters("mini")
    losses = [expected_loss(7.0, tiny, tokens, 10**9) for tokens in (10**6, 10**7, 10**8)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] <= 7.0
    assert losses[-1] > 1.0
    assert expected_loss(7.0, mini, 10**8, 10**9) < losses[-1]
    assert expected_loss(7.0, tiny, 10**8, 10**6) > losses[-1]  # a hundred times the same million


@pytest.mark.parametrize(
    ("documents", "tokens", "length"),
    [([20] * 50, 1e6, 32), ([50] * 50, 1e6, 64), ([900] * 50, 1e6, LENGTH), ([900] * 50, 1e9, LONG_LENGTH)],
)
def test_rows_are_as_long_as_documents_and_time_allow(documents: list[int], tokens: float, length: int) -> None:
    sentences = borders(documents)
    total = int(sentences[-1])
    corpus = Tokens(
        np.zeros(total, np.int32), np.zeros(total, np.bool_), sentences, np.arange(len(documents) + 1, dtype=np.int64)
    )
    assert pick_length(corpus, tokens) == length


def test_batches_grow_with_the_tokens() -> None:
    assert [pick_batch(tokens) for tokens in (0, 1e6, 1e7, 1e9)] == [1024, 1024, 2048, 65_536]


@pytest.mark.parametrize(("cores", "processes", "workers"), [(16, 1, 4), (16, 8, 1), (2, 1, 1), (4, 8, 0)])
def test_workers_leave_a_core_to_each_process(
    cores: int, processes: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert pick_workers("cuda", processes) == workers
    assert pick_workers("cpu", processes) == 0


@pytest.fixture(scope="module")
def settings(corpus: Path) -> dict[str, Any]:
    return {"data.train": str(corpus), "training.trackers": [], "task.next_sentence": "off"}


@pytest.mark.parametrize("kind", ["off", "nsp"])
def test_finishes_on_time_with_what_was_planned(settings: dict[str, Any], tmp_path: Path, kind: str) -> None:
    settings = settings | {"task.next_sentence": kind}
    started = time.monotonic()
    metrics = pretrain(settings, tmp_path / "bert", budget=SECONDS)
    spent = time.monotonic() - started
    assert 0.7 * SECONDS < spent < 1.25 * SECONDS
    plan, training = metrics["plan"], metrics["training"]
    assert plan["seconds"] == SECONDS
    assert plan["mlm_loss"] <= metrics["unigram_entropy"]
    assert 0.4 < training["tokens"] / plan["tokens"] < 2.5
    assert 0.4 < training["steps"] / plan["steps"] < 2.5
    assert plan["rounds"] - 1 <= training["epochs"] <= 2 * plan["rounds"] + 1
    assert "time limit" in training["stopped"]
    recipe = read_settings(tmp_path / "bert" / "recipe.yaml")
    assert recipe["task.next_sentence"] == kind
    assert recipe["model.trunk"] == plan["trunk"]
    assert recipe["task.held_out_tokens"] == plan["held_out_tokens"]
    assert json.loads((tmp_path / "bert" / "metrics.json").read_text())["plan"] == plan
    BertForPreTraining.from_pretrained(tmp_path / "bert")


def test_goes_on_with_its_plan(settings: dict[str, Any], pretrained_tiny: Path, tmp_path: Path) -> None:
    """From a BERT, broken off and resumed; with another plan it would be another run."""
    folder, given = tmp_path / "bert", settings | {"model.trunk": str(pretrained_tiny), "training.checkpoint_steps": 5}
    with pytest.raises(KeyboardInterrupt):
        pretrain(given, folder, budget=SECONDS, progress=Stop(SECONDS / 3))
    plan = json.loads((folder / "plan.json").read_text())["plan"]
    assert plan["mlm_loss"] is None
    assert plan["trunk"] == str(pretrained_tiny)
    with pytest.raises(UsageError, match="a budget of 12 s"):
        pretrain(given, folder, budget=SECONDS / 2, resume=True)
    with pytest.raises(UsageError, match="resume it with --budget 12s"):
        pretrain(given, folder, resume=True)
    with pytest.raises(UsageError, match="other settings"):
        pretrain(given | {"training.seed": 3}, folder, budget=SECONDS, resume=True)
    kept = (folder / "plan.json").read_bytes()
    (folder / "plan.json").write_text("{}")
    with pytest.raises(ModelError, match=r"plan\.json is damaged"):
        pretrain(given, folder, budget=SECONDS, resume=True)
    (folder / "plan.json").write_bytes(kept)
    metrics = pretrain(given | {"training.workers": 1}, folder, budget=SECONDS, resume=True)
    assert metrics["plan"] == plan
    assert metrics["training"]["seconds"] < 1.1 * SECONDS  # and a third more if the first start did not count


def test_a_plan_is_not_written_over_that_of_a_running_training(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    with unlocking():
        lock(folder)
        (folder / "plan.json").write_text("of the other")
        handle = _held.pop(folder.resolve())  # as if another process held it
        with pytest.raises(UsageError, match="another training writes in"):
            pretrain(settings, folder, budget=SECONDS)
    os.close(handle)
    assert (folder / "plan.json").read_text() == "of the other"


def test_a_run_of_which_nothing_is_saved_is_planned_anew(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, given, measure = tmp_path / "bert", settings | {"model.trunk": "tiny"}, budget.tokens_per_second
    with monkeypatch.context() as patch:
        patch.setattr(budget, "tokens_per_second", lambda *measured: measure(*measured) / 50)  # a busy machine
        patch.setattr(Trainer, "_step", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(given, folder, budget=SECONDS / 2)
    before = json.loads((folder / "plan.json").read_text())["plan"]
    with monkeypatch.context() as patch:
        patch.setattr(budget, "tokens_per_second", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(given, folder, budget=SECONDS / 2, resume=True)
    metrics = pretrain(given, folder, budget=SECONDS / 2, resume=True)
    assert metrics["plan"]["tokens_per_second"] > 5 * before["tokens_per_second"]
    assert json.loads((folder / "metrics.json").read_text())["plan"] == metrics["plan"]


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_small_gpu_gets_smaller_batches_and_smaller_models(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory holds a tiny BERT with 1,024 tokens, and nothing larger. (A GPU's error; its place is taken here.)"""
    tried = []

    def measure(recipe: Recipe, _: object, batch_tokens: int, *__: object) -> float:
        tried.append((recipe.model.trunk, batch_tokens))
        if recipe.model.trunk != "tiny" or batch_tokens > 1024:
            raise torch.OutOfMemoryError
        return 1e6

    monkeypatch.setattr(budget, "tokens_per_second", measure)
    monkeypatch.setattr(Trainer, "_step", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, tmp_path / "bert", budget=600.0)
    plan = json.loads((tmp_path / "bert" / "plan.json").read_text())["plan"]
    assert (plan["trunk"], plan["tokens_per_batch"]) == ("tiny", 1024)
    assert tried[:3] == [("tiny", 2048), ("tiny", 1024), ("mini", 2048)]
    with pytest.raises(UsageError, match="mini does not fit into the GPU's memory"):
        pretrain(settings | {"model.trunk": "mini"}, tmp_path / "other", budget=600.0)


def test_a_machine_too_slow_to_measure_is_an_error_in_words(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = budget.tokens_per_second

    def slow(*given: Any) -> float:
        found = quick(*given)
        time.sleep(SECONDS / 2)
        return found

    monkeypatch.setattr(budget, "tokens_per_second", slow)
    with pytest.raises(UsageError, match="measuring this machine took all of the 6 s"):
        pretrain(settings | {"model.trunk": "tiny"}, tmp_path / "bert", budget=SECONDS / 2)


@pytest.fixture(scope="module")
def pretrained_tiny(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    short = {"model.trunk": "tiny", "task.length": 32, "task.passes": 0.1, "task.rounds": 1}
    folder = tmp_path_factory.mktemp("tiny") / "bert"
    pretrain(settings | short, folder)
    return folder


def test_a_run_begun_without_a_budget_goes_on_without_one(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings | {"model.trunk": "tiny"}, tmp_path / "bert", progress=Stop(0.0))
    with pytest.raises(UsageError, match="without a budget"):
        pretrain(settings | {"model.trunk": "tiny"}, tmp_path / "bert", budget=9.0, resume=True)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_finished_run_with_a_plan_is_given_its_corpus(kind: Any, tmp_path: Path) -> None:
    """Its recipe tells no place any more."""
    settings = {"data.train": kind(tmp_path / "corpus"), "model.trunk": "tiny"}
    recipe = pretraining_recipe(settings)
    (tmp_path / "recipe.yaml").write_text(as_yaml(without_places(recipe.flat())))
    keep_plan(tmp_path, {}, 9.0, settings)
    begun = find_begun(tmp_path, settings, 9.0)
    assert begun is not None
    assert begun.recipe.data.train == tmp_path / "corpus"


def test_what_cannot_be_planned_is_said(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give more time"):
        pretrain({"data.train": str(corpus)}, tmp_path / "bert", budget=0.001)
    with pytest.raises(UsageError, match=r"leave out task\.passes"):
        pretrain({"data.train": str(corpus), "task.passes": 1}, tmp_path / "bert", budget=9.0)
    with pytest.raises(UsageError, match="the one or the other"):
        pretrain({"data.train": str(corpus), "training.time_limit": 5}, tmp_path / "bert", budget=9.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tokens", "rounds", "expected"),
    [(1e5, None, (1, 8000)), (1e6, None, (4, 20_000)), (1e9, None, (6, 250_000)), (1e6, 10, (10, 8000))],
)
def test_validations_take_a_small_share(tokens: float, rounds: int | None, expected: tuple[float, int]) -> None:
    found = pick_scoring(tokens, rounds)
    assert found == expected
    assert found[0] * found[1] / 2 <= 0.04 * tokens  # scored twice as fast as trained


def test_is_measured_on_the_beginning(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tokenize_corpus(corpus, "train", corpus_tokenizer(corpus))
    monkeypatch.setattr(budget, "PROBE_CORPUS_TOKENS", 3000)
    part = beginning(whole)
    assert 3000 <= len(part.ids) < 4000
    assert len(part.documents) == 1 + np.searchsorted(whole.sentences[whole.documents], 3000)
    assert part.documents[-1] == len(part.sentences) - 1
    assert part.sentences[-1] == len(part.ids)
    monkeypatch.setattr(budget, "PROBE_CORPUS_TOKENS", 1)
    assert len(beginning(whole).documents) == 3


def test_the_forecast_is_within_a_tenth_of_every_run_behind_it() -> None:
    runs = [json.loads(line) for line in RUNS.read_text().splitlines()]
    assert {run["trunk"] for run in runs} >= {"tiny", "mini", "medium"}
    for run in runs:
        wanted = run["mlm_loss"]
        found = expected_loss(
            run["unigram_entropy"], layer_parameters(run["trunk"]), run["tokens"], run["corpus_tokens"]
        )
        assert found == pytest.approx(wanted, rel=0.1), run
