"""One section of a recipe: what its settings may hold, and what is wrong with one, in words."""

from __future__ import annotations

import re
import reprlib
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

SECONDS = {"s": 1, "m": 60, "h": 3600}
FITTED: dict[str, Any] = {"fitted": True}
"""`json_schema_extra` of a field that is no setting: a model folder keeps there what training found."""
FOLLOWS: dict[str, Any] = {"follows": True}
"""The same of a setting that follows from rows and trunk where a recipe does not have it (`training/defaults.py`)."""


def seconds(value: Any) -> Any:
    """Seconds of "90", "90s", "10m" or "2h"."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if found is None:
        raise ValueError("not a time; write 90s, 10m or 2h")
    return float(found[1]) * SECONDS[found[2] or "s"]


def one_or_more(value: Any) -> Any:
    """A list, also where one name stands for it."""
    return (value,) if isinstance(value, str | int | float) else value


def as_word(value: Any) -> Any:
    """A word, such as a column's name, which YAML may take for a number."""
    if isinstance(value, bool):
        raise ValueError("YAML reads some words, such as no and on, as true or false; put it in quotes, as in '\"no\"'")
    return str(value) if isinstance(value, int | float) else value


Word = Annotated[str, BeforeValidator(as_word)]
Column = Word


class Section(BaseModel):
    """A group of settings; unknown keys are errors, and so is true or false for a plain number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_switches(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = get_args(annotation) or (annotation,)
        if isinstance(value, bool) and bool not in kinds and {int, float} & {*kinds}:
            raise ValueError("a number expected, found true or false (as YAML reads yes, no, on and off, too)")
        return value


def is_setting(field: FieldInfo) -> bool:
    """Whether a recipe may set it."""
    return field.json_schema_extra != FITTED


def wrong_setting(error: ValidationError, section: str) -> str:
    """What is wrong with the first of the settings.

    Args:
        section: such as `task.`, whose own fields the error names; empty where it names sections.
    """
    first = error.errors()[0]
    named = 1 if section else 3 if first["loc"][:2] == ("data", "columns") else 2
    key = section + ".".join(map(str, first["loc"][:named]))  # then come the kinds that it might have been
    said = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return said
    if first["type"] == "missing":
        return f"{key} is not set, and has to be"
    if first["type"] == "extra_forbidden":  # unknown ones are told before
        return f"{key} is a setting of another task"
    return f"{key}={shortened(first.get('input'))} will not do: {said}"


def shortened(value: Any) -> str:
    """A value as Python writes it, cut at 80 characters, without writing all of it."""
    writer = reprlib.Repr()
    writer.maxdict = writer.maxlist = writer.maxtuple = 8
    writer.maxstring = writer.maxother = writer.maxlong = 80
    return f"{' '.join(writer.repr(value).split()):.80}"
