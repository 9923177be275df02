"""Which of many belongs to this one? Two vectors a row, one for each side; what belongs together lies close."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from fusebert.modalities.base import present
from fusebert.modalities.values import content_key
from fusebert.section import Column, Section, one_or_more
from fusebert.storage import read_json, write_json
from fusebert.tasks.ranking import ndcg_at, recall_at, reciprocal_rank
from fusebert.types import Answer

QUERY_SCORES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    **{f"recall_at_{most}": partial(recall_at, most) for most in (10, 1, 5)},
    "mrr": reciprocal_rank,
    "ndcg_at_10": partial(ndcg_at, 10),
}
"""Float[Q] from the ranks int[Q] of what belongs to each query; a metric is their mean."""
AMONG = 100
"""Rows that a query is often ranked among, its own and others at random; here the mean over all ways to draw them."""
MOST_QUERIES, QUERIES_AT_ONCE = 10_000, 256
"""Of more rows, so many seek their other side, drawn once; they seek it among all."""
ROUNDING = 1e-6
"""By which equal cosines may differ: a product of matrices adds up in another order where they have another shape."""


Columns = Annotated[tuple[Column, ...], BeforeValidator(one_or_more)]
"""One or several, `image` or `[image, caption]`."""


class Config(Section):
    """What belongs together, and how it is compared."""

    left: Columns = Field(min_length=1, description="columns of one side, such as a picture")
    right: Columns = Field(min_length=1, description="columns of the other side, such as its name")
    hard_negative: Column | None = Field(
        None, description="column with what looks like the right side of its row and does not belong to it"
    )
    metric: Literal["recall_at_10", "recall_at_5", "recall_at_1", "mrr", "ndcg_at_10"] = Field(
        "recall_at_10", description="chooses the epoch whose weights are kept"
    )
    vector_size: int = Field(128, ge=2, le=4096, description="numbers in a vector")
    pooling: Literal["first", "mean"] = Field(
        "mean", description="what stands for a side: BERT's pooler over [CLS], or the mean of all its tokens"
    )

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if both := set(self.left) & set(self.right):
            raise ValueError(f"task.left and task.right both name {', '.join(sorted(both))}")
        if self.hard_negative is not None:
            if self.hard_negative in self.left + self.right:
                raise ValueError(f"task.hard_negative={self.hard_negative} is a column of a side itself")
            if len(self.right) > 1:
                raise ValueError("task.hard_negative stands in for one column; task.right has several")
        return self


class Task:
    """Matching. It needs no target column: the two sides of a row belong together, and no two rows else."""

    name = "matching"
    needs_target = False
    higher_is_better = True
    metric_names: Sequence[str] = (
        *QUERY_SCORES,
        "left_to_right_recall_at_10",
        "right_to_left_recall_at_10",
        f"recall_at_10_of_{AMONG}",
        "chance_recall_at_10",
    )

    def __init__(self, config: Config) -> None:
        self.config, self.primary_metric = config, config.metric
        self.sides = (config.left, config.right)
        self.hard_negatives = {config.right[0]: config.hard_negative} if config.hard_negative else {}

    @staticmethod
    def read(raw: Any) -> Any:
        """Matching has no targets to read."""
        return raw

    @classmethod
    def fit(cls, config: Config, targets: Sequence[Any]) -> Self:
        return cls(config)

    @property
    def head_config(self) -> dict[str, Any]:
        return {"name": self.name, "vector_size": self.config.vector_size, "pooling": self.config.pooling}

    def target(self, raw: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """int64[S], equal for equal contents, from the values of each of a row's S sides: one picture may have several
        names. A side with nothing has the content of the others: it belongs to them, and to no other nothing."""
        sides = [present(values, list(values)) for values in raw]
        whole = [one for parts in sides for one in parts]
        return np.array([_content(parts or [(-1, whole)]) for parts in sides])

    @staticmethod
    def collate(targets: Sequence[np.ndarray], starts: np.ndarray) -> np.ndarray:  # noqa: ARG004
        """The targets, one under the other: int64[B, S] of S B packed rows, left, right and hard negative in turn."""
        return np.stack(targets)

    def decode(self, logits: np.ndarray, top: int = 1) -> list[Answer]:
        """The cosine of the two sides, in [-1, 1], from float[B, 2 * vector_size]."""
        left, right = np.split(logits.astype(np.float64), 2, axis=1)
        return [Answer(round(float(value), 6)) for value in (left * right).sum(axis=1)]

    def is_right(self, raw: Any, answer: Any) -> bool | None:
        """A similarity is more or less right."""
        return None

    def evaluate(self, logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
        """Recall, mean reciprocal rank and NDCG of finding each row's other side among all rows', both ways.

        A query's rank counts what is more similar than the best of what belongs to it; ties count as more similar.

        Args:
            logits: float[B, 2 * vector_size], vectors of length 1.
            targets: int64[B, 2], contents of the sides.

        Returns:
            `metrics`, and `queries`, how many rows sought their other side, where these are not all.
        """
        ways = dict(zip(("left_to_right", "right_to_left"), _both_ways(logits, targets), strict=True))
        ranks, strangers = np.concatenate(list(ways.values()), axis=1)
        scores = {name: score(ranks) for name, score in QUERY_SCORES.items()}
        scores |= {f"{way}_recall_at_10": recall_at(10, found[0]) for way, found in ways.items()}
        if len(logits) > AMONG:
            scores[f"recall_at_10_of_{AMONG}"] = _among(ranks, strangers)
        scores["chance_recall_at_10"] = np.concatenate([_chance(targets), _chance(targets[:, ::-1])])
        first = {self.primary_metric: scores[self.primary_metric]}
        metrics = {name: float(of_queries.mean()) for name, of_queries in (first | scores).items()}
        asked = len(_asked(len(logits)))
        return {"metrics": metrics} | ({"queries": asked} if asked < len(logits) else {})

    def score_rows(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """float[B], each row's part in the metric, its sides sought among those of all rows; NaN of those that do not
        seek theirs."""
        scores = np.full(len(logits), np.nan)
        scores[_asked(len(logits))] = np.mean(
            [QUERY_SCORES[self.primary_metric](ranks) for ranks, _ in _both_ways(logits, targets)], axis=0
        )
        return scores

    def save(self, folder: Path) -> None:
        write_json(folder / "task.json", {"config": self.config.model_dump()})

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        return cls(Config(**read_json(folder / "task.json")["config"]))


def _content(values: Sequence[tuple[int, Any]]) -> int:
    told = repr([(place, content_key(value)) for place, value in values])
    digest = hashlib.blake2b(told.encode(errors="backslashreplace"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _among(ranks: np.ndarray, strangers: np.ndarray) -> np.ndarray:
    """float[B]: the chance to be among the first ten beside AMONG - 1 strangers, of the rank beside all of them."""
    from scipy.stats import hypergeom

    strangers = np.maximum(1, strangers)  # of none, the first drawn is the right one
    return np.asarray(hypergeom.cdf(9, strangers, ranks - 1, np.minimum(AMONG - 1, strangers)))


def _asked(rows: int) -> np.ndarray:
    """int64[Q], the rows that seek their other side, in order."""
    if rows <= MOST_QUERIES:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, MOST_QUERIES, replace=False))


def _chance(contents: np.ndarray) -> np.ndarray:
    """float[Q]: of each query, the chance that what belongs to it is among the first ten, all in random order.

    Rows of the same content, such as a picture that several rows show, stand together in any order. Exact where each
    content has as many rows as any other.

    Args:
        contents: int64[B, 2], of the query and of what is to be found.
    """
    from scipy.stats import hypergeom

    (left, _), (right, with_right) = (_numbered(side) for side in contents.T)
    lefts, rights = np.unique(np.stack([left, right]), axis=1)  # each pair once
    own = np.bincount(lefts)
    others = len(with_right) - own
    rows_each = (len(contents) - np.bincount(lefts, with_right[rights])) / np.maximum(1, others)
    first = np.minimum(np.ceil(10 / np.maximum(1, rows_each)).astype(int), own + others)
    chances = 1 - hypergeom.pmf(0, own + others, own, first)
    return np.asarray(chances[left[_asked(len(contents))]])


def _numbered(contents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The number int64[B] of each row's content, and of each content how many rows have it."""
    _, numbers, rows = np.unique(contents, return_inverse=True, return_counts=True)
    return numbers, rows


