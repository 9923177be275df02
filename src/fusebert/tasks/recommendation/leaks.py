"""What in tables of events makes scores better, or worse, than they will be in use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fusebert.errors import row_in_words
from fusebert.tasks.recommendation.histories import UserEvent, by_user


def leaks(parts: Mapping[str, Sequence[UserEvent]], repeats: bool) -> list[tuple[bool, str]]:
    """What makes scores better, or worse, than they will be in use: whether it is a leak, and what it is in words.

    Args:
        parts: events by name of the part, the training part first.
        repeats: whether an item of the history may come again.
    """
    (_, train), *others = parts.items()
    said = []
    known, before = {(one.user, one.event) for one in train}, "training"
    for name, asked in others:
        doubled = [one for one in asked if one.event.seconds is not None and (one.user, one.event) in known]
        if doubled:
            first = doubled[0]
            what = (
                f"{len(doubled):,} of {len(asked):,} {name} events are {before} events, too (the first is "
                f"{first.table}, {row_in_words(first.row, first.line)})"
            )
            said.append((True, what))
        known |= {(one.user, one.event) for one in asked}
        before += f" or {name}"
        if asked and all(one.event.seconds is not None for one in (*train, *asked)):
            middle = float(np.median([one.seconds for one in asked]))
            later = float(np.mean([one.seconds > middle for one in train]))
            if later > 0.01:
                what = (
                    f"{later:.0%} of the training events are newer than half of the {name} events: what others "
                    "did later is known; cut all users at one moment for scores that hold in use"
                )
                said.append((True, what))
    for name, asked in others[: 0 if repeats else 1]:
        if again := _again(train, asked):
            what = (
                f"{again:.0%} of the {name} events repeat an item of their history, which is never recommended; "
                "task.repeats=true allows it"
            )
            said.append((False, what))
    return said


def _again(train: Sequence[UserEvent], asked: Sequence[UserEvent]) -> float:
    wanted = {id(one) for one in asked}
    repeated = []
    for events in by_user([*train, *asked]).values():
        seen: set[str] = set()
        for one in events:
            if id(one) in wanted:
                repeated.append(one.event.item in seen)
            seen.add(one.event.item)
    share = float(np.mean(repeated or [False]))
    return share if share >= 0.01 else 0.0
