"""A checkpoint is whole or it is not used; a run's folder is never of two runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from fusebert import storage
from fusebert.cli import main
from fusebert.config import TrainingSettings
from fusebert.errors import DivergedError, ModelError, UsageError
from fusebert.evaluation.trained_model import TrainedModel, load
from fusebert.storage import finish, seal, verify, write_folder, write_json
from fusebert.training import checkpoint
from fusebert.training.checkpoint import State
from fusebert.training.lock import lock, unlocking
from fusebert.training.optimization import learning_rate_factor
from fusebert.training.progress import Silence
from fusebert.training.run import train


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, random: Any = ()) -> None:
    checkpoint.save(folder, model.state_dict(), checkpoint.optimizer_tensors(optimizer), state, random)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with checkpoints of steps 1, 2 and 3, of which 1 is the best."""
    model, state = nn.Linear(3, 2), State(steps=9, precision="fp32", data_hash="", best_step=1)
    optimizer = torch.optim.AdamW(model.parameters())
    for step in (1, 2, 3):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        state.step = step
        save(tmp_path, model, optimizer, state, [checkpoint.random_state()])
    return tmp_path


def test_the_newest_two_and_the_best_are_kept(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["step-000000001", "step-000000002", "step-000000003"]
    model = nn.Linear(3, 2)
    save(saved, model, torch.optim.AdamW(model.parameters()), State(9, "fp32", "", step=4, best_step=1))
    assert sorted(path.name for path in saved.iterdir()) == ["step-000000001", "step-000000003", "step-000000004"]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    saved: Path, file: str, damage: str, random: np.random.Generator
) -> None:
    path = saved / "step-000000003" / file
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: random.integers(len(data) - 1)])  # a manifest without its last line end is whole
    else:
        path.unlink()
    warnings: list[str] = []
    assert checkpoint.newest_whole(saved, warnings.append) == saved / "step-000000002"
    assert "step-000000003" in warnings[0]


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_failing_disk_costs_the_save_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    """At the k-th system call of a save, for every k."""
    model = nn.Linear(3, 2)
    optimizer, state = torch.optim.AdamW(model.parameters()), State(9, "fp32", "", step=4, best_step=1)
    before = sorted(path.name for path in saved.iterdir())
    for number in range(1, 100):
        calls = 0

        def failing(real: Any, at: int = number) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == at:
                    raise OSError(kind, os.strerror(kind))
                return real(*arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "rename", "open"):
                patch.setattr(os, name, failing(getattr(os, name)))
            try:
                save(saved, model, optimizer, state)
            except OSError as error:
                assert error.errno == kind  # noqa: PT017
            else:
                break
        whole = checkpoint.newest_whole(saved, lambda _: None)
        assert whole is not None
        assert whole.name in ("step-000000003", "step-000000004")
        if whole.name == "step-000000004":  # the rename was done, what came after was not
            shutil.rmtree(whole)
        assert sorted(path.name for path in saved.iterdir()) == before
    assert number > 8


def test_a_changed_bit_in_any_file_of_a_model_is_noticed(
    trained: Path, tmp_path: Path, random: np.random.Generator
) -> None:
    shutil.copytree(trained, tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    card.write_text(card.read_text() + "\nAsk us about it.\n")  # which is for people
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file() and "logs" not in path.parts]
    files.remove(card)
    assert len(files) >= 8
    for path in files:
        data = path.read_bytes()
        changed = bytearray(data)
        changed[random.integers(len(data))] ^= 1 << int(random.integers(8))
        path.write_bytes(changed)
        with pytest.raises(ModelError, match=path.name if path.name != "manifest.json" else None):
            load(tmp_path / "model")
        path.write_bytes(data)
    load(tmp_path / "model")


def test_going_back_leaves_nothing_of_the_future(saved: Path) -> None:
    model = nn.Linear(3, 2)
    (saved / ".step-000000009.123.part").mkdir()
    save(saved, model, torch.optim.AdamW(model.parameters()), State(9, "fp32", "", step=2, best_step=1))
    assert sorted(path.name for path in saved.iterdir()) == ["step-000000001", "step-000000002"]


