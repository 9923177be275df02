"""What is set, and what is asked: shapes that the parts of recommendation share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fusebert.section import Column, Section

HISTORY, NEXT = "history", "next"
"""Columns of the rows that a trained model reads and is scored on."""


class Config(Section):
    """Which columns of the tables of events say who did what, and how it is learnt."""

    user: Column = Field("user", description="column of the one who did it")
    item: Column = Field("item", description="column of what it was done with")
    time: Column | None = Field(
        None, description="column of when, UTC where no time zone is named; else events are in order of the rows"
    )
    type: Column | None = Field(
        None, description="column of what was done: click, browse, comment, share, rate, buy, ..."
    )
    value: Column | None = Field(None, description="column of a number that belongs to it, such as a rating or a price")
    catalogue: Path | None = Field(
        None, description="table of the items, each once under the same column name; its other columns describe them"
    )
    content: str | None = Field(
        None, description="what reads the catalogue: a BERT, named as model.trunk is, or the folder of a matching model"
    )
    repeats: bool = Field(False, description="whether an item of the history may come again")
    objective: Literal["next", "masked"] = Field(
        "next",
        description="guess after each event the next one, from those before it (SASRec); or hidden events from all "
        "others (BERT4Rec)",
    )
    mask_rate: float = Field(
        0.2, ge=0, lt=1, description="with objective=masked, of a history's events to guess, beside the newest one"
    )


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked of a training row: items int64[M] (codes) at places int64[M] among the row's tokens."""

    places: np.ndarray
    items: np.ndarray
