"""A time limit holds over interruptions, the learning rate falls with the time, and each validation has its room."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from fusebert.cli import build_parser, main
from fusebert.training import pretrain as module
from fusebert.training import trainer
from fusebert.training.checkpoint import State
from fusebert.training.clock import WARM_UP_STEPS, Clock
from fusebert.training.pretrain import pretrain
from fusebert.training.progress import Terminal
from tests.conftest import Stop
from tests.corpus.conftest import corpus, documents  # noqa: F401
from tests.training.test_ranks import PRETRAINING

pytestmark = pytest.mark.alone
LIMIT, READING = 8.0, 2.0


def test_the_limit_and_the_rate_hold_over_an_interruption(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates: list[float] = []
    real = trainer.set_learning_rate

    def noting(optimizer: Any, factor: float) -> None:
        rates.append(factor)
        real(optimizer, factor)

    def slowly(*given: Any) -> Any:
        time.sleep(READING)
        return read(*given)

    read = module.read_corpus
    monkeypatch.setattr(trainer, "set_learning_rate", noting)
    monkeypatch.setattr(module, "read_corpus", slowly)
    changed = {"data.train": str(corpus), "task.passes": 900.0, "task.rounds": 300, "training.checkpoint_steps": 5}
    settings = PRETRAINING | changed | {"training.time_limit": LIMIT}
    with pytest.raises(KeyboardInterrupt):
        pretrain(settings, tmp_path / "run", progress=Stop(LIMIT / 4))
    monkeypatch.setattr(module, "read_corpus", read)
    first, said = list(rates), Stop()
    rates.clear()
    training = pretrain(settings, tmp_path / "run", resume=True, progress=said)["training"]
    assert 0.5 * LIMIT < training["seconds"] + READING <= LIMIT
    assert "time limit" in training["stopped"]
    (line,) = [line for line in said.lines if line.startswith("resuming after step")]
    whole = [*first[: int(line.split()[3])], *rates]
    assert len(whole) == training["steps"]
    peak = whole.index(max(whole))
    assert peak < 0.3 * len(whole)
    assert whole[peak:] == sorted(whole[peak:], reverse=True)
    assert whole[-1] < 0.05 < 0.8 < whole[peak]


def test_a_round_without_time_for_another_validation_is_the_last() -> None:
    clock, state = Clock(10.0, spent=9.5), State(steps=100, precision="fp32", data_hash="")
    clock.expect(validation_tokens=1000, checkpoint_bytes=0)
    clock.timed(validation_seconds=0.3, save_seconds=0.0)
    for _ in range(WARM_UP_STEPS + 1):
        state.step, state.tokens = state.step + 1, state.tokens + 100
        assert clock.look(state, ends_round=True) == (0.0, False)  # nothing is known yet
    state.tokens += 100
    progress, is_up = clock.look(state, ends_round=False)
    assert not is_up
    assert 0 <= progress < 0.5
    assert clock.look(state, ends_round=True)[1]
    state.progress = 0.9
    assert clock.look(state, ends_round=False)[0] == 0.9


def test_a_round_that_would_begin_too_late_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock, state = Clock(100.0), State(steps=100, precision="fp32", data_hash="")
    clock.expect(validation_tokens=0, checkpoint_bytes=0)
    for step in range(60):
        if step == 30:
            clock.timed(validation_seconds=0.0, save_seconds=0.0)
            now += 9.0  # until the new round's first batch is there
        now, state.tokens = now + 1.0, state.tokens + 100
        clock.look(state, ends_round=False)
    for left, last in ((11.0, False), (9.9, True)):
        now = 100.0 - left
        assert clock.look(state, ends_round=True)[1] == last
        assert not clock.look(state, ends_round=False)[1]


@pytest.mark.parametrize(("tokens_after", "left"), [(1000, 30.0), (1_000_000, 50.0)])
def test_training_gets_half_of_the_time_however_much_is_scored_after_it(
    tokens_after: int, left: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock, state = Clock(120.0, spent=20.0, tokens_after=tokens_after), State(steps=200, precision="fp32", data_hash="")
    clock.expect(validation_tokens=0, checkpoint_bytes=0)
    clock.timed(validation_seconds=0.0, save_seconds=0.0)
    clock.seconds_per_scored_token = 0.03
    is_up = False
    while not is_up:
        now, state.tokens = now + 1.0, state.tokens + 100
        is_up = clock.look(state, ends_round=False)[1]
    assert 100.0 - now == pytest.approx(left, abs=1.0)


def test_what_earlier_starts_took_to_begin_is_no_time_to_score() -> None:
    clock = Clock(100.0, spent=20.0, tokens_after=10**9)
    clock.spend(20.0, 20.0)
    assert clock.seconds_to_score == pytest.approx(30.0)


def test_a_command_counts_from_its_beginning(
    corpus: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: dict[str, float] = {}

    def noting(*_: Any, started: float, **__: Any) -> dict[str, Any]:
        told["started"] = started
        return {}

    def slowly() -> Any:
        time.sleep(0.3)  # as imports do
        return build_parser()

    monkeypatch.setattr(module, "pretrain", noting)
    monkeypatch.setattr("fusebert.cli.build_parser", slowly)
    before = time.monotonic()
    assert main(["pretrain", str(corpus), "--output", str(tmp_path / "run"), "--budget", "9s"]) == 0
    assert before <= told["started"] < before + 0.1
    monkeypatch.undo()
    settings = PRETRAINING | {"data.train": str(corpus), "task.passes": 900.0, "training.time_limit": LIMIT}
    found = pretrain(settings, tmp_path / "run", started=time.monotonic() - LIMIT / 2)
    assert 0.2 * LIMIT < found["training"]["seconds"] < LIMIT / 2


def test_the_bar_ends_where_the_time_ends() -> None:
    shown, state = Terminal(), State(steps=300, precision="fp32", data_hash="", step=10)
    shown.step(state, 1.0)
    state.step, state.steps = 20, 90
    shown.step(state, 1.0)
    assert (shown.bar.tasks[0].completed, shown.bar.tasks[0].total) == (20, 90)
    shown.close()
