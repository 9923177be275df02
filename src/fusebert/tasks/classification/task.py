"""One label of several (also of two), or any number of labels: targets, answers, calibrated probabilities, metrics."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field
from scipy.special import expit, log_softmax, softmax

from fusebert.errors import DataError, InputError, UsageError, named
from fusebert.modalities.values import as_list
from fusebert.section import Section
from fusebert.spill import Spill, chunks
from fusebert.storage import read_json, write_json
from fusebert.tasks.classification import thresholds
from fusebert.tasks.classification.labels import FEW, Key, Label, fold, key_of, of_one_kind, spelling_of
from fusebert.types import Answer

UNSEEN = -1
"""Target of a label that training never saw: always wrong."""
MAX_CLASSES = 100_000
MOST_CURVES = 1000
"""Of more classes no area under a curve each is computed, and no confusion matrix: minutes and gigabytes."""
SAME = {"0": "false", "1": "true", "false": "0", "true": "1"}
"""How one of two labels may be written otherwise."""
HEAVIEST = 100.0
CALIBRATION_ROWS, CALIBRATION_LOGITS, DECISION_LOGITS = 20_000, 2**24, 2**22
"""At most so many say how sure answers may be, and which are given."""


class Config(Section):
    """How labels are learnt and scored."""

    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: rare labels weigh more in training, as 1 / frequency; of lists, rows with a label as "
        "those without; probabilities stay those of labels as they occur",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the target spread over all labels (Szegedy 2015)"
    )
    pooling: Literal["first", "mean"] = Field(
        "first", description="what stands for a row: BERT's pooler over [CLS], or the mean of all its tokens"
    )
    ignore_case: bool = Field(False, description="labels that differ only in case are one")
    metric: Literal["accuracy", "f1_macro", "f1_micro", "auroc"] | None = Field(
        None,
        description="chooses the epoch whose weights are kept, and, if it is an F1, the thresholds of answers: "
        "accuracy; f1_macro, over the labels that the rows have, where they are balanced; or f1_micro for lists of "
        "labels",
    )
    unseen_labels: Literal["refuse", "wrong"] = Field(
        "refuse", description="labels outside train in validation or test: refuse the row, or count its answer as wrong"
    )


class Task:
    """Classification over the labels of the training rows.

    Args:
        labels: every label, in a fixed order; the class of a logit is its place here.
        multi_label: a row has any number of labels, given as a list.
        frequencies: float[C], the share of the training rows with each label.
        temperature: logits are divided by it before they become probabilities (Guo et al. 2017).
        thresholds: float[C]; an answer is the label whose probability is largest beside its threshold, or each label
            whose probability reaches it. None for the likeliest label, or each that is as likely as not.
        by_hand: whether the user has set them.
    """

    name = "classification"
    higher_is_better = True
    limits = ("A probability is calibrated on the validation rows; on other data it may be too sure.",)

    def __init__(
        self,
        config: Config,
        labels: Sequence[Label],
        multi_label: bool,
        frequencies: Sequence[float],
        temperature: float = 1.0,
        thresholds: Sequence[float] | None = None,
        by_hand: bool = False,
    ) -> None:
        self.config, self.labels, self.multi_label = config, list(labels), multi_label
        self._default = np.full(len(self.labels), 0.5 if multi_label else 1 / len(self.labels))
        self.frequencies = np.array(frequencies, dtype=np.float64).reshape(len(self.labels))
        self.thresholds = self._default if thresholds is None else np.array(thresholds).reshape(len(self.labels))
        self.temperature, self.by_hand = temperature, by_hand
        usual = "f1_macro" if config.class_weights == "balanced" else "accuracy"
        usual = "f1_micro" if multi_label else usual
        self.primary_metric = config.metric or usual
        self._answers_for = usual if self.primary_metric == "auroc" else self.primary_metric
        named = ["f1_micro", "f1_macro", "accuracy"] if multi_label else ["accuracy", "f1_macro"]
        named += ["auroc"] if len(self.labels) <= MOST_CURVES else []
        self.metric_names = [*named, *([] if multi_label else ["expected_calibration_error"]), "loss"]
        self._class = {fold(key_of(label), config.ignore_case): number for number, label in enumerate(self.labels)}
        self._spelled = {spelling_of(key): number for key, number in self._class.items()}

    @staticmethod
    def read(raw: Any) -> list[Key]:
        """The labels of a raw target, each with its kind."""
        labels = as_list(raw)
        return list(dict.fromkeys(key_of(label) for label in ([raw] if labels is None else labels)))

    @classmethod
    def fit(cls, config: Config, targets: Sequence[Any]) -> Self:
        are_lists = [as_list(target) is not None for target in targets]
        lists = 2 * sum(are_lists) > len(targets)
        odd = [target for target, is_list in zip(targets, are_lists, strict=True) if is_list != lists]
        if len(odd) > FEW * len(targets):
            raise DataError(
                f"{sum(are_lists)} of {len(targets)} targets are lists and the others are not, such as {odd[0]!r:.60}; "
                "use lists for all or for none"
            )
        alike = [target for target, is_list in zip(targets, are_lists, strict=True) if is_list == lists]
        spelled = Counter(label for target in alike for label in cls.read(target))
        found: Counter[Key] = Counter()
        spelling: dict[Key, Label] = {}
        for key, count in spelled.most_common():
            folded = fold(key, config.ignore_case)
            spelling.setdefault(folded, key[1])
            found[folded] += count
        found = of_one_kind(found, allow_few=config.unseen_labels == "refuse")
        if len(found) < 2:
            raise DataError(
                f"the target has {len(found)} label{'' if len(found) == 1 else 's'}; classification needs at least two"
            )
        if config.metric == "f1_micro" and not lists:
            raise UsageError("task.metric=f1_micro is for lists of labels; of single ones it is the accuracy")
        if config.metric == "auroc" and len(found) > MOST_CURVES:
            raise UsageError(
                f"task.metric=auroc: the target has {len(found):,} labels; at most {MOST_CURVES:,} have it"
            )
        if len(found) > MAX_CLASSES:
            raise DataError(f"the target has {len(found):,} labels; at most {MAX_CLASSES:,} can be learnt")
        task = cls(config, [spelling[label] for label in sorted(found)], lists, [1 / len(found)] * len(found))
        task.adjust(targets)
        return task

    def adjust(self, targets: Sequence[Any]) -> None:
        """Count how often the labels occur in `targets`, those of the rows that are learnt from."""
        found = Counter[int]()
        rows = 0
        for raw in targets:
            with suppress(InputError):  # of another kind than the others: reported with its row
                found.update(set(self._numbers(raw)))
                rows += 1
        self.frequencies = np.array([max(1, found[number]) for number in range(len(self.labels))]) / max(1, rows)

    def unshared(self, learnt: Sequence[Any], scored: Sequence[Any]) -> list[str]:
        """In words: labels that only the rows to learn from have, or only validation rows, by their raw targets."""
        in_training, in_validation = self._occurring(learnt), self._occurring(scored)
        unscored, unlearnt = (
            [self.labels[number] for number in sorted(lacking)]
            for lacking in (in_training - in_validation, in_validation - in_training)
        )
        said = []
        if unscored:
            said.append(f"no validation row has the label {named(unscored)}: scores on them say nothing of it")
        if unlearnt:
            said.append(f"only validation rows have the label {named(unlearnt)}: it is not learnt")
        return said

    def _occurring(self, targets: Sequence[Any]) -> set[int]:
        found: set[int] = set()
        for raw in targets:
            with suppress(InputError):
                found.update(self._numbers(raw))
        return found - {UNSEEN}

    @property
    def weights(self) -> np.ndarray:
        """float[C], what each class weighs in the loss: N / (C n), so that all weigh the same; of lists, what rows with
        the label weigh beside those without, so that both weigh the same."""
        if self.config.class_weights != "balanced":
            return np.ones(len(self.labels))
        if self.multi_label:
            return np.clip((1 - self.frequencies) / self.frequencies, 1 / HEAVIEST, HEAVIEST)
        return np.asarray(1 / (len(self.labels) * self.frequencies))

    @property
    def head_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "outputs": len(self.labels),
            "multi_label": self.multi_label,
            "weights": self.weights.tolist(),
            "label_smoothing": self.config.label_smoothing,
            "pooling": self.config.pooling,
        }

    def target(self, raw: Any) -> np.ndarray:
        """int64[] class, or float32[C + 1] with 1 for each label of the row, and how many of its labels are unseen."""
        numbers = self._numbers(raw)
        if not self.multi_label:
            return np.array(numbers[0], dtype=np.int64)
        out = np.zeros(len(self.labels) + 1, dtype=np.float32)
        for number in numbers:
            if number == UNSEEN:
                out[-1] += 1
            else:
                out[number] = 1
        return out

    def _numbers(self, raw: Any) -> list[int]:
        """The class of each label of a raw target."""
        labels = as_list(raw) if self.multi_label else [raw]
        if labels is None:
            raise InputError(f"a list of labels expected, found {raw!r}")
        return [self._number(label) for label in labels]

    def _number(self, label: Any) -> int:
        number = self._find(label)
        if number == UNSEEN and self.config.unseen_labels == "refuse":
            raise InputError(
                f"label {label!r} does not occur in the training rows ({named(self.labels)}); "
                "mend it, or train with task.unseen_labels=wrong to count it as a wrong answer"
            )
        return number

    def _find(self, label: Any) -> int:
        """Its class: that of the same kind, or else of the same spelling, as a csv has no kinds."""
        key = fold(key_of(label), self.config.ignore_case)
        number = self._class.get(key, self._spelled.get(spelling_of(key), UNSEEN))
        if number == UNSEEN and len(self.labels) == 2:
            number = self._spelled.get(SAME.get(spelling_of(key), ""), UNSEEN)
        return number

    @staticmethod
    def collate(targets: Sequence[np.ndarray], starts: np.ndarray) -> np.ndarray:  # noqa: ARG004
        """The targets, one under the other."""
        return np.stack(targets)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """float[B, C], calibrated; rows sum to one unless multi-label."""
        scaled = self._scaled(logits)
        return expit(scaled) if self.multi_label else softmax(scaled, axis=-1)  # type: ignore[no-any-return]

    def _scaled(self, logits: np.ndarray) -> np.ndarray:
        """float64[B, C], logits of the labels as they occur: a weight multiplies the odds that are learnt. It is taken
        off last, so that a model that knows nothing, at any temperature, gives the frequencies."""
        return np.asarray(logits.astype(np.float64) / self.temperature - np.log(self.weights))

    def calibrate(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Fit the temperature by the likelihood of validation rows (Guo et al. 2017), then the thresholds.

        Few rows say little: where all of them are right, the likeliest temperature is next to nothing. So doubling or
        halving it has to be worth a nat over all rows.
        """
        from scipy.optimize import minimize_scalar

        self.temperature = 1.0
        some, wanted = self._some(logits, targets, CALIBRATION_LOGITS)
        if len(some):
            answers = len(self.labels) if self.multi_label else 1  # of which `_losses` has the mean
            some, shift = some.astype(np.float64), np.log(self.weights)

            def cost(log_t: float) -> float:
                of_rows = self._losses(some / math.exp(log_t) - shift, wanted)
                return answers * float(of_rows.sum()) + (log_t / math.log(2)) ** 2

            fit = minimize_scalar(cost, bounds=(-3, 3), method="bounded")
            self.temperature = float(math.exp(fit.x))
        self.decide(logits, targets)

    def decide(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Choose the thresholds with the highest F1 on validation rows, where an F1 is what is asked for."""
        some, wanted = self._some(logits, targets, DECISION_LOGITS)
        self.thresholds, self.by_hand = self._default, False
        if self._answers_for == "accuracy" or not len(some):
            return
        probabilities = self.probabilities(some)
        if self.multi_label:
            self.thresholds = thresholds.of_lists(probabilities, wanted[:, :-1] > 0, self._answers_for)
        else:
            self.thresholds = thresholds.of_labels(probabilities, wanted, self.frequencies)

    def answering_from(self, threshold: float) -> Self:
        """The same with a threshold that the user has set: of the second of two labels, or of all labels of lists.

        Raises:
            UsageError: it is not between 0 and 1, or a row has one of more than two labels.
        """
        if not self.multi_label and len(self.labels) > 2:
            raise UsageError(f"a threshold is for two labels, or for lists of them; this model has {len(self.labels)}")
        if not 0 < threshold < 1:
            raise UsageError(f"a threshold lies between 0 and 1, not at {threshold}")
        changed = copy.copy(self)
        of_all = np.full(len(self.labels), threshold)
        changed.thresholds, changed.by_hand = of_all if self.multi_label else np.array([1 - threshold, threshold]), True
        return changed

    def _some(self, logits: np.ndarray, targets: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows with known labels, drawn once where they are many: the table may be sorted, or have a period."""
        rows = min(CALIBRATION_ROWS, most // len(self.labels))
        if len(logits) > rows:
            drawn = np.random.default_rng(0).choice(len(logits), rows, replace=False)
            logits, targets = logits[drawn], targets[drawn]
        known = slice(None) if self.multi_label else targets != UNSEEN
        return logits[known], np.asarray(targets[known])

    def _losses(self, scaled: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Cross-entropy of each row whose label is known, from `_scaled` logits."""
        if self.multi_label:
            return np.asarray((np.logaddexp(0, scaled) - scaled * targets[:, :-1]).mean(axis=1))
        seen = targets != UNSEEN
        return np.asarray(-log_softmax(scaled[seen], axis=-1)[np.arange(seen.sum()), targets[seen]])

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        """The label, or of lists every label, that the thresholds choose, with its probability."""
        return [self._answer(row, top) for row in self.probabilities(logits)]

    def _answer(self, row: np.ndarray, top: int) -> Answer:
        best = np.argsort(-row, kind="stable")[: max(top, 1)]
        ranked = [(self.labels[number], float(row[number])) for number in best] if top > 1 else []
        if not self.multi_label:
            (answer,) = thresholds.answers(row[None], self.thresholds)
            return Answer(self.labels[answer], float(row[answer]), ranked)
        chosen = row >= self.thresholds
        sure = float(np.prod(np.where(chosen, row, 1 - row)))
        return Answer([self.labels[number] for number in np.flatnonzero(chosen)], sure, ranked)

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """Whether the answer is the label, or exactly the labels, up to case where the task ignores it."""
        wanted, found = ({self._find(label) for _, label in self.read(labels)} for labels in (raw, answer))
        return wanted == found

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """`metrics`, `per_class`, and for single labels `confusion` and `calibration`; `decision` where answers are not
        simply the likeliest ones."""
        # scikit-learn takes seconds to import; answers need none of it
        from fusebert.tasks.classification import metrics

        spilled, losses = Spill(), []
        for part in chunks(logits):
            spilled.append(self.probabilities(logits[part]))  # in 64 bits, as sure answers tie in fewer
            losses.append(self._losses(self._scaled(logits[part]), np.asarray(targets[part])))
        probabilities = spilled.array()
        report = metrics.multi_label if self.multi_label else metrics.single_label
        found = report(probabilities, targets, self.labels, self.thresholds, few=len(self.labels) <= MOST_CURVES)
        if self.primary_metric in found["metrics"]:
            found["metrics"] = {self.primary_metric: 0.0} | found["metrics"]  # the first one stands for all
        if any(map(len, losses)):  # else no row has a label that training had
            found["metrics"]["loss"] = float(np.concatenate(losses).mean())
        unseen = targets[:, -1].sum() if self.multi_label else (targets == UNSEEN).sum()
        if unseen:
            found["unseen_labels"] = int(unseen)
        if not np.array_equal(self.thresholds, self._default):
            likeliest = metrics.answer_scores(probabilities, targets, self._default)
            found["decision"] = self._decision | {"otherwise": likeliest}
            for row, threshold in zip(found["per_class"], self.thresholds.tolist(), strict=True):
                row["threshold"] = threshold
        return found

    @property
    def _decision(self) -> dict[str, Any]:
        low, high = self.thresholds.min(), self.thresholds.max()
        if self.multi_label:
            rule = f"a label is given where its probability is {low:.3g} or more"
            if low < high:
                rule = f"a label is given where its probability reaches its threshold, {low:.3g} to {high:.3g}"
        elif len(self.labels) == 2:
            rule = f"{self.labels[1]!r} is the answer where its probability is above {self.thresholds[1]:.3g}"
        else:
            rule = "rare labels are preferred: the answer has the largest probability beside a power of its frequency"
        return {"rule": rule, "chosen_for": None if self.by_hand else self._answers_for}

    def score(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """The primary metric alone, of few rows; with many labels `evaluate` takes a hundred times as long."""
        from fusebert.tasks.classification import metrics

        probabilities = self.probabilities(logits)
        if self.primary_metric == "auroc":
            return metrics.auroc(probabilities, targets)
        return metrics.answer_scores(probabilities, targets, self.thresholds)[self.primary_metric]

    def save(self, folder: Path) -> None:
        saved = {"config": self.config.model_dump(), "labels": self.labels, "multi_label": self.multi_label}
        saved |= {"frequencies": self.frequencies.tolist(), "temperature": self.temperature}
        write_json(folder / "task.json", saved | {"thresholds": self.thresholds.tolist(), "by_hand": self.by_hand})

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "task.json")
        return cls(Config(**saved.pop("config")), **saved)
