"""Rows on their way to be scored: with modalities taken away or dealt out, and with the bad ones counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from fusebert.data.dataset import Preparer, without_lost
from fusebert.data.tables import Rows
from fusebert.errors import RowError
from fusebert.types import Example, Sample


def hidden(rows: Iterable[Sample | RowError], columns: Sequence[str]) -> Rows:
    """Rows without the values of some columns."""
    for row in rows:
        if isinstance(row, Sample):
            row = replace(row, values={k: v for k, v in row.values.items() if k not in columns})
        yield row


def givers(rows: int) -> np.ndarray:
    """int64[rows]: of so many, the one whose values each gets where they are dealt out."""
    return np.random.default_rng(0).permutation(rows)


def shuffled(rows: Sequence[Sample | RowError], columns: Sequence[str]) -> Rows:
    """Rows with the values of some columns dealt out anew, together; by chance a row may get its own."""
    given = [row for number in givers(len(rows)) if isinstance(row := rows[number], Sample)]
    takers = iter(given)
    for row in rows:
        if isinstance(row, Sample):
            giver = next(takers)
            row = replace(row, values={**row.values, **{c: giver.values.get(c) for c in columns}})
        yield row


class Seen:
    """What passes by on its way to the model.

    Args:
        stop_at_bad: after a bad row none is let through: no score will be told, but all bad ones are.
    """

    def __init__(self, stop_at_bad: bool) -> None:
        self.rows, self.bad, self.stop_at_bad = 0, list[RowError](), stop_at_bad

    def add_bad(self, error: RowError) -> None:
        self.rows += 1
        self.bad.append(error)

    def examples(
        self, rows: Iterable[tuple[Sample | RowError, Sample | RowError]], preparer: Preparer
    ) -> Iterator[Example]:
        """Of rows as the model may see them, each beside the row as it is, which says what belongs together."""
        for row, true in rows:
            made = preparer(row)
            if isinstance(made, RowError):
                self.add_bad(made)
                continue
            self.rows += 1
            if self.bad and self.stop_at_bad:
                continue
            yield (
                replace(made, target=preparer.belonging(without_lost(true, preparer.lost)))
                if made.sides and true is not row and isinstance(true, Sample)
                else made
            )