def test_a_damaged_best_checkpoint_is_never_used(saved: Path) -> None:
    path = saved / "step-000000001" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    model, state, warnings = nn.Linear(3, 2), State(9, "fp32", "", step=3, best_step=1), list[str]()
    before = model.weight.clone()
    checkpoint.restore_best(saved, model, state, warnings.append)
    assert torch.equal(model.weight, before)
    assert state.best_step is None
    assert "damaged" in warnings[0]


@pytest.mark.parametrize("is_own", [True, False])
def test_a_checkpoint_that_a_kill_left_between_two_renames_is_found(saved: Path, is_own: bool) -> None:
    """By this process's number, too, which a process in an older container may have had."""
    newest, process = saved / "step-000000003", os.getpid() if is_own else 2**22 + 1
    newest.rename(saved / f".{newest.name}.{storage._here()}-{process}.old")
    assert checkpoint.newest_whole(saved, pytest.fail) == newest


@pytest.mark.parametrize("name", ["a\0b", "../a"])
def test_a_manifest_with_an_impossible_name_is_damaged(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "manifest.json", {"sha256": {name: "0"}})
    with pytest.raises(ModelError, match="outside the folder"):
        verify(tmp_path)


def test_what_killed_writes_left_is_no_part_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "plots").mkdir()
    for name in ("config.json", ".config.json.1-2.part", "plots/.a.png.1-2.part"):
        (tmp_path / name).write_text("{}")
    finish(tmp_path)
    assert list(json.loads((tmp_path / "manifest.json").read_text())["sha256"]) == ["config.json"]
    assert not [*tmp_path.rglob("*.part")]


def test_a_link_that_waits_for_a_write_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("mine")
    monkeypatch.setattr(storage.secrets, "token_hex", lambda _: "guessed")
    guessed = f".a.json.{storage._here()}-{os.getpid()}.part"  # the name of a folder's
    for name in (guessed, ".a.json.guessed.part"):
        (tmp_path / name).symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError, match=r"a\.json"):
        write_json(tmp_path / "a.json", {})
    assert (tmp_path / "mine").read_text() == "mine"
    (tmp_path / ".a.json.guessed.part").unlink(missing_ok=True)
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / guessed).is_symlink()
    assert (tmp_path / "mine").read_text() == "mine"


def test_what_is_saved_is_restored(saved: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    state = checkpoint.restore(saved / "step-000000003", model, optimizer)
    assert (state.step, state.steps, state.best_step) == (3, 9, 1)
    assert {float(values["step"]) for values in optimizer.state.values()} == {3.0}
    with pytest.raises(ModelError, match="another model"):
        checkpoint.restore_weights(saved / "step-000000003", nn.Linear(4, 2))


def test_moments_of_other_weights_are_refused(saved: Path) -> None:
    """As where the optimizer takes the weights in another order: fused AdamW would make NaN of them."""
    model = nn.Linear(3, 2)
    turned = torch.optim.AdamW([model.bias, model.weight])
    with pytest.raises(ModelError, match="its optimizer does not fit"):
        checkpoint.restore(saved / "step-000000003", model, turned)


def test_a_folder_that_fails_to_fill_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "out", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "out", lambda folder: (folder / "old").touch())
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if target == tmp_path / "out" and source.name.endswith(".part"):
            raise OSError("input/output error")
        rename(source, target)

    monkeypatch.setattr("os.rename", fails)
    monkeypatch.setattr("fusebert.storage._exchange", lambda *_: False)  # a disk that cannot
    with pytest.raises(OSError, match="input/output"):
        write_folder(tmp_path / "out", lambda folder: (folder / "new").touch())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "old").exists()


SWAP = """
import os, sys
from pathlib import Path
from fusebert import storage
at, folder = int(sys.argv[1]), Path(sys.argv[2])
calls = 0
def dying(do):
    def call(*given, **named):
        global calls
        if calls == at: os._exit(7)
        calls += 1
        return do(*given, **named)
    return call
for name in ("rename", "replace", "unlink", "rmdir", "fsync", "mkdir"):
    setattr(os, name, dying(getattr(os, name)))
storage._exchange = (lambda *_: False) if sys.argv[3] == "renames" else dying(storage._exchange)
storage.write_folder(folder, lambda beside: (beside / "rows").write_text("new"))
"""


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_a_kill_at_any_step_leaves_the_old_or_the_new_whole(way: str, tmp_path: Path) -> None:
    folder, seen = tmp_path / "folder", set()
    for step in range(100):
        write_folder(folder, lambda beside: (beside / "rows").write_text("old"))
        code = subprocess.run([sys.executable, "-c", SWAP, str(step), str(folder), way], check=False).returncode
        if way == "renames":
            storage.mend_left_by_kills(tmp_path, "folder")
        verify(folder)
        seen.add((folder / "rows").read_text())
        if code == 0:
            break
    assert (code, seen) == (0, {"old", "new"})
    assert [path.name for path in tmp_path.iterdir() if "part" not in path.name] == ["folder"]


