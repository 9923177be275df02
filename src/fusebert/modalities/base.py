"""What the two halves of every modality promise, and how a media path is kept inside its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from fusebert.errors import InputError
from fusebert.types import Features, Sample, is_given

if TYPE_CHECKING:
    from torch import Tensor, nn

Collated = dict[str, np.ndarray]
WEB = re.compile("[a-z]+://")


class Processor(Protocol):
    """Raw values of one row -> features, in numpy. One processor reads all columns of its modality.

    Light: its module imports neither torch nor transformers. Beside it stand `Config`, its settings (pydantic, frozen),
    and `matches(values)`: the Evidence that a column is of this modality, or None.

    What `fit` learns beside its config, such as names that have codes, it has as `fitted` too: what the modality's
    weights learnt is taken over only where this is equal. One that `varies` has
    `vary(features, random: numpy Generator) -> Features`, which may give a row to learn from another length.
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


class Embedder(Protocol):
    """Collated features -> tokens: an `nn.Module`, made as `Embedder(config, number of columns, trunk_config)`.

    Its class may have `LEARNING_SETTINGS`, names of settings that say how it learns and not what its weights mean;
    `load_pretrained()`, called once, which reads published weights into its module `published`, None where it has none;
    beside the class, `prepare(config)`, which fills in what those say of themselves.
    """

    def __call__(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """float[N, D], the tokens of all rows, packed, as many of each as its processor's `length` says.

        Args:
            features: as the processor's `collate` gives them.
            embeddings: the trunk's, for those whose tokens are words.
        """


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
