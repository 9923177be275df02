"""What every task promises, tried on every task that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

from fusebert import plugins, spill
from fusebert.data.collate import Collator
from fusebert.data.columns import guess_task
from fusebert.data.dataset import Preparer
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.tasks.classification.metrics import multi_label, single_label
from fusebert.types import ALL, Encoded, Example, Layout, Sample
from tests.contracts.test_modalities import model_of, processor_of

TARGETS = {"classification": ["answer", "colours"], "regression": ["shapes"]}
HALF = np.array([0.5, 0.5])
WITHOUT_TARGET = {"pretraining", "matching", "recommendation"}
"""tests/corpus and tests/evaluation try them."""
TASKS = [(name, column) for name, columns in TARGETS.items() for column in columns]


def task_of(name: str, column: str, samples: Sequence[Sample]) -> Any:
    half = plugins.load("tasks", name, "task")
    return half.Task.fit(half.Config(), [sample.values[column] for sample in samples])


def gold_logits(task: Any, targets: np.ndarray) -> np.ndarray:
    """Logits that say exactly what the targets say."""
    if targets.ndim == 2:
        return np.where(targets[:, :-1] > 0, 20.0, -20.0)
    if targets.dtype.kind == "i":
        return np.where(targets[:, None] == np.arange(task.head_config["outputs"]), 20.0, -20.0)
    return targets[:, None].astype(np.float64)


def test_every_task_is_tried_here() -> None:
    assert set(plugins.names("tasks")) == set(TARGETS) | WITHOUT_TARGET, "give the new task a column in TARGETS"


@pytest.mark.parametrize(("name", "column"), TASKS)
def test_metrics_are_perfect_on_gold_and_at_chance_on_shuffled(name: str, column: str, samples: list[Sample]) -> None:
    task = task_of(name, column, samples)
    targets = np.stack([task.target(sample.values[column]) for sample in samples])
    gold = gold_logits(task, targets)
    perfect = task.evaluate(gold, targets)["metrics"]
    shuffled = task.evaluate(np.random.default_rng(0).permutation(gold), targets)["metrics"]
    if name == "regression":
        assert perfect["mae"] == pytest.approx(0, abs=1e-6)
        assert perfect["r2"] == pytest.approx(1, abs=1e-9)
        assert perfect["pearson"] == pytest.approx(1, abs=1e-9)
        assert shuffled["r2"] < 0.1
    else:
        assert {perfect[metric] for metric in ("accuracy", "f1_macro", "auroc")} == {1.0}
        assert abs(shuffled["auroc"] - 0.5) < 0.15
    assert task.primary_metric in perfect
    assert set(task.metric_names) == set(perfect)


def test_a_label_that_training_had_not_is_wrong_and_on_no_roc_curve() -> None:
    random = np.random.default_rng(0)
    targets = np.repeat([0, 1], 50)
    shares = random.dirichlet([1, 1], 100)
    known = single_label(shares, targets, ["a", "b"], HALF, few=True)["metrics"]
    sure = np.tile([1.0, 0.0], (25, 1))
    found = single_label(
        np.concatenate([shares, sure]), np.concatenate([targets, [-1] * 25]), ["a", "b"], HALF, few=True
    )
    assert found["metrics"]["auroc"] == known["auroc"]
    assert found["metrics"]["accuracy"] == pytest.approx(known["accuracy"] * 100 / 125)


@pytest.mark.parametrize("labels", [2, 7])
def test_the_area_under_the_curve_is_scikit_learns(labels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ties, a label that no row has and rows of unknown labels; also where columns are read a few at a time."""
    monkeypatch.setattr(spill, "CHUNK_NUMBERS", 1000)
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(labels, 0.5), 400).round(2)
    targets = random.integers(-1, max(2, labels - 1), 400)
    found = single_label(shares, targets, range(labels), np.full(labels, 0.5), few=True)["metrics"]["auroc"]
    known, asked = targets >= 0, [1] if labels == 2 else range(labels - 1)
    wanted = [roc_auc_score(targets[known] == label, shares[known, label]) for label in asked]
    assert found == pytest.approx(np.mean(wanted), abs=1e-12)
    lists = np.pad(random.random((400, labels)) < 0.3, [(0, 0), (0, 1)]).astype(np.float32)
    found = multi_label(shares, lists, range(labels), np.full(labels, 0.5), few=True)["metrics"]["auroc"]
    assert found == pytest.approx(roc_auc_score(lists[:, :labels], shares, average="macro"), abs=1e-12)


