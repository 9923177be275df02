"""The few shapes of data that travel through fusebert, from raw row to answer.

Axis letters: B rows, N packed tokens, M tokens whose last state is read, T text tokens, P patches of a picture,
F frames of a recording, U different pictures and R recordings of a batch, E events, D hidden size, V vocabulary,
C classes, S sides of a row, H and W pixels. Others are named where they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fusebert.errors import RowError

if TYPE_CHECKING:
    from torch import Tensor

TEXT = "text"
"""The modality that the trunk embeds itself."""
ALL, FIRST = "all", "first"
"""What a head may say that it reads, instead of naming tokens: the last states of all, or of each row's first."""
Features = Mapping[str, np.ndarray]
"""What one modality's processor makes of one row, by field name."""


FILE_FIELDS = {"bytes", "path"}
"""Of a file as datasets has it."""


def is_given(value: Any) -> bool:
    """Whether a cell holds something: neither None nor blank text, nor a file with neither bytes nor path."""
    if isinstance(value, dict):
        return not value.keys() <= FILE_FIELDS or any(one not in (None, "") for one in value.values())
    return value is not None and not (isinstance(value, str) and not value.strip())


@dataclass(frozen=True, slots=True)
class Sample:
    """A raw row; nothing in it is decoded yet.

    Args:
        table: the file it stands in.
        row: its number among the table's rows, from 1; a header is no row.
        values: column -> raw value; None where the row has none.
        root: the folder media paths are relative to and may not leave; None for a row the user typed, whose paths may
            lie anywhere.
        line: of a text file, where the row begins, from 1.
    """

    table: Path
    row: int
    values: Mapping[str, Any]
    root: Path | None
    line: int | None = None

    def error(self, problem: str, column: str | None = None) -> RowError:
        """What is wrong with this row."""
        return RowError(problem, self.table, self.row, column, self.line)


@dataclass(frozen=True, slots=True)
class Example:
    """One row, prepared.

    Args:
        features: by modality; a modality the row lacks is not there.
        target: as the task makes it; None where the table has none.
        length: tokens in the trunk's sequence, [CLS] included; of all sides together.
        sides: where the trunk reads the sides of a row apart, each of them; `features` is then empty.
    """

    features: Mapping[str, Features]
    target: Any
    length: int
    sides: tuple[Example, ...] = ()

    def arrays(self) -> Iterator[np.ndarray]:
        """All that its features are made of, of an array of objects those inside it; and its target, if that is one."""
        if isinstance(self.target, np.ndarray):
            yield self.target
        parts = (features for one in self.packed() for features in one.features.values())
        for array in (array for features in parts for array in features.values()):
            yield from array if array.dtype == object else (array,)

    def packed(self) -> tuple[Example, ...]:
        """What becomes a packed row each."""
        return self.sides or (self,)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a column was taken for a modality (or a target for a task), in words, and how sure that is in [0, 1]."""

    why: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each row lies in a packed sequence.

    Args:
        cu_seqlens: int32[B + 1], the start of each row; its last value is N.
        lengths: the number of tokens of each row, B of them, on the host, so that no step waits for a device.
        causal: whether a token sees only itself and those before it, and not all of its row.
    """

    cu_seqlens: Tensor
    lengths: tuple[int, ...]
    causal: bool = False
    longest: int = field(init=False)  # stored, so that layers are not recompiled for other lengths

    def __post_init__(self) -> None:
        object.__setattr__(self, "longest", max(self.lengths))

    def groups(self) -> list[list[int]]:
        """The lengths in runs of neighbouring rows of equal length."""
        return [list(run) for _, run in groupby(self.lengths)]


@dataclass(frozen=True, slots=True)
class Reads:
    """Tokens of a packed sequence whose last states are read.

    Args:
        places: int64[M], each once and in the order of the sequence; filler may follow the last row's.
        cu_seqlens: int32[B + 1], where each row's begin among them; each row has one at least.
    """

    places: Tensor
    cu_seqlens: Tensor


@dataclass(frozen=True, slots=True)
class Encoded:
    """What the trunk makes of a batch.

    Args:
        last_hidden_state: float[N, D], packed; or float[M, D], where the head reads M tokens only.
        pooler_output: float[B, D].
        layout: where each row lies.
        inputs: what the batch held, by modality and field.
        join: float[B, D] -> float[B, D], adds the modalities that the trunk did not read; None where it read all.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    layout: Layout
    inputs: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    join: Callable[[Tensor], Tensor] | None = None

    def pooled(self, how: str = FIRST) -> Tensor:
        """float[B, D], one vector a row: of BERT's pooler over [CLS] (`first`), or the `mean` of its last states."""
        vector = self.mean() if how == "mean" else self.pooler_output
        return vector if self.join is None else self.join(vector)

    def mean(self) -> Tensor:
        """float32[B, D], the mean of each row's last states; for heads that read ALL."""
        if len(self.last_hidden_state) != sum(self.layout.lengths):
            raise ValueError(f"a mean needs the states of all tokens, but the head reads {len(self.last_hidden_state)}")
        return row_means(self.last_hidden_state, self.layout.cu_seqlens.diff())


def row_means(tokens: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each row's packed tokens, summed in float32; zeros where a row has none.

    Args:
        tokens: float[N, D].
        lengths: int32[B] or int64[B], tokens of each row, on the same device.

    Returns:
        float32[B, D].
    """
    rows = lengths.new_ones(len(lengths)).cumsum(0) - 1  # an arange, without importing torch
    rows = rows.repeat_interleave(lengths, output_size=len(tokens))
    values = tokens.float()
    sums = values.new_zeros(len(lengths), tokens.shape[1]).index_add(0, rows, values)
    return sums / lengths.clamp(min=1)[:, None]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task says about one row.

    Args:
        value: the answer itself: a label, a list of labels, a number.
        probability: how sure, in [0, 1], calibrated on validation by tasks that can be; None where the task has none.
            Of a list of labels, that exactly these are right, as if labels were independent.
        top: the best labels with their probabilities, best first.
    """

    value: Any
    probability: float | None = None
    top: list[tuple[Any, float]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The answer as plain JSON values."""
        out: dict[str, Any] = {"answer": self.value}
        if self.probability is not None:
            out["probability"] = round(self.probability, 6)
        if self.top:
            out["top"] = [{"label": label, "probability": round(p, 6)} for label, p in self.top]
        return out
