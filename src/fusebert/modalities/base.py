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

    Light: its module imports neither torch nor transformers. Beside it stand
        Config: its settings, a `fusebert.section.Section`, each field with a default and a description: numbers, text,
            true or false, one of some words (Literal), or a list of such; what `fit` fills in has
            `json_schema_extra=FITTED` (of the same module), and is no setting;
        matches(values: Sequence[Any]) -> Evidence | None: whether a column is of this modality, from up to 1000 raw
            values of it, none of them blank; None where it is not. It is asked about every column, and never raises.

    A processor may also have
        varies: bool, whether training changes rows; one that has it has
        vary(features, random: np.random.Generator) -> Features: others in their place, in each epoch anew, which may
            have another length; it leaves those that it was given as they are;
        unknown(sample) -> list[str]: those of its columns whose value in this row the training rows never had;
        doubts(samples) -> list[str]: in words, what about the training rows is probably not as their author thinks;
            where the trunk reads the sides of a row apart, each is a sample of its own (`data.columns.by_side`);
        content(value, root) -> Any: what tells a raw value of a Sample with that root from others, where equal ones
            belong together (see `matching`); without it, the value as it is. Raises InputError;
        fitted: what `fit` learnt beside `config`, such as names that have codes, comparable with ==. Weights are taken
            over from another model only where columns, `config` and this are equal.

    It is copied, and pickled for worker processes: one that remembers files leaves them out in `__getstate__`.

    Args:
        columns: the columns that it reads, as `fit` got them.
        config: its Config, with what `fit` filled in. The embedder is made from its JSON, also when a model is loaded.
    """

    columns: tuple[str, ...]

    @classmethod
    def fit(cls, config: Any, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        """Learn what must be learnt from the training rows only (a vocabulary, a scale).

        Values that cannot be read are passed over: `load` tells of them, with their rows.

        Args:
            columns: at least one.
            pretrained: folder of the pretrained trunk, whose tokenizer is used; None when it starts from nothing.

        Raises:
            DataError: nothing can be learnt from these rows.
        """

    def load(self, sample: Sample) -> Features | None:
        """Features of one row, arrays by name, the same names in every row; None where the row has nothing in these
        columns, that is, where `present` finds nothing. Equal rows give equal features: what is drawn is for `vary`.

        Raises:
            InputError: what is wrong, without the place: who reads the table adds row and column.
        """

    def length(self, features: Features) -> int:
        """How many tokens of the trunk's sequence these features take."""

    def collate(self, rows: Sequence[Features]) -> Collated:
        """Features of the rows that have this modality, at least one, packed: no padding. Arrays by name, of kinds that
        torch has (float32, int64, ...), no objects."""

    def save(self, folder: Path) -> None:
        """Write all that `load_from` needs into `processors/NAME.json` of a model's folder, NAME being the modality's.

        JSON only, with `storage.write_json`.
        """

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        """The processor that `save` wrote there: it reads every row as that one did."""


class Embedder(Protocol):
    """Collated features -> tokens: an `nn.Module`, made as `Embedder(config, columns, trunk)`.

    That is the processor's `config`, the number of its columns, and the trunk's `TrunkConfig`. D is
    `trunk.hidden_size`. Weights of `nn.Linear`, `nn.Embedding`, convolutions and norms start as BERT's do; others as
    their module has them. Buffers are persistent: a loaded model has no others.

    It may also have
        LEARNING_SETTINGS: tuple[str, ...], settings that say how it learns and not what its weights mean: weights are
            taken over where only these differ;
        load_pretrained() -> None: called once, before training, to read published weights; not when a model is loaded;
        published: nn.Module | None, the part of it that begins with published weights, and so learns as slowly as the
            trunk's last layer.

    Beside the class there may be `prepare(config) -> Config`, called before `fit`: it fills in what published weights
    say of themselves, such as the size of their pictures.
    """

    def __call__(self, features: Mapping[str, Tensor], embeddings: nn.Module) -> Tensor:
        """float[N, D], the tokens of all rows, packed, as many of each as its processor's `length` says.

        They know their place within the modality; what tells one modality from another is added to them afterwards.

        Args:
            features: as the processor's `collate` gives them, as tensors on the model's device.
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
        except (OSError, RuntimeError, ValueError) as error:
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
