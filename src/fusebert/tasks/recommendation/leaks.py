"""What in tables of events makes scores better, or worse, than they will be in use."""

from __future__ import annotations

import numpy as np

from fusebert.errors import row_in_words
from fusebert.tasks.recommendation.config import HISTORY, NEXT
from fusebert.tasks.recommendation.histories import Done, questions


def leaks(parts: dict[str, list[Done]], repeats: bool) -> list[str]:
    """What makes scores better, or worse, than they will be in use; in words."""
    said = []
    known = {(one.user, one.event) for one in parts["train"]}
    for name in ("validation", "test"):
        asked = parts.get(name, [])
        doubled = [one for one in asked if one.event.seconds is not None and (one.user, one.event) in known]
        if doubled:
            first = doubled[0]
            said.append(
                f"leak: {len(doubled):,} of {len(asked):,} {name} events are training events, too (the first is "
                f"{first.table}, {row_in_words(first.row, first.line)})"
            )
        if asked and all(one.event.seconds is not None for one in (*parts["train"], *asked)):
            middle = float(np.median([one.seconds for one in asked]))
            later = float(np.mean([one.seconds > middle for one in parts["train"]]))
            if later > 0.01:
                said.append(
                    f"leak: {later:.0%} of the training events are newer than half of the {name} events: what others "
                    "did later is known; cut all users at one moment for scores that hold in use"
                )
    if not repeats:
        again = _again(parts)
        if again:
            said.append(
                f"{again:.0%} of the validation events repeat an item of their history, which is never recommended; "
                "task.repeats=true allows it"
            )
    return said


def _again(parts: dict[str, list[Done]]) -> float:
    rows = list(questions(parts["train"], parts["validation"]))
    repeated = [any(event.item == row.values[NEXT] for event in row.values[HISTORY]) for row in rows]
    share = float(np.mean(repeated))
    return share if share >= 0.01 else 0.0
