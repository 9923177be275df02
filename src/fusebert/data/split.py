"""A validation part held out of the training rows; rows that belong together stay together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusebert.errors import DataError, UsageError
from fusebert.modalities.values import content_key, without_fraction
from fusebert.types import Sample, is_given

SEED = 0
"""Decides who is held out."""


def hold_out(samples: Sequence[Sample], share: float, group: str | None) -> tuple[list[Sample], list[Sample]]:
    """Training and validation rows, the same whatever a run's seed: runs that differ in it are scored on the same rows.

    Args:
        share: of the rows, or of the groups, in (0, 1).
        group: rows with the same value in this column, as `group_of` reads it, stay on one side (all questions about
            one picture, say); a row without one is a group of its own.
    """
    if group is not None and not any(group in sample.values for sample in samples):
        raise UsageError(f"data.validation_group={group!r} is not a column of {samples[0].table}")
    names = [group_of(sample, group) if group else None for sample in samples]
    keys = [f"row {number}" if name is None else f"group {name}" for number, name in enumerate(names)]
    different = list(dict.fromkeys(keys))
    count = round(len(different) * share)
    if not 0 < count < len(different):
        few = f"{len(different)} rows or groups are too few to hold out {share:.0%} for validation"
        raise DataError(f"{samples[0].table}: {few}")
    held = {different[place] for place in np.random.default_rng(SEED).permutation(len(different))[:count]}
    train = [sample for sample, key in zip(samples, keys, strict=True) if key not in held]
    return train, [sample for sample, key in zip(samples, keys, strict=True) if key in held]


def group_of(sample: Sample, column: str) -> str | None:
    """The row's group, the same for `P1` and `P1 `, and for 1, 1.0 and `1.0`; None where it has none."""
    raw = sample.values.get(column)
    if not is_given(raw) or not (key := content_key(raw)):  # NaN is no name: not even its own
        return None
    return without_fraction(raw if isinstance(raw, str | float) else key)
