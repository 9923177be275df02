"""Runs that are stopped: killed at any moment, a worker lost, a full disk, a damaged state. What goes on is exact."""

from __future__ import annotations

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
from tests.corpus.conftest import write_jsonl

PROGRAM = """
import sys
from fusebert.cli import main
from fusebert.corpus import prepare
prepare.SHARD_BYTES, prepare.BATCH_CHARACTERS = 20_000, 3_000
sys.exit(main(["corpus", "prepare", *sys.argv[1:]]))
"""
FLAGS = ["--workers", "2", "--held-out", "0.1", "--bad-rows", "skip"]


@pytest.fixture
def mixed(documents: list[str], tmp_path: Path) -> Path:
    """Documents, and a bad row after every fifth."""
    lines = [json.dumps({"text": text}) + "\n" + "{\n" * (number % 5 == 4) for number, text in enumerate(documents)]
    (tmp_path / "mixed.jsonl").write_text("".join(lines))
    return tmp_path / "mixed.jsonl"


def start(source: Path, folder: Path, *flags: str, program: str = PROGRAM) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", program, str(source), "--output", str(folder), *FLAGS, *flags]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def outcome(folder: Path) -> dict[str, bytes]:
    """Everything in it; the report without its seconds."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    report = json.loads(found["corpus.json"])
    assert report.pop("seconds") >= 0
    return found | {"corpus.json": json.dumps(report).encode()}


def whole(source: Path, folder: Path) -> dict[str, bytes]:
    finish(start(source, folder))
    return outcome(folder)


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


def is_worker(command: list[str]) -> bool:
    return "spawn_main" in " ".join(command)


def test_killed_at_random_times_nothing_is_lost_or_doubled(
    mixed: Path, tmp_path: Path, random: np.random.Generator
) -> None:
    expected = whole(mixed, tmp_path / "whole")
    assert len(expected["bad_documents.jsonl"].splitlines()) == 60
    assert json.loads(expected["corpus.json"])["counts"]["bad"] == 60
    kills, seconds = 0, 0.2
    while not (tmp_path / "killed" / "corpus.json").exists():
        process = start(mixed, tmp_path / "killed", "--resume")
        try:
            said = process.communicate(timeout=seconds + 0.3 * float(random.random()))[1]
            assert process.returncode == 0, said
        except subprocess.TimeoutExpired:
            family = psutil.Process(process.pid).children(recursive=True)
            os.kill(process.pid, signal.SIGKILL)
            kills, seconds = kills + 1, seconds * 1.3
            assert not psutil.wait_procs(family, timeout=10)[1]  # no worker outlives its parent
            process.communicate()
    assert kills >= 2
    assert outcome(tmp_path / "killed") == expected


def test_a_killed_worker_is_one_sentence(mixed: Path, tmp_path: Path) -> None:
    process = start(mixed, tmp_path / "out")
    next(descendants(process, is_worker)).kill()
    said = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert said == [f"fusebert: a worker process was killed, perhaps for its memory; {said[0].split('; ')[1]}"]
    finish(start(mixed, tmp_path / "out", "--resume"))
    assert outcome(tmp_path / "out") == whole(mixed, tmp_path / "whole")


def test_ray_gives_the_bytes_of_local_though_a_worker_is_killed(mixed: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    process = start(mixed, tmp_path / "ray", "--engine", "ray")
    next(descendants(process, lambda command: command[:1] == ["ray::_call"])).kill()
    finish(process)
    assert outcome(tmp_path / "ray") == whole(mixed, tmp_path / "local")


@pytest.mark.parametrize("limit", [30_000, 800_000], ids=["shards", "state"])
def test_a_full_disk_is_one_sentence_and_resumes(limit: int, mixed: Path, tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk; tiny documents fill the state before the shards."""
    tiny = [f"number {number} says little" for number in range(50_000)]
    source = mixed if limit < 100_000 else write_jsonl(tmp_path / "tiny.jsonl", tiny)
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
    assert json.loads((tmp_path / "out" / "corpus.json").read_text())["counts"]["documents"] in (300, 50_000)


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
