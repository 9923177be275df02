"""What classifiers make of logits: probabilities of labels as they occur, and the answers that an F1 asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, logit, softmax

from fusebert.errors import UsageError
from fusebert.tasks.classification.head import Head
from fusebert.tasks.classification.task import Config, Task
from fusebert.types import Encoded, Layout

SHARES = (0.8, 0.15, 0.05)


def planted(rows: int, shares: tuple[float, ...], seed: int, apart: float = 1.1) -> tuple[np.ndarray, np.ndarray]:
    """Rows of labels with these shares: their true log-probabilities float[B, C], and the labels int[B]."""
    random = np.random.default_rng(seed)
    targets = random.choice(len(shares), rows, p=shares)
    seen = random.normal(size=(rows, len(shares))) + apart * np.eye(len(shares))[targets]
    return apart * seen + np.log(shares), targets


def lists(rows: int, shares: tuple[float, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of any number of labels with these shares: true logits float[B, C] and targets float32[B, C + 1]."""
    random = np.random.default_rng(seed)
    given = random.random((rows, len(shares))) < shares
    logits = 1.5 * (random.normal(size=given.shape) + 1.5 * given) - 1.5**2 / 2 + logit(shares)
    return logits, np.pad(given, [(0, 0), (0, 1)]).astype(np.float32)


def fitted(targets: np.ndarray, **settings: Any) -> Task:
    if targets.ndim == 2:
        raw: list[Any] = [[f"l{number}" for number in np.flatnonzero(row)] for row in targets[:, :-1]]
    else:
        raw = [f"l{number}" for number in targets]
    return Task.fit(Config(**settings), raw)


