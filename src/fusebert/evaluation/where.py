"""Conditions on the values of a row, such as `category=shoes` and `price<50`, read from words.

All must hold; of several `=` for one column, any one. What stands behind the sign is the value as it is, whatever is in
it, so that no quotes are needed and none can be broken out of.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fusebert.errors import InputError, UsageError
from fusebert.modalities.values import as_category, as_date, as_list, as_number
from fusebert.types import is_given

SIGN = re.compile(r"\s*(<=|>=|!=|==?|<|>)\s*")
ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
COLUMNS_NAMED = 12
WHOLE_FLOATS = 2**53
"""From here on several whole numbers, such as long ids, are one float: they are compared as they are written."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a row must have in one column.

    Args:
        words: as it was given, for messages.
        sign: =, !=, <, <=, > or >=.
        limit: of an order, a number or a date; of the other signs, the text that is compared.
    """

    words: str
    column: str
    sign: str
    limit: Any

    def compared(self, value: Any) -> Any:
        """What of a value is compared with the limit of an order; None where it has nothing of that kind."""
        if not isinstance(self.limit, float):
            return None if isinstance(value, bool) else as_date(value)
        try:
            return as_number(value)
        except InputError:
            return None

    def holds(self, value: Any) -> bool:
        """Whether a row with that value may be found."""
        if self.sign in ORDERS:
            found = self.compared(value)
            return found is not None and ORDERS[self.sign](found, self.limit)
        return self._is_equal(value) == (self.sign == "=")

    def _is_equal(self, value: Any) -> bool:
        values = as_list(value)
        is_none = not values if values is not None else not is_given(value)
        if not self.limit or is_none:
            return not self.limit and is_none
        return any(map(self._is_name, values or [value]))

    def _is_name(self, value: Any) -> bool:
        try:
            if as_category(value) == self.limit:
                return True
            is_told = isinstance(value, str) or (isinstance(value, int) and abs(value) >= WHOLE_FLOATS)
            return not is_told and as_number(value) == as_number(self.limit)
        except InputError:
            return False


def read_conditions(
    where: str | Sequence[str], columns: Iterable[str], unclear: Collection[str] = ()
) -> list[Condition]:
    """The conditions.

    Args:
        where: one, or a list of them.
        columns: that rows have.
        unclear: those with numbers that cannot be compared, as `decimals.UnclearNumber` is none.

    Raises:
        UsageError: it is none, names a column that no row has, or compares an unclear one.
    """
    given = list(where) if isinstance(where, list | tuple) else [where]
    found = [_condition(words, sorted(columns, key=len, reverse=True)) for words in given]
    for one in found:
        if one.sign in ORDERS and one.column in unclear:
            raise UsageError(
                f"{one.words!r}: nobody knows whether numbers in {one.column!r} such as 1.234 are fractions or "
                "thousands; write them as 1234.5 and index the table again"
            )
    return found


def _condition(words: Any, columns: Sequence[str]) -> Condition:
    if not isinstance(words, str):
        raise UsageError(f"a condition such as 'price<50' expected, found {words!r:.60}")
    text = words.strip()
    for column in columns:  # the longest first: a name may hold a sign
        if text.startswith(column) and (sign := SIGN.match(text, len(column))):
            break
    else:
        if not (sign := SIGN.search(text)):
            raise UsageError(
                f"{words!r} is no condition: write COLUMN=VALUE, or COLUMN with !=, <, <=, > or >= and a value"
            )
        named = ", ".join(sorted(columns)[:COLUMNS_NAMED]) + (", ..." if len(columns) > COLUMNS_NAMED else "")
        raise UsageError(f"{words!r}: no row has a column {text[: sign.start()]!r}; there are {named}")
    kind, value = sign[1].replace("==", "="), text[sign.end() :]
    if kind in ORDERS:
        return Condition(words, column, kind, _limit(words, kind, value))
    try:
        return Condition(words, column, kind, as_category(value))
    except InputError:
        raise UsageError(f"{words[:60]!r}...: the value is too long to be compared") from None


def _limit(words: str, sign: str, value: str) -> Any:
    try:
        return as_number(value)
    except InputError:
        if (found := as_date(value)) is not None:
            return found
    hint = "; give each condition by itself" if re.search(r"\b(and|or)\b|[,&|;]", value, re.I) else ""
    what = f"{value!r:.60} is neither a number, as 1234.5, nor a date, as 2024-05-31"
    raise UsageError(f"{words!r}: {what}, which {sign} compares{hint}")


def allowed(condition: Condition, values: Sequence[Any]) -> list[bool]:
    """Whether each of a column's different values will do.

    Raises:
        UsageError: an order is asked for, and none of them has one.
    """
    if condition.sign in ORDERS and all(condition.compared(value) is None for value in values):
        kind = "a number" if isinstance(condition.limit, float) else "a date"
        held = next((f", but such as {value!r:.60}" for value in values if is_given(value)), "")
        raise UsageError(f"{condition.words!r}: no row has {kind} in {condition.column!r}{held}")
    return [condition.holds(value) for value in values]