@pytest.mark.parametrize("column", TARGETS["classification"])
def test_scores_are_the_same_a_few_rows_at_a_time(
    column: str, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of("classification", column, samples)
    targets = np.stack([task.target(sample.values[column]) for sample in samples])
    logits = np.random.default_rng(0).normal(size=(len(targets), task.head_config["outputs"])).astype(np.float32)
    whole = task.evaluate(logits, targets)
    monkeypatch.setattr(spill, "CHUNK_NUMBERS", 3 * logits.shape[1])
    assert [len(logits[part]) for part in spill.chunks(logits)][:2] == [3, 3]
    assert task.evaluate(logits, targets) == whole


def test_the_temperature_of_many_classes_is_of_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    half = plugins.load("tasks", "classification", "task")
    task = half.Task.fit(half.Config(), [str(number) for number in range(50)])
    random = np.random.default_rng(0)
    targets = random.integers(0, 50, 2000)
    logits = (3 * (random.normal(size=(2000, 50)) + 2 * np.eye(50)[targets])).astype(np.float32)
    task.calibrate(logits, targets)
    whole = task.temperature
    monkeypatch.setattr(half, "CALIBRATION_LOGITS", 50 * 1000)
    task.calibrate(logits, targets)
    assert task.temperature != whole
    assert task.temperature == pytest.approx(whole, rel=0.1)


@pytest.mark.parametrize(("name", "column"), TASKS)
def test_gold_decodes_to_the_raw_target(name: str, column: str, samples: list[Sample]) -> None:
    task = task_of(name, column, samples)
    targets = np.stack([task.target(sample.values[column]) for sample in samples[:20]])
    for answer, sample in zip(task.decode(gold_logits(task, targets)), samples[:20], strict=True):
        wanted = sample.values[column]
        if isinstance(wanted, list):
            assert sorted(answer.value) == sorted(wanted)
        elif name == "regression":
            assert answer.value == pytest.approx(wanted, abs=1e-5)
        else:
            assert answer.value == wanted


@pytest.mark.parametrize("metric", ["accuracy", "f1_macro", "auroc"])
@pytest.mark.parametrize("column", TARGETS["classification"])
def test_the_quick_score_is_the_primary_metric(column: str, metric: str, samples: list[Sample]) -> None:
    half = plugins.load("tasks", "classification", "task")
    task = half.Task.fit(half.Config(metric=metric), [sample.values[column] for sample in samples])
    targets = np.stack([task.target(sample.values[column]) for sample in samples])
    logits = np.random.default_rng(0).normal(size=(len(targets), task.head_config["outputs"]))
    assert task.score(logits, targets) == task.evaluate(logits, targets)["metrics"][metric]


@pytest.mark.parametrize("name", TARGETS)
def test_the_mean_of_all_tokens_may_stand_for_a_row(name: str, samples: list[Sample]) -> None:
    column = TARGETS[name][0]
    half = plugins.load("tasks", name, "task")
    task = half.Task.fit(half.Config(pooling="mean"), [sample.values[column] for sample in samples])
    processors = {modality: processor_of(modality, samples) for modality in ("text", "image")}
    model = model_of(processors, task.head_config)
    assert not any(weight.requires_grad for weight in model.trunk.pooler.parameters())
    preparer = Preparer(processors, task, column)
    examples = [example for sample in samples[:6] if isinstance(example := preparer(sample), Example)]
    model(**Collator(processors, task.collate)(examples))["loss"].backward()
    last = model.trunk.encoder.layer[-1].output.dense.weight.grad
    assert last.any()


@pytest.mark.parametrize("fusion", ["one_stream", "concat", "two_stream"])
@pytest.mark.parametrize(("name", "column"), TASKS)
def test_what_a_head_does_not_read_changes_nothing(
    name: str, column: str, fusion: str, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(name, column, samples)
    processors = {modality: processor_of(modality, samples) for modality in ("text", "image")}
    config = model_of(processors, task.head_config).config.to_dict()
    torch.manual_seed(0)
    model = FusebertModel(FusebertConfig(**{**config, "fusion": fusion})).eval()
    preparer = Preparer(processors, task, column)
    examples = [example for sample in samples[:6] if isinstance(example := preparer(sample), Example)]
    batch = Collator(processors, task.collate)(examples)
    found = model(**batch)["loss"]
    monkeypatch.setattr(type(model.head), "reads", lambda *_: ALL)
    torch.testing.assert_close(found, model(**batch)["loss"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "column"), TASKS)
def test_it_overfits_one_batch(name: str, column: str, samples: list[Sample]) -> None:
    task = task_of(name, column, samples)
    processors = {modality: processor_of(modality, samples) for modality in ("text", "image")}
    model = model_of(processors, task.head_config).train()
    preparer = Preparer(processors, task, column)
    examples = [example for sample in samples[:12] if isinstance(example := preparer(sample), Example)]
    batch = Collator(processors, task.collate)(examples)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    first = None
    for _ in range(60):
        loss = model(**batch)["loss"]
        first = first or loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.3 * first


@pytest.mark.parametrize(("name", "column"), TASKS)
def test_what_is_saved_loads_as_the_same(name: str, column: str, samples: list[Sample], tmp_path: Path) -> None:
    task = task_of(name, column, samples)
    targets = np.stack([task.target(sample.values[column]) for sample in samples[:20]])
    logits = np.random.default_rng(0).normal(size=(20, task.head_config["outputs"]))
    if hasattr(task, "calibrate"):
        task.calibrate(logits, targets)
    task.save(tmp_path)
    again = type(task).load_from(tmp_path)
    assert again.decode(logits, top=3) == task.decode(logits, top=3)
    assert again.evaluate(logits, targets) == task.evaluate(logits, targets)


def test_the_temperature_makes_sure_answers_less_sure() -> None:
    random = np.random.default_rng(0)
    targets = random.integers(0, 4, 500)
    true_logits = random.normal(size=(500, 4)) + 2 * np.eye(4)[targets]
    task = task_of("classification", "x", [Sample(Path("x"), i, {"x": str(i)}, None) for i in range(4)])
    before = task.evaluate(5 * true_logits, targets)["metrics"]
    task.calibrate(5 * true_logits, targets)
    after = task.evaluate(5 * true_logits, targets)["metrics"]
    assert task.temperature > 2
    assert after["loss"] < before["loss"]
    assert after["expected_calibration_error"] < before["expected_calibration_error"]
    assert after["accuracy"] == before["accuracy"]


def test_the_temperature_of_many_labels_is_found_too() -> None:
    random, labels = np.random.default_rng(0), 300
    half = plugins.load("tasks", "classification", "task")
    task = half.Task.fit(half.Config(), [[f"l{number}"] for number in range(labels)])
    true_logits = random.normal(size=(200, labels)) - 4
    targets = (random.random((200, labels)) < 1 / (1 + np.exp(-true_logits))).astype(np.float32)
    task.calibrate(3 * true_logits, np.pad(targets, [(0, 0), (0, 1)]))
    assert task.temperature == pytest.approx(3, rel=0.1)


def test_the_temperature_is_of_rows_from_the_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which may be sorted: here the first half is always right, the second by chance."""
    half = plugins.load("tasks", "classification", "task")
    monkeypatch.setattr(half, "CALIBRATION_ROWS", 500)
    task = task_of("classification", "x", [Sample(Path("x"), i, {"x": str(i)}, None) for i in range(2)])
    targets = np.random.default_rng(0).integers(0, 2, 1000)
    logits = 4 * np.eye(2)[np.where(np.arange(1000) < 500, targets, 0)]
    task.calibrate(logits, targets)
    assert task.temperature > 2


@pytest.mark.parametrize("lists", [False, True])
def test_smoothing_does_not_make_a_rare_label_the_answer_to_all(lists: bool) -> None:
    """Weights make both as heavy, so a head without inputs has no reason to prefer one."""
    answers = ["common"] * 98 + ["rare"] * 2
    targets: list[Any] = [[one] for one in answers] if lists else answers
    half = plugins.load("tasks", "classification", "task")
    task = half.Task.fit(half.Config(class_weights="balanced", label_smoothing=0.1), targets)
    head = plugins.load("tasks", "classification", "head").Head(task.head_config, TrunkConfig.of_size("tiny", 5))
    labels = torch.from_numpy(np.stack([task.target(target) for target in targets]))
    nothing = Encoded(torch.zeros(100, 128), torch.zeros(100, 128), Layout(torch.arange(101), (1,) * 100))
    torch.nn.init.zeros_(head.classifier.bias)
    head.loss(nothing, labels)["loss"].backward()
    assert head.classifier.bias.grad.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("learnt", "asked"),
    [
        (["0", "1"], [0, 1]),
        ([0, 1], ["0", "1"]),
        (["True", "False"], [True, False]),
        ([True, False], ["true", "FALSE"]),
        ([True, False], [1, 0]),
        (["0", "1"], [False, True]),
    ],
)
def test_a_label_is_known_by_its_spelling_where_a_table_has_no_kinds(learnt: list[Any], asked: list[Any]) -> None:
    half = plugins.load("tasks", "classification", "task")
    task = half.Task.fit(half.Config(), learnt)
    assert [task.target(label).item() for label in asked] == [task.target(label).item() for label in learnt]
    assert task.is_right(asked[0], learnt[0])
    assert not task.is_right(asked[0], learnt[1])


def test_outer_spaces_make_no_other_label() -> None:
    half = plugins.load("tasks", "classification", "task")
    assert half.Task.fit(half.Config(), ["yes", " yes", "no ", "yes "]).labels == ["no", "yes"]


def test_lists_of_labels_may_be_json_in_a_cell() -> None:
    half = plugins.load("tasks", "classification", "task")
    targets = ['["a", "b"]', '["a"]', "[]"]
    assert guess_task("labels", targets).why == "lists of labels"
    task = half.Task.fit(half.Config(), targets)
    assert task.multi_label
    assert task.labels == ["a", "b"]
    assert task.target('["b"]').tolist() == task.target(["b"]).tolist()


def test_balanced_labels_are_chosen_by_all_of_them() -> None:
    half = plugins.load("tasks", "classification", "task")
    usual, balanced = (half.Task.fit(half.Config(class_weights=how), ["a", "b"]) for how in ("none", "balanced"))
    assert (usual.primary_metric, balanced.primary_metric) == ("accuracy", "f1_macro")


def test_sure_answers_do_not_tie_on_the_roc_curve() -> None:
    half = plugins.load("tasks", "classification", "task")
    task = half.Task.fit(half.Config(), ["a", "b"])
    logits = np.stack([np.zeros(4), [20.0, 21.0, 22.0, 23.0]], axis=1)
    assert task.evaluate(logits, np.array([0, 0, 1, 1]))["metrics"]["auroc"] == 1


def test_of_lists_balanced_weighs_the_rows_with_a_label_as_those_without() -> None:
    half = plugins.load("tasks", "classification", "task")
    lists = [["a"] if number % 10 == 0 else ["b", "a"][: 1 + number % 3 // 2] for number in range(1000)] + [["c"]]
    task = half.Task.fit(half.Config(class_weights="balanced"), lists)
    with_it = np.array([sum(label in one for one in lists) for label in task.labels])
    assert task.weights[:2] == pytest.approx(((len(lists) - with_it) / with_it)[:2])
    assert task.weights[2] == 100  # at most
    head = plugins.load("tasks", "classification", "head").Head(task.head_config, TrunkConfig.of_size("tiny", 9))
    targets = torch.from_numpy(np.stack([task.target(one) for one in lists]))
    losses = F.binary_cross_entropy_with_logits(
        torch.zeros(len(lists), 3), targets[:, :3], pos_weight=head.weights, reduction="none"
    )
    for number in range(2):
        positive = targets[:, number] == 1
        assert losses[positive, number].sum().item() == pytest.approx(losses[~positive, number].sum().item(), rel=1e-4)


@pytest.mark.parametrize(("rows", "least"), [(1, 0.8), (18, 0.4), (4000, 0.08)])
def test_few_rows_that_are_all_right_do_not_make_it_sure(rows: int, least: float) -> None:
    task = task_of("classification", "x", [Sample(Path("x"), i, {"x": str(i)}, None) for i in range(2)])
    targets = np.arange(rows) % 2
    task.calibrate(np.eye(2)[targets], targets)
    assert least < task.temperature < 2 * least


def test_balanced_weights_have_mean_one_over_the_rows_and_favour_the_rare() -> None:
    half = plugins.load("tasks", "classification", "task")
    targets = ["common"] * 90 + ["rare"] * 10
    task = half.Task.fit(half.Config(class_weights="balanced"), targets)
    common, rare = task.weights
    assert rare / common == pytest.approx(9)
    assert 0.9 * common + 0.1 * rare == pytest.approx(1)


def test_labels_keep_their_kind_and_digits_their_zeros() -> None:
    half = plugins.load("tasks", "classification", "task")
    assert half.Task.fit(half.Config(), ["007", "7"]).labels == ["007", "7"]
    assert half.Task.fit(half.Config(), [1, 2, 2]).labels == [1, 2]
    folded = half.Task.fit(half.Config(ignore_case=True), ["No", "No", "no ", "Yes"])
    assert folded.labels == ["No", "Yes"]
    assert folded.target("NO") == 0


def test_labels_that_no_row_has_do_not_lower_the_mean_over_labels() -> None:
    targets = np.array([[1, 0, 0, 0], [0, 1, 0, 0]])
    found = multi_label(
        np.array([[0.9, 0.1, 0.2], [0.1, 0.9, 0.2]]), targets, ["a", "b", "c"], np.full(3, 0.5), few=False
    )
    assert found["metrics"]["f1_macro"] == 1
