"""A time limit: how far a run has come in it, and when the rest is needed for what follows training."""

from __future__ import annotations

import math
import time

from fusebert.training.checkpoint import State

WARM_UP_STEPS = 3
"""The first steps are slower (kernels are picked, code is compiled) and say nothing of the others."""
FORWARD_SPEED = 2.0
"""By which a forward pass is taken to be faster than a training step until one has been timed: it is a third of its
arithmetic."""
BYTES_PER_SECOND = 200e6
"""Of a checkpoint that is written, hashed and made durable, until one has been timed."""
SHARE_TO_TRAIN = 0.5
"""Of the time that is left when training begins: scoring every subset of modalities may take longer than training
itself; it then goes beyond the limit."""
SAVES_AT_THE_END = 2
"""The last checkpoint, and about as much again to read the best one and to publish."""


class Clock:
    """Looked at after each step of a run under a time limit.

    Args:
        limit: seconds; None for no limit.
        spent: seconds of it already used.
        tokens_after: tokens to score after training, without the last validation.
    """

    def __init__(self, limit: float | None = None, spent: float = 0.0, tokens_after: int = 0) -> None:
        self.limited = limit is not None
        left = math.inf if limit is None else limit - spent
        self.deadline, self.seconds_to_score = time.monotonic() + left, (1 - SHARE_TO_TRAIN) * max(0.0, left)
        self.tokens_after, self.validation_tokens = tokens_after, 0
        self.seconds_per_save, self.seconds_per_scored_token = 0.0, math.nan
        self.seconds_to_begin_round = 0.0
        self._round_ended: float | None = None
        self._looks = 0
        self._since: tuple[float, int, float] | None = None

    def spend(self, seconds_before: float, seconds: float) -> None:
        """Count what earlier starts of this run took: to begin, and in training."""
        self.deadline -= seconds_before + seconds
        self.seconds_to_score -= (1 - SHARE_TO_TRAIN) * seconds_before

    def expect(self, validation_tokens: int, checkpoint_bytes: int) -> None:
        """Say how much a validation scores and a checkpoint holds: what they take until they are `timed`."""
        self.validation_tokens, self.seconds_per_save = validation_tokens, checkpoint_bytes / BYTES_PER_SECOND

    def timed(self, validation_seconds: float, save_seconds: float) -> None:
        """Take note of how long the last validation and checkpoint took; the next round begins now."""
        self._round_ended = time.monotonic()
        self.seconds_per_scored_token = validation_seconds / max(1, self.validation_tokens)
        self.seconds_per_save = save_seconds

    def look(self, state: State, ends_round: bool) -> tuple[float, bool]:
        """The share of the run that is over, which never falls, and whether the time for training is up.

        A round that ends when there is no time to begin another one and to validate and save twice is the last.
        """
        now = time.monotonic()
        self._looks += 1
        if self._round_ended is not None:  # its rows had to be drawn, and brought by new processes
            self.seconds_to_begin_round = max(self.seconds_to_begin_round, now - self._round_ended)
            self._round_ended = None
        if self._since is None:
            if self._looks > WARM_UP_STEPS:
                self._since = (now, state.tokens, state.progress)
            return state.progress, now + SAVES_AT_THE_END * self.seconds_per_save >= self.deadline
        since, tokens, progress = self._since
        passed = now - since
        each = self.seconds_per_scored_token
        if math.isnan(each):  # one process scores alone
            each = state.processes * passed / ((state.tokens - tokens) * FORWARD_SPEED)
        validation = self.validation_tokens * each
        scoring = min(self.tokens_after * each, self.seconds_to_score)
        end = self.deadline - validation - scoring - SAVES_AT_THE_END * self.seconds_per_save
        found = progress + (1 - progress) * min(1.0, passed / max(end - since, 1e-9))
        another_round = validation + self.seconds_per_save + self.seconds_to_begin_round
        needed = another_round if ends_round else passed / (self._looks - WARM_UP_STEPS - 1)
        return max(state.progress, found), now + needed >= end