def trained_head(task: Task, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Logits of a linear model that has learnt these rows under the task's loss, without penalty, to the end."""
    trunk = type("Trunk", (), {"hidden_size": inputs.shape[1], "hidden_dropout_prob": 0.0})
    head = Head(task.head_config, trunk)
    pooled = torch.tensor(inputs, dtype=torch.float32)
    rows = Encoded(pooled, pooled, Layout(torch.arange(len(pooled) + 1), (1,) * len(pooled)))
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        found = head.loss(rows, torch.from_numpy(targets))["loss"]
        found.backward()
        return found

    optimizer.step(loss)
    with torch.inference_mode():
        return np.asarray(head(rows).numpy())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("of_lists", [False, True])
def test_balanced_weights_leave_probabilities_as_often_right_as_they_say(of_lists: bool, smoothing: float) -> None:
    inputs, targets = (lists if of_lists else planted)(4000, SHARES, seed=0)
    balanced = fitted(targets, class_weights="balanced", label_smoothing=smoothing)
    logits = trained_head(balanced, inputs, targets)
    balanced.calibrate(logits, targets)
    found = balanced.probabilities(logits)
    true = expit(inputs) if of_lists else softmax(inputs, axis=1)
    assert found.mean(axis=0) == pytest.approx(SHARES, rel=0.1)
    assert np.abs(found - true).mean() < 0.02
    usual = fitted(targets)
    own = usual.evaluate(trained_head(usual, inputs, targets), targets)["metrics"]
    metrics = balanced.evaluate(logits, targets)["metrics"]
    assert metrics["loss"] < own["loss"] + 0.01
    if not of_lists:
        assert metrics["expected_calibration_error"] < 0.02


def test_a_model_that_knows_nothing_gives_the_frequencies() -> None:
    _, targets = planted(1000, SHARES, seed=0)
    task = fitted(targets, class_weights="balanced")
    logits = np.random.default_rng(1).normal(size=(1000, 3))
    task.calibrate(logits, targets)
    assert task.temperature > 3
    assert task.probabilities(np.zeros((1, 3)))[0] == pytest.approx(task.frequencies)


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("shares", [(0.95, 0.05), SHARES])
def test_the_f1_of_rare_labels_rises_on_rows_that_chose_nothing(shares: tuple[float, ...], weights: str) -> None:
    logits, targets = planted(500, shares, seed=0)
    task = fitted(targets, metric="f1_macro", class_weights=weights)
    shift = np.log(task.weights)  # what a model learns under the weights
    task.calibrate(logits + shift, targets)
    logits, targets = planted(20_000, shares, seed=1)
    found = task.evaluate(logits + shift, targets)
    assert found["metrics"]["f1_macro"] > found["decision"]["otherwise"]["f1_macro"] + 0.02
    assert found["metrics"]["expected_calibration_error"] < 0.03


def test_one_threshold_raises_micro_f1_and_one_for_each_label_the_mean_of_their_f1() -> None:
    shares = (0.3, 0.1, 0.05, 0.02)
    chosen, asked = lists(500, shares, seed=0), lists(20_000, shares, seed=1)
    found = {}
    for metric in ("f1_micro", "f1_macro"):
        task = fitted(chosen[1], metric=metric)
        task.calibrate(*chosen)
        assert (len(set(task.thresholds)) == 1) == (metric == "f1_micro")
        found[metric] = task.evaluate(*asked)
    for metric, other in (("f1_micro", "f1_macro"), ("f1_macro", "f1_micro")):
        score = found[metric]["metrics"][metric]
        assert score > found[metric]["decision"]["otherwise"][metric] + 0.02
        assert score > found[other]["metrics"][metric]


def test_few_rows_do_not_choose_by_chance() -> None:
    """The best threshold of twenty rows may be anywhere; what probabilities say of themselves is not."""
    asked = planted(20_000, (0.8, 0.2), seed=99)
    for seed in range(5):
        logits, targets = planted(20, (0.8, 0.2), seed=seed)
        task = fitted(asked[1], metric="f1_macro")
        task.decide(logits, targets)
        found = task.evaluate(*asked)
        assert found["metrics"]["f1_macro"] > found["decision"]["otherwise"]["f1_macro"]


@pytest.mark.parametrize("metric", [None, "accuracy", "auroc"])
def test_where_no_f1_is_asked_for_the_likeliest_label_is_the_answer(metric: Any) -> None:
    logits, targets = planted(500, SHARES, seed=0)
    task = fitted(targets, metric=metric)
    task.calibrate(logits, targets)
    assert [answer.value for answer in task.decode(logits)] == [f"l{number}" for number in logits.argmax(axis=1)]
    assert "decision" not in task.evaluate(logits, targets)


@pytest.mark.parametrize(
    ("kind", "metric"), [("two", "f1_macro"), ("three", "f1_macro"), ("lists", "f1_micro"), ("lists", "f1_macro")]
)
def test_answers_scores_and_the_quick_score_agree_also_after_loading(kind: str, metric: str, tmp_path: Path) -> None:
    shares = (0.9, 0.1) if kind == "two" else SHARES
    logits, targets = (lists if kind == "lists" else planted)(400, shares, seed=0)
    task = fitted(targets, metric=metric)
    task.calibrate(logits, targets)
    task.save(tmp_path)
    again = Task.load_from(tmp_path)
    assert again.decode(logits, top=2) == task.decode(logits, top=2)
    found = again.evaluate(logits, targets)
    assert found == task.evaluate(logits, targets)
    assert again.score(logits, targets) == found["metrics"][metric]
    right = []
    for answer, target in zip(again.decode(logits), targets, strict=True):
        numbers = np.flatnonzero(target) if kind == "lists" else [target]
        right.append(again.is_right([f"l{n}" for n in numbers] if kind == "lists" else f"l{target}", answer.value))
    assert np.mean(right) == pytest.approx(found["metrics"]["accuracy"])


def test_the_probability_of_an_answer_is_its_own_though_another_label_is_likelier() -> None:
    _, targets = planted(100, (0.8, 0.2), seed=0)
    task = fitted(targets).answering_from(0.2)
    (answer,) = task.decode(np.log([[0.7, 0.3]]), top=2)
    assert (answer.value, answer.probability) == ("l1", pytest.approx(0.3))
    assert [label for label, _ in answer.top] == ["l0", "l1"]


def test_a_threshold_may_be_set_by_hand(tmp_path: Path) -> None:
    logits, targets = lists(300, SHARES, seed=0)
    task = fitted(targets)
    task.calibrate(logits, targets)
    strict = task.answering_from(0.9)
    assert sum(len(answer.value) for answer in strict.decode(logits)) == (task.probabilities(logits) >= 0.9).sum()
    assert strict.evaluate(logits, targets)["decision"]["chosen_for"] is None
    assert task.evaluate(logits, targets)["decision"]["chosen_for"] == "f1_micro"
    strict.save(tmp_path)
    assert Task.load_from(tmp_path).by_hand
    with pytest.raises(UsageError, match="between 0 and 1"):
        task.answering_from(1.5)
    with pytest.raises(UsageError, match="two labels"):
        fitted(planted(100, SHARES, seed=0)[1]).answering_from(0.3)


def test_labels_of_no_validation_row_leave_the_likeliest_answers() -> None:
    task = fitted(planted(100, SHARES, seed=0)[1], metric="f1_macro", unseen_labels="wrong")
    task.calibrate(np.zeros((5, 3)), np.full(5, -1))
    assert "decision" not in task.evaluate(np.eye(3), np.arange(3))


def test_a_label_that_is_quite_impossible_does_not_stop_the_choice() -> None:
    """Its F1 would be nothing of nothing."""
    logits, targets = planted(4000, SHARES, seed=3)
    three, task = (fitted(np.append(targets, more), metric="f1_macro") for more in ([], [3]))
    three.decide(logits, targets)
    with np.errstate(divide="raise", invalid="raise"):
        task.decide(np.pad(logits, [(0, 0), (0, 1)], constant_values=-2000.0), targets)
    assert task.evaluate(np.pad(logits, [(0, 0), (0, 1)], constant_values=-2000.0), targets)["decision"]


def test_rows_that_lack_a_label_choose_no_threshold_for_it() -> None:
    logits, targets = planted(400, (0.98, 0.02), seed=0)
    task = fitted(targets, metric="f1_macro")
    task.decide(logits, targets)
    assert task.thresholds[1] != 0.5
    task.decide(logits[targets == 0], targets[targets == 0])
    assert task.thresholds.tolist() == [0.5, 0.5]
