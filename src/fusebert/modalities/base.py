"""What every modality's light half promises, and how a media path is kept inside its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from fusebert.errors import InputError
from fusebert.types import Features, Sample, is_given

Collated = dict[str, np.ndarray]
WEB = re.compile("[a-z]+://")


class Processor(Protocol):
    """Raw values of one row -> features, in numpy. One processor reads all columns of its modality.

    Light: its module imports neither torch nor transformers. What `fit` learns beside its config, such as names that
    have codes, it has as `fitted` too: what the modality's weights learnt is taken over only where this is equal. One
    that `varies` has `vary(features, random: numpy Generator) -> Features`, which may give a row to learn from another
    length.
    """

    columns: tuple[str, ...]

    @classmethod
    def fit(cls, config: Any, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        """Learn what must be learnt from the training rows only (a vocabulary, a scale).

        Args:
            pretrained: folder of the pretrained trunk, whose tokenizer is used; None when it starts from nothing.
        """

    def load(self, sample: Sample) -> Features | None:
        """Features of one row; None where the row has nothing in these columns. Raises InputError in words."""

    def length(self, features: Features) -> int:
        """How many tokens of the trunk's sequence these features take."""

    def collate(self, rows: Sequence[Features]) -> Collated:
        """Features of the rows that have this modality, packed: no padding."""

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load_from(cls, folder: Path) -> Self: ...


def media_path(value: str, root: Path | None) -> Path:
    """The file that a media column names.

    Args:
        value: path as it stands in the table.
        root: folder of the table, which the path may not leave, also not through a link; None when the user names
            the file directly, and it may lie anywhere.
    """
    if "\0" in value:
        raise InputError("the path contains a NUL character")
    if root is None:
        path = Path(value)
    else:
        if Path(value).is_absolute():
            raise InputError(f"{value!r} is an absolute path; paths in a table are relative to the table's folder")
        path = root / value
        try:
            inside = path.resolve().is_relative_to(root.resolve())
        except (OSError, RuntimeError) as error:
            raise InputError(f"{value!r} cannot be followed: {error}") from None
        if not inside:
            raise InputError(f"{value!r} leads out of the table's folder, which is not allowed")
    try:
        found, is_file = path.exists(), path.is_file()
    except OSError as error:
        raise InputError(f"{value[:80]!r} is not a usable path: {error.strerror}") from None
    if not found and WEB.match(value):
        raise InputError(f"{value[:80]!r} is on the web; only files are read, so fetch it first")
    if not found:
        raise InputError(f"file {value!r} does not exist")
    if not is_file:
        raise InputError(f"{value!r} is not a file")
    return path


def present(values: Mapping[str, Any], columns: Sequence[str]) -> list[tuple[int, Any]]:
    """(place among `columns`, value) of those columns that hold something."""
    return [(place, values[name]) for place, name in enumerate(columns) if is_given(values.get(name))]
