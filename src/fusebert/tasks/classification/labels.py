"""Labels as a table spells them: of which kind, and which are the same."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fusebert.data.decimals import SheetNumber
from fusebert.errors import DataError, InputError
from fusebert.modalities.values import WHOLE, without_fraction

Label = str | int | bool
Key = tuple[str, Label]
"""A label with its kind."""
FEW = 0.05
"""Share of targets of another kind than the others, up to which they are slips, and not another way to write."""


def key_of(label: Any) -> Key:
    """A label with its kind, so that 1, True and "1" stay three labels."""
    if isinstance(label, bool):
        return ("true/false", label)
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, int):
        return ("numbers", label)
    if isinstance(label, str) and label.strip():
        return ("text", without_fraction(label) if isinstance(label, SheetNumber) else label.strip())
    raise InputError(f"{label!r} is not a label; use text, a whole number, or true/false")


def of_one_kind(counts: Counter[Key], allow_few: bool) -> Counter[Key]:
    """The labels of the most frequent kind; rows with a few others are refused one by one, if that is allowed.

    Raises:
        DataError: others are not few.
    """
    kinds = Counter[str]()
    for (kind, _), count in counts.items():
        kinds[kind] += count
    (usual, most), *_ = kinds.most_common()
    few = FEW * kinds.total() if allow_few else 0
    if kinds.total() - most > few:
        mixed, odd = " and ".join(sorted(kinds)), min(counts, key=lambda key: kinds[key[0]])[1]
        raise DataError(f"the labels mix {mixed}, such as {odd!r:.60}; write all of them the same way")
    return Counter({key: count for key, count in counts.items() if key[0] == usual})


def fold(key: Key, ignore_case: bool) -> Key:
    """Labels that are one have one."""
    kind, label = key
    return (kind, label.casefold()) if ignore_case and isinstance(label, str) else key


def spelling_of(key: Key) -> str:
    """As a csv has it: 1 is "1", or "1.0" where pandas wrote it, and True is "true" in any case."""
    spelled = str(key[1])
    if spelled.casefold() in ("true", "false"):
        return spelled.casefold()
    return whole[1] if (whole := WHOLE.fullmatch(spelled)) else spelled
