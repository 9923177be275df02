"""One label of several (also of two), or any number of labels: targets, answers, calibrated probabilities, metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field
from scipy.special import expit, log_softmax, softmax

from fusebert.config import Section
from fusebert.errors import DataError, InputError, UsageError
from fusebert.modalities.values import as_list
from fusebert.spill import Spill, chunks
from fusebert.storage import read_json, write_json
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
CALIBRATION_ROWS, CALIBRATION_LOGITS = 20_000, 2**24
"""At most so many say how sure answers may be."""


class Config(Section):
    """How labels are learnt and scored."""

    class_weights: Literal["none", "balanced"] = Field(
        "none",
        description="balanced: rare labels weigh more, as 1 / frequency; of lists, those with it as those without",
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
        description="chooses the epoch whose weights are kept: accuracy; f1_macro, over the labels that the rows have, "
        "where they are balanced; or f1_micro for lists of labels",
    )
    unseen_labels: Literal["refuse", "wrong"] = Field(
        "refuse", description="labels outside train in validation or test: refuse the row, or count its answer as wrong"
    )


class Task:
    """Classification over the labels of the training rows.

    Args:
        labels: every label, in a fixed order; the class of a logit is its place here.
        multi_label: a row has any number of labels, given as a list.
        weights: float[C], what each class weighs in the loss; of lists, what rows with the label weigh beside those
            without.
        temperature: logits are divided by it before they become probabilities (Guo et al. 2017).
    """

    name = "classification"
    higher_is_better = True

    def __init__(
        self,
        config: Config,
        labels: Sequence[Label],
        multi_label: bool,
        weights: Sequence[float],
        temperature: float = 1.0,
    ) -> None:
        self.config, self.labels, self.multi_label = config, list(labels), multi_label
        self.weights, self.temperature = list(weights), temperature
        usual = "f1_macro" if config.class_weights == "balanced" else "accuracy"
        self.primary_metric = config.metric or ("f1_micro" if multi_label else usual)
        named = ["f1_micro", "f1_macro", "accuracy"] if multi_label else ["accuracy", "f1_macro"]
        named += ["auroc"] if len(self.labels) <= MOST_CURVES else []
        self.metric_names = [*named, *([] if multi_label else ["expected_calibration_error"]), "loss"]
        self._class = {fold(key_of(label), config.ignore_case): number for number, label in enumerate(self.labels)}
        self._spelled = {spelling_of(key): number for key, number in self._class.items()}

    @property
    def limits(self) -> list[str]:
        """What probabilities mean, and where they may be wrong."""
        if self.config.class_weights == "balanced":
            return ["Probabilities are as if all labels were equally frequent: rare ones are given higher ones."]
        return ["A probability is calibrated on the validation rows; on other data it may be too sure."]

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
        task = cls(config, [spelling[label] for label in sorted(found)], lists, [1.0] * len(found))
        task.adjust(targets)
        return task

    def adjust(self, targets: Sequence[Any]) -> None:
        """Weigh the labels by how often they occur in `targets`, those of the rows that are learnt from.

        By N / (C n), so that all classes weigh the same; of lists, rows with the label as heavily as those without.
        """
        if self.config.class_weights != "balanced":
            return
        rows, found = 0, np.zeros(len(self.labels))
        for raw in targets:
            with suppress(InputError):  # of another kind than the others: reported with its row
                target = self.target(raw)
                found[target[:-1] > 0 if self.multi_label else target] += 1
                rows += 1
        counts = np.maximum(1, found)
        if self.multi_label:
            self.weights = np.clip((rows - counts) / counts, 1 / HEAVIEST, HEAVIEST).tolist()
        else:
            self.weights = (rows / (len(counts) * counts)).tolist()

    @property
    def head_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "outputs": len(self.labels),
            "multi_label": self.multi_label,
            "weights": self.weights,
            "label_smoothing": self.config.label_smoothing,
            "pooling": self.config.pooling,
        }

    def target(self, raw: Any) -> np.ndarray:
        """int64[] class, or float32[C + 1] with 1 for each label of the row, and how many of its labels are unseen."""
        if not self.multi_label:
            return np.array(self._number(raw), dtype=np.int64)
        labels = as_list(raw)
        if labels is None:
            raise InputError(f"a list of labels expected, found {raw!r}")
        out = np.zeros(len(self.labels) + 1, dtype=np.float32)
        for label in labels:
            number = self._number(label)
            if number == UNSEEN:
                out[-1] += 1
            else:
                out[number] = 1
        return out

    def _number(self, label: Any) -> int:
        number = self._find(label)
        if number == UNSEEN and self.config.unseen_labels == "refuse":
            known = ", ".join(map(repr, self.labels[:5])) + (", ..." if len(self.labels) > 5 else "")
            raise InputError(
                f"label {label!r} does not occur in the training rows ({known}); "
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
        scaled = logits.astype(np.float64) / self.temperature
        return expit(scaled) if self.multi_label else softmax(scaled, axis=-1)  # type: ignore[no-any-return]

    def calibrate(self, logits: np.ndarray, targets: np.ndarray) -> None:
        """Fit the temperature by the likelihood of validation rows (Guo et al. 2017).

        Few rows say little: where all of them are right, the likeliest temperature is next to nothing. So doubling or
        halving it has to be worth a nat over all rows.
        """
        from scipy.optimize import minimize_scalar

        self.temperature = 1.0
        most = min(CALIBRATION_ROWS, CALIBRATION_LOGITS // len(self.labels))
        if len(logits) > most:  # the table may be sorted, or have a period
            some = np.random.default_rng(0).choice(len(logits), most, replace=False)
            logits, targets = logits[some], targets[some]
        if self.multi_label or (targets != UNSEEN).any():
            answers = len(self.labels) if self.multi_label else 1  # of which `_losses` has the mean
            logits = logits.astype(np.float64)

            def cost(log_t: float) -> float:
                of_rows = self._losses(logits / math.exp(log_t), targets)
                return answers * float(of_rows.sum()) + (log_t / math.log(2)) ** 2

            fit = minimize_scalar(cost, bounds=(-3, 3), method="bounded")
            self.temperature = float(math.exp(fit.x))

    def _losses(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Cross-entropy of each row whose label is known."""
        logits = logits.astype(np.float64, copy=False)
        if self.multi_label:
            return np.asarray((np.logaddexp(0, logits) - logits * targets[:, :-1]).mean(axis=1))
        seen = targets != UNSEEN
        return np.asarray(-log_softmax(logits[seen], axis=-1)[np.arange(seen.sum()), targets[seen]])

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        """The likeliest label, or for multi-label every label at least as likely as not."""
        return [self._answer(row, top) for row in self.probabilities(logits)]

    def _answer(self, row: np.ndarray, top: int) -> Answer:
        best = np.argsort(-row, kind="stable")[: max(top, 1)]
        ranked = [(self.labels[number], float(row[number])) for number in best] if top > 1 else []
        if not self.multi_label:
            return Answer(self.labels[best[0]], float(row[best[0]]), ranked)
        chosen = np.flatnonzero(row >= 0.5)
        sure = float(np.prod(np.maximum(row, 1 - row)))
        return Answer([self.labels[number] for number in chosen], sure, ranked)

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """Whether the answer is the label, or exactly the labels, up to case where the task ignores it."""
        wanted, found = ({self._find(label) for _, label in self.read(labels)} for labels in (raw, answer))
        return wanted == found

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """`metrics`, `per_class`, and for single labels `confusion` and `calibration`."""
        # scikit-learn takes seconds to import; answers need none of it
        from fusebert.tasks.classification import metrics

        probabilities, losses = Spill(), []
        for part in chunks(logits):
            probabilities.append(self.probabilities(logits[part]))  # in 64 bits, as sure answers tie in fewer
            losses.append(self._losses(logits[part] / self.temperature, np.asarray(targets[part])))
        report = metrics.multi_label if self.multi_label else metrics.single_label
        found = report(probabilities.array(), targets, self.labels, few=len(self.labels) <= MOST_CURVES)
        if self.primary_metric in found["metrics"]:
            found["metrics"] = {self.primary_metric: 0.0} | found["metrics"]  # the first one stands for all
        found["metrics"]["loss"] = float(np.concatenate(losses).mean()) if any(map(len, losses)) else 0.0
        unseen = targets[:, -1].sum() if self.multi_label else (targets == UNSEEN).sum()
        if unseen:
            found["unseen_labels"] = int(unseen)
        return found

    def score(self, logits: np.ndarray, targets: np.ndarray) -> float:
        """The primary metric alone, of few rows; with many labels `evaluate` takes a hundred times as long."""
        from fusebert.tasks.classification.metrics import single_label_score

        if self.multi_label:
            return float(self.evaluate(logits, targets)["metrics"].get(self.primary_metric, math.nan))
        return single_label_score(self.primary_metric, self.probabilities(logits), targets)

    def save(self, folder: Path) -> None:
        saved = {"config": self.config.model_dump(), "labels": self.labels, "multi_label": self.multi_label}
        write_json(folder / "task.json", saved | {"weights": self.weights, "temperature": self.temperature})

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "task.json")
        return cls(Config(**saved.pop("config")), **saved)
