"""Runs that are stopped: killed at any moment, a worker lost, a full disk, a damaged state. What goes on is exact."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from fusebert.cli import main
from fusebert.corpus.engine import pick_engine
from fusebert.storage import _here, write_folder
from tests.corpus.conftest import write_jsonl

PROGRAM = """
import sys
from fusebert.cli import main
from fusebert.corpus import prepare
prepare.SHARD_BYTES, prepare.BATCH_CHARACTERS = 20_000, 3_000
sys.exit(main(["corpus", "prepare", *sys.argv[1:]]))
"""
FLAGS = ["--workers", "2", "--held-out", "0.1", "--bad-rows", "skip"]


@pytest.fixture(scope="module")
def mixed(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents, and a bad row after every fifth."""
    lines = [json.dumps({"text": text}) + "\n" + "{\n" * (number % 5 == 4) for number, text in enumerate(documents)]
    path = tmp_path_factory.mktemp("mixed") / "mixed.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def expected(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a run that nothing stops writes of it, with two workers."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    finish(start(mixed, folder))
    return outcome(folder)


def start(source: Path, folder: Path, *flags: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", program, str(source), "--output", str(folder), *FLAGS, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything in it; the report without its seconds."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    report = json.loads(found["corpus.json"])
    assert report.pop("seconds") > 0
    return found | {"corpus.json": json.dumps(report).encode()}


def test_ctrl_c_while_workers_begin_says_one_line(mixed: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(mixed), "--output", str(tmp_path / "out"), *FLAGS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        own = psutil.Process(process.pid)
        while not any("spawn_main" in " ".join(child.cmdline()) for child in own.children()):
            assert process.poll() is None
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate()[1]
    assert said == "fusebert: interrupted; the same command goes on with --resume\n"


def finish(process: subprocess.Popen[str]) -> None:
    said = process.communicate()[1]
    assert process.returncode == 0, said


def descendants(process: subprocess.Popen[str], wanted: Callable[[list[str]], bool]) -> Iterator[psutil.Process]:
    """Processes under it whose command line is wanted, looked for until it ends."""
    while process.poll() is None:
        for child in psutil.Process(process.pid).children(recursive=True):
            try:
                if wanted(child.cmdline()):
                    yield child
            except psutil.Error:
                pass
        time.sleep(0.002)


def kill_one(process: subprocess.Popen[str], wanted: Callable[[list[str]], bool]) -> None:
    """The first such process under it, which there must be."""
    victim = next(descendants(process, wanted), None)
    assert victim is not None, process.communicate()[1]
    victim.kill()


def wait_for_shards(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    while process.poll() is None and len(list(folder.glob("*.parquet"))) < count:
        time.sleep(0.001)


def committed(folder: Path) -> int:
    """Shards that the state of a killed run knows of."""
    with contextlib.closing(sqlite3.connect(folder / "state.sqlite")) as database:
        saved = dict(database.execute("SELECT name, value FROM state"))
    return sum(json.loads(saved.get("shards", "{}")).values())


def is_worker(command: list[str]) -> bool:
    return "spawn_main" in " ".join(command)


def test_killed_again_and_again_nothing_is_lost_or_doubled(
    mixed: Path, expected: dict[str, bytes], tmp_path: Path, random: np.random.Generator
) -> None:
    """The parent, with two workers, after more and more shards and a random while."""
    assert len(expected["bad_documents.jsonl"].splitlines()) == 60
    assert json.loads(expected["corpus.json"])["counts"]["bad"] == 60
    total, folder, begun = sum(name.endswith(".parquet") for name in expected), tmp_path / "killed", []
    for share in (0.3, 0.6):
        if (folder / "corpus.json").exists():  # the last one was done before it could be killed
            break
        process = start(mixed, folder, "--resume")
        wait_for_shards(process, folder, round(share * total))
        time.sleep(0.03 * float(random.random()))
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            assert not psutil.wait_procs(family, timeout=10)[1]  # no worker outlives its parent
        process.communicate()
        if not (folder / "corpus.json").exists():
            begun.append(committed(folder))
    if not (folder / "corpus.json").exists():
        assert max(begun, default=1) > 0
        finish(start(mixed, folder, "--resume"))
    assert outcome(folder) == expected


def test_a_killed_worker_is_one_sentence(mixed: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    process = start(mixed, tmp_path / "out")
    kill_one(process, is_worker)
    said = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert said == [
        "fusebert: a worker process was killed, perhaps for its memory; --resume goes on at the last whole shard"
    ]
    finish(start(mixed, tmp_path / "out", "--resume"))
    assert outcome(tmp_path / "out") == expected


@pytest.mark.real
def test_ray_gives_the_bytes_of_local_though_a_worker_is_killed(
    mixed: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    process = start(mixed, tmp_path / "ray", "--engine", "ray")
    kill_one(process, lambda command: command[:1] == ["ray::_call"])
    finish(process)
    assert outcome(tmp_path / "ray") == expected


def fail(item: int) -> int:
    raise ValueError(f"a bug met {item}")


@pytest.mark.real
def test_a_bug_in_the_work_is_no_lost_worker() -> None:
    pytest.importorskip("ray")
    with pytest.raises(ValueError, match="a bug met 7"), pick_engine("ray", 1) as pool:
        list(pool.map(fail, [7], 1))


def test_no_ray_at_the_address_is_one_sentence(
    jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    flags = ["--output", str(tmp_path / "out"), "--workers", "1", "--engine", "ray"]
    assert main(["corpus", "prepare", str(jsonl), *flags]) == 1
    said = capsys.readouterr().err
    assert "cannot start or reach Ray" in said
    assert "RAY_ADDRESS=nonsense" in said


@pytest.mark.parametrize(("limit", "count"), [(30_000, 300), (200_000, 12_000)], ids=["shards", "state"])
def test_a_full_disk_is_one_sentence_and_resumes(limit: int, count: int, mixed: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk; tiny documents fill the state before the shards."""
    tiny = [f"number {number} says little" for number in range(count)]
    source = mixed if count == 300 else write_jsonl(tmp_path / "tiny.jsonl", tiny)
    command = [sys.executable, "-c", PROGRAM.replace("20_000", "2**25"), str(source), "--output", str(tmp_path / "out")]
    command += ["--workers", "1", "--bad-rows", "skip", "--least-characters", "5", "--resume"]
    stopped = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert stopped.returncode == 1
    assert len(stopped.stderr.splitlines()) == 1, stopped.stderr
    assert str(tmp_path / "out") in stopped.stderr
    assert not list((tmp_path / "out").glob(".*.part"))
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads((tmp_path / "out" / "corpus.json").read_text())["counts"]["documents"] == count


def test_two_runs_do_not_share_a_folder(jsonl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    other = sqlite3.connect(tmp_path / "out" / "state.sqlite")
    other.execute("BEGIN EXCLUSIVE")
    assert main(["corpus", "prepare", str(jsonl), "--output", str(tmp_path / "out"), "--resume", "--workers", "1"]) == 1
    assert "another run" in capsys.readouterr().err
    other.close()


@pytest.mark.parametrize("damage", [b"no database at all" * 99, b"SQLite format 3\0" + bytes(9999)])
def test_a_damaged_state_is_one_sentence(
    damage: bytes, jsonl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.sqlite").write_bytes(damage)
    assert main(["corpus", "prepare", str(jsonl), "--output", str(tmp_path / "out"), "--resume", "--workers", "1"]) == 1
    said = capsys.readouterr().err
    assert "state.sqlite is damaged" in said
    assert "start again" in said


def test_a_state_that_cannot_be_opened_is_not_called_damaged(
    jsonl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "state.sqlite").mkdir(parents=True)
    assert main(["corpus", "prepare", str(jsonl), "--output", str(tmp_path / "out"), "--resume", "--workers", "1"]) == 1
    said = capsys.readouterr().err
    assert "cannot be used (unable to open" in said
    assert "damaged" not in said


def test_what_killed_processes_left_is_cleared_away_or_put_back(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = _here()
    left, living, elsewhere, other = (
        tmp_path / name
        for name in (
            f".a.{here}-{ended.pid}.part",
            f".a.{here}-{os.getppid()}.part",
            f".a.01234567-{ended.pid}.part",  # a machine that sees the same disk
            f".b.{here}-{ended.pid}.part",
        )
    )
    taken_away = tmp_path / f".c.{here}-{ended.pid}.old"
    for folder in (left, living, elsewhere, other, taken_away):
        folder.mkdir()
    write_folder(tmp_path / "a", lambda folder: (folder / "x").touch())
    assert [folder.exists() for folder in (left, living, elsewhere, other)] == [False, True, True, True]
    with pytest.raises(ZeroDivisionError):
        write_folder(tmp_path / "c", lambda _: 1 / 0)
    assert (tmp_path / "c").exists()
    assert not taken_away.exists()


def test_of_two_that_write_the_same_the_second_leaves_the_first_s_files(tmp_path: Path) -> None:
    target = tmp_path / "tokens"

    def write(text: str) -> None:
        write_folder(target, lambda beside: (beside / "ids").write_text(text), replaces=False)

    write("first")
    opened = (target / "ids").stat().st_ino
    write("second")
    assert (target / "ids").stat().st_ino == opened
    assert [path.name for path in tmp_path.iterdir()] == ["tokens"]
