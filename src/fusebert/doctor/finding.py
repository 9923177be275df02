"""One thing that may be wrong, and the rows it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fusebert.types import Sample

ROWS_LISTED = 1000

Splits = Mapping[str, Sequence[Sample]]
"""Rows by name of the split, those to train on first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that may be wrong with the data.

    Args:
        fault: its kind, in a word or two.
        column: that it is about.
        said: one sentence; what it is and why it matters.
        rows: it is about; none where it is about the whole column.
    """

    fault: str
    column: str
    said: str
    rows: tuple[Sample, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; at most ROWS_LISTED rows, but their true number."""
        listed = [{"table": str(row.table), "row": row.row} for row in self.rows[:ROWS_LISTED]]
        return {
            "fault": self.fault,
            "column": self.column,
            "said": self.said,
            "count": len(self.rows),
            "rows": listed,
        }

    def __str__(self) -> str:
        """With the first rows."""
        named = ", ".join(f"{row.table.name} {row.row}" for row in self.rows[:3])
        more = f" and {len(self.rows) - 3:,} more" if len(self.rows) > 3 else ""
        return f"{self.column}: {self.said}" + (f" (rows {named}{more})" if named else "")
