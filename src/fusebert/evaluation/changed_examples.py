"""Prepared rows without modalities, or with others' values in their place: put together of what is kept of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from fusebert.data.dataset import Dataset, Preparer
from fusebert.errors import RowError
from fusebert.evaluation.changed_rows import givers, hidden, shuffled
from fusebert.types import Example, Sample


def changed_examples(
    rows: Dataset, preparer: Preparer, without: Collection[str], dealt_out: Sequence[str]
) -> Iterator[Example]:
    """What `preparer` makes of rows that `hidden` and `shuffled` have changed.

    Args:
        preparer: lets rows with nothing to read pass.
        without: modalities.
        dealt_out: columns, all that a modality has; of two sides, all that it has in one of them.
    """
    modality = {column: name for name, processor in preparer.processors.items() for column in processor.columns}
    samples: Iterable[Sample | RowError] = rows.samples
    if dealt_out:
        samples = shuffled(rows.samples, dealt_out)
    if without:
        samples = hidden(samples, [column for column, name in modality.items() if name in without])
    swapped = [{modality[column] for column in dealt_out if column in side} for side in preparer.sides or [modality]]
    order = givers(len(rows)) if dealt_out else range(len(rows))
    for number, (sample, giver) in enumerate(zip(samples, order, strict=True)):
        own, other = rows.kept(number), rows.kept(int(giver))
        if own is not None and other is not None:
            yield _together(own, other, preparer, without, swapped)
            continue
        made = preparer(sample)
        if isinstance(made, RowError):  # the file changed since it was checked
            raise made
        yield replace(made, target=preparer.belonging(rows.samples[number])) if made.sides else made


def _together(
    own: Example, other: Example, preparer: Preparer, without: Collection[str], swapped: Sequence[Collection[str]]
) -> Example:
    """A row without some modalities, and with some of another row, of each of its sides."""
    made = []
    for mine, given, names in zip(own.packed(), other.packed(), swapped, strict=True):
        features = {name: found for name, found in mine.features.items() if name not in {*without, *names}}
        features |= {name: given.features[name] for name in names if name in given.features}
        made.append(Example(features, mine.target, preparer.length(features)))
    if own.sides:
        return Example({}, own.target, sum(side.length for side in made), tuple(made))
    return made[0]