def test_folders_take_each_other_s_place(tmp_path: Path) -> None:
    """Here, and so in one step; elsewhere the two renames are tested."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert storage._exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    assert not storage._exchange(tmp_path / "a", tmp_path / "nothing")


HOLD = """
import sys, time
from pathlib import Path
from fusebert.training.lock import lock
lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_two_trainings_never_write_at_once(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The second ends in words; once the first has gone, however it did, the folder is free."""
    (tmp_path / "model").mkdir()
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "model")], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match="another training writes in"):
            train(tiny, tmp_path / "model")
    finally:
        other.kill()
        other.communicate()
    train(tiny, tmp_path / "model")
    with unlocking():  # nor does this process keep it
        lock(tmp_path / "model")


def test_two_runs_never_share_a_folder(trained: Path, tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="finished"):
        train(tiny, trained)
    shutil.copytree(trained, tmp_path / "other")
    (tmp_path / "other" / "manifest.json").unlink()
    with pytest.raises(UsageError, match="not empty"):
        train(tiny, tmp_path / "other")
    with pytest.raises(UsageError, match="other settings"):
        train(tiny | {"training.seed": 5}, tmp_path / "other", resume=True)


def test_resume_needs_a_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my project")
    with pytest.raises(UsageError, match="no run to resume"):
        train(tiny, tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_run_goes_on_with_its_own_data_and_schedule_only(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = tiny | {"training.checkpoint_steps": 1}
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "run", progress=Interrupted())

    def resume(**others: Any) -> TrainedModel:
        for path in (tmp_path / "run" / "checkpoints").iterdir():
            write_json(path / "state.json", json.loads((path / "state.json").read_text()) | others)
            seal(path)
        return train(settings, tmp_path / "run", resume=True)

    (state, *_) = (tmp_path / "run" / "checkpoints").rglob("state.json")
    kept = json.loads(state.read_text())
    schedule = {"epochs": 2, "tokens_per_batch": 2048, "learning_rate": 1e-3, "new_learning_rate": None}
    assert kept["schedule"] == schedule
    with pytest.raises(UsageError, match="data have changed"):
        resume(data_hash="of other data")
    with pytest.raises(UsageError, match=r"begun with training\.learning_rate=0\.0005, and would now have 0\.001"):
        resume(data_hash=kept["data_hash"], schedule=schedule | {"learning_rate": 5e-4})
    trained = resume(schedule={}).metrics["training"]  # of a version that did not keep it
    assert (trained["tokens_per_batch"], trained["learning_rate"]) == (2048, 1e-3)


@pytest.mark.parametrize(
    ("part", "refused", "listed"),
    [("train", True, False), ("train", True, True), ("val", True, False), ("test", False, False)],
)
def test_a_picture_that_was_exchanged_is_noticed(
    part: str, refused: bool, listed: bool, tiny: dict[str, Any], world: Path, tmp_path: Path
) -> None:
    shutil.copytree(world, tmp_path / "world")
    if listed:
        for table in (tmp_path / "world").glob("*.jsonl"):
            rows = [json.loads(line) for line in table.read_text().splitlines()]
            table.write_text("".join(json.dumps(row | {"image": [row["image"]]}) + "\n" for row in rows))
    settings = tiny | {"data.root": str(tmp_path / "world")}
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "run", progress=Interrupted())
    one, other = sorted((tmp_path / "world" / "images").glob(f"{part}*.png"))[:2]
    swapped = one.read_bytes(), other.read_bytes()
    assert swapped[0] != swapped[1]
    other.write_bytes(swapped[0])
    one.write_bytes(swapped[1])
    with pytest.raises(UsageError, match="data have changed") if refused else nullcontext():
        train(settings, tmp_path / "run", resume=True)


class Interrupted(Silence):
    """Breaks a run off after its first epoch."""

    def epoch(self, _: dict[str, Any]) -> None:
        raise KeyboardInterrupt


def test_the_scores_are_those_of_the_weights_that_are_kept() -> None:
    history = [{"step": step, "validation": {"loss": loss}} for step, loss in ((3, 2.0), (6, 1.0), (9, 1.5))]
    state = State(9, "fp32", "", step=9, best_step=6, history=history)
    assert state.kept() == {"loss": 1.0}
    state.best_step = 3
    assert state.kept() == {"loss": 2.0}
    state.best_step = None  # damage has cost it
    assert state.kept() == {"loss": 1.5}


def test_a_run_that_diverges_says_so(tiny: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="diverged"):
        train(tiny | {"training.learning_rate": 1e30, "training.max_gradient_norm": 1e30}, tmp_path / "model")
    assert not (tmp_path / "model" / "manifest.json").exists()


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    tiny: dict[str, Any], trained: Path, tmp_path: Path
) -> None:
    train(tiny, tmp_path / "same")
    train(tiny | {"training.seed": 1}, tmp_path / "other")
    wanted = (trained / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == wanted
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != wanted


def test_the_time_limit_stops_a_run_and_leaves_a_model(tiny: dict[str, Any], tmp_path: Path) -> None:
    train(tiny | {"training.epochs": 1000, "training.time_limit": "4s"}, tmp_path / "model")
    training = json.loads((tmp_path / "model" / "metrics.json").read_text())["training"]
    assert "time limit" in training["stopped"]
    assert 1 < training["steps"] < training["epochs"] * 1000


def test_patience_stops_a_run(tiny: dict[str, Any], tmp_path: Path) -> None:
    train(tiny | {"training.epochs": 50, "training.patience": 1, "training.learning_rate": 1e-9}, tmp_path / "model")
    assert "without a better accuracy" in (tmp_path / "model" / "metrics.json").read_text()


def test_the_rate_rises_then_falls_to_nothing() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[-1] < 0.001
    assert TrainingSettings(time_limit="10m").time_limit == 600  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scores", "losses", "best", "worse"),
    [
        ([0.5, 0.9, 0.7], [1.0, 1.0, 0.1], 2, 1),
        ([0.9, 0.9, 0.9], [3.0, 1.0, 2.0], 2, 1),  # the least loss, and not the latest
        ([0.9, 0.9, 0.9], [3.0, 2.0, 1.0], 3, 0),  # a loss that still falls is progress
        ([0.9, 0.9, 0.9], None, 3, 2),
        ([0.9, 0.8, 0.9], [1.0, 0.1, 1.0], 3, 2),
    ],
)
def test_the_best_is_that_of_the_score_then_of_the_loss(
    scores: list[float], losses: list[float] | None, best: int, worse: int
) -> None:
    state = State(9, "fp32", "")
    for number, score in enumerate(scores):
        metrics = {"accuracy": score} | ({} if losses is None else {"loss": losses[number]})
        state.step = number + 1
        state.history.append({"step": state.step, "validation": metrics})
        state.judge(metrics, "accuracy", higher_is_better=True)
    assert (state.best_step, state.worse_epochs, state.best_score) == (best, worse, max(scores))


def test_a_run_may_go_on_with_other_workers(tiny: dict[str, Any], tmp_path: Path) -> None:
    settings = tiny | {"training.checkpoint_steps": 1, "training.workers": 1}
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "run", progress=Interrupted())
    train(settings | {"training.workers": 0}, tmp_path / "run", resume=True)
    train(tiny | {"training.checkpoint_steps": 1}, tmp_path / "other")
    found = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "other")]
    assert found[0] == found[1]


def test_a_full_disk_is_said_with_what_to_do(
    tiny: dict[str, Any],
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    settings = [f"{key}={value}" for key, value in tiny.items() if not key.startswith("data.")]
    ignored = [f"data.columns.{name}=ignore" for name in ("language", "caption", "shapes", "colours")]
    table, output = f"{tiny['data.root']}/train.jsonl", tmp_path / "run"
    assert main(["train", table, "--target", "answer", "--output", str(output), *settings, *ignored]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"fusebert: {output}/checkpoints/step-")
    assert said.endswith(": No space left on device; make room, and go on with --resume")