def _both_ways(logits: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """`_ranks` of each right for its left, and of each left for its right."""
    left, right = np.split(np.asarray(logits), 2, axis=1)
    return [_ranks(left, right, targets), _ranks(right, left, targets[:, ::-1])]


def _ranks(queries: np.ndarray, found: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """int64[2, Q]: of each query, the rank from 1 of the best row that belongs to it, and how many do not.

    Args:
        queries, found: float[B, D].
        contents: int64[B, 2], of the queries and of what is to be found.
    """
    asked, belonging, ranks = _asked(len(queries)), _belonging(contents), []
    for start in range(0, len(asked), QUERIES_AT_ONCE):
        some = asked[start : start + QUERIES_AT_ONCE]
        for query, scores in zip(some, queries[some] @ found.T, strict=True):
            own = belonging(query)
            enough = scores[own].max() - ROUNDING
            rank = 1 + np.count_nonzero(scores >= enough) - np.count_nonzero(scores[own] >= enough)
            ranks.append((rank, len(scores) - len(own)))
    return np.array(ranks).T


def _belonging(contents: np.ndarray) -> Callable[[int], np.ndarray]:
    """A function that names the rows, int64[rows], whose content to be found is that of any row with a query's content:
    all that stands beside the same picture belongs to it, wherever it stands.

    Args:
        contents: int64[B, 2], of the queries and of what is to be found.
    """
    (query, queries), (found, founds) = (_numbered(side) for side in contents.T)
    rows_of_query, rows_of_found = (
        np.split(np.argsort(numbers, kind="stable"), np.cumsum(rows)[:-1])
        for numbers, rows in ((query, queries), (found, founds))
    )

    def of(row: int) -> np.ndarray:
        mine = rows_of_query[query[row]]
        if len(mine) == 1:
            return np.asarray(rows_of_found[found[row]])
        belongs = np.zeros(len(founds), dtype=bool)
        belongs[found[mine]] = True
        return np.flatnonzero(belongs[found])

    return of
