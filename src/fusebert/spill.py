"""Arrays of any length, kept on disk: scores grow with the table, memory does not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

CHUNK_ROWS, CHUNK_NUMBERS = 65_536, 2**23
"""At most so many are looked at together."""


class Spill:
    """Arrays appended to a temporary file, then read back as one memory map."""

    def __init__(self) -> None:
        self._file: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `array`, or at the end
        self._dtype: np.dtype = np.dtype(np.float32)
        self._shape: tuple[int, ...] = ()
        self._rows = 0

    def __del__(self) -> None:
        self._file.close()

    def append(self, array: np.ndarray) -> None:
        """Add rows; all arrays share dtype and row shape."""
        self._dtype, self._shape = array.dtype, array.shape[1:]
        self._file.write(np.ascontiguousarray(array).tobytes())
        self._rows += len(array)

    def array(self) -> np.ndarray:
        """Everything appended, [rows, ...], at least one row. Nothing can be appended any more."""
        with self._file:
            self._file.flush()
            found: np.ndarray = np.memmap(self._file, self._dtype, "r", shape=(self._rows, *self._shape))
        return found


def chunks(array: np.ndarray) -> Iterator[slice]:
    """Slices that cover all rows, each of at most CHUNK_ROWS and CHUNK_NUMBERS, and of a row at least."""
    step = max(1, min(CHUNK_ROWS, CHUNK_NUMBERS // max(1, array[:1].size)))
    for start in range(0, len(array), step):
        yield slice(start, min(start + step, len(array)))
