"""Files are decoded once, as long as they stay as they are and there is room."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fusebert.errors import InputError
from fusebert.modalities import files
from fusebert.modalities.files import MOST_IN_A_CELL, DecodedFiles, files_in


def test_a_file_is_decoded_once_until_it_changes(tmp_path: Path) -> None:
    path, decoded = tmp_path / "a", list[bytes]()

    def decode(data: bytes) -> np.ndarray:
        decoded.append(data)
        return np.frombuffer(data, dtype=np.uint8)

    kept = DecodedFiles()
    path.write_bytes(b"one")
    first = kept.read("a", tmp_path, 10, decode)
    assert kept.read("a", tmp_path, 10, decode) is first
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert kept.read("a", tmp_path, 10, decode).tobytes() == b"two"
    assert decoded == [b"one", b"two"]


def test_what_was_not_asked_for_the_longest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CACHE_BYTES", 250)
    kept, decoded = DecodedFiles(), list[str]()

    for name in "abc":
        (tmp_path / name).touch()

    def read(name: str) -> None:
        kept.read(name, tmp_path, 10, lambda _: decoded.append(name) or np.zeros(100, dtype=np.uint8))

    for name in ("a", "b", "a", "c", "a", "b"):
        read(name)
    assert decoded == ["a", "b", "c", "b"]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(2 << 20))
    with pytest.raises(InputError, match="more than 1 MiB"):
        DecodedFiles().read("a", tmp_path, 1 << 20, lambda _: pytest.fail("it was decoded"))


def test_files_that_are_read_to_be_answered_leave_no_trace_of_each(tmp_path: Path) -> None:
    """Of millions it would be gigabytes; only a training asks for what it learns from."""
    kept = DecodedFiles()
    (tmp_path / "a").write_bytes(b"one")
    kept.read("a", tmp_path, 10, lambda _: np.zeros(1))
    assert not kept.contents


def test_a_cell_may_have_a_list_of_files() -> None:
    row = {
        "one": "a.png",
        "several": ["b.png", None, "", b"c"],
        "csv": ' ["d.png", "[1].png"]',
        "none": [],
        "odd": "[1].png",
    }
    assert files_in(row, list(row)) == [
        *((0, "a.png"), (1, "b.png"), (1, b"c")),
        *((2, "d.png"), (2, "[1].png"), (4, "[1].png")),
    ]
    assert files_in({"samples": [0.0, 0.5] * 33}, ["samples"]) == [(0, [0.0, 0.5] * 33)]
    with pytest.raises(InputError, match=f"33 files in one cell; at most {MOST_IN_A_CELL} are read"):
        files_in({"several": ["a.png"] * 33}, ["several"])
