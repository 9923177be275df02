"""Files that are whole or absent: write beside, fsync, rename; folders are sealed with the hashes of their files."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError

from fusebert.errors import ModelError, UsageError

MANIFEST = "manifest.json"
METRICS = "metrics.json"
CORPUS_REPORT = "corpus.json"
CHECKPOINTS = "checkpoints"
LOGS = "logs"
WORKING_FOLDERS = (CHECKPOINTS, LOGS)
"""Of a training, in its model's folder; no part of the model."""
CARD = "README.md"
"""Of a model; for people, who may go on writing in it."""
HERE, EXCHANGE = -100, 2
"""What AT_FDCWD and RENAME_EXCHANGE (RENAME_SWAP) are to Linux and macOS."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either its old content or all of the new."""
    with whole_or_absent(path) as file:
        file.write(data)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines as they come; `path` appears once all are there. Half a character, as a file's name may have it,
    becomes an escape, which JSON reads as itself."""
    with whole_or_absent(path) as file:
        for line in lines:
            file.write(line.encode(errors="backslashreplace") + b"\n")


@contextmanager
def whole_or_absent(path: Path) -> Iterator[BinaryIO]:
    """A file that becomes `path` at the end; a device or a pipe is written as it stands, a link is followed."""
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        # where others may write, too, one of them may have put a link in a place that can be guessed
        beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        try:
            with beside.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            _sync(path.parent)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.filename is None or str(error.filename).endswith(".part"):  # a full disk names no file
            error.filename, error.filename2 = str(path), None
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """Read JSON; raises ModelError naming the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


@contextmanager
def naming_failures(folder: Path) -> Iterator[None]:
    """The safetensors library's own error, such as for a full disk, becomes an OSError that names `folder`."""
    try:
        yield
    except SafetensorError as error:
        full = os.strerror(errno.ENOSPC)
        known = OSError(errno.ENOSPC, full, str(folder))
        raise (known if full in str(error) else OSError(f"{folder}: {error}")) from None


def write_folder(folder: Path, fill: Callable[[Path], None], replaces: bool = True) -> None:
    """Let `fill` write into a sibling folder, seal it, make it durable, and rename it to `folder`.

    An older `folder` is replaced only once the new one is whole, in one step. Where the system has none for it, a kill
    between two renames leaves the older one beside, and `mend_left_by_kills`, with which the next write begins, puts
    it back.

    Args:
        replaces: False where another process may write the same at the same time, and others may read it by then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    mend_left_by_kills(folder.parent, glob.escape(folder.name))
    beside = _beside(folder, "part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
    except OSError as error:
        error.filename = str(folder)
        raise
    try:
        with naming_failures(folder):
            fill(beside)
        seal(beside)
        sync_tree(beside)
        if not replaces:
            _put_unless_there(beside, folder)
        elif folder.exists() and _exchange(beside, folder):
            shutil.rmtree(beside, ignore_errors=True)
        elif folder.exists():
            old = _beside(folder, "old")
            os.rename(folder, old)
            try:
                os.rename(beside, folder)
            except BaseException:
                os.rename(old, folder)
                raise
            shutil.rmtree(old)
        else:
            os.rename(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    _sync(folder.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders take each other's place in one step; whether that was possible, as on most disks it is."""
    system, first, second = ctypes.CDLL(None), os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            return bool(system.renamex_np(first, second, EXCHANGE) == 0)
        return bool(system.renameat2(HERE, first, HERE, second, EXCHANGE) == 0)
    except AttributeError:  # an older system's library
        return False


def _put_unless_there(made: Path, folder: Path) -> None:
    try:
        os.rename(made, folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(made)


def _beside(path: Path, kind: str) -> Path:
    """Where this process, and no other on any machine that sees the disk, writes what becomes `path`."""
    return path.with_name(f".{path.name}.{_here()}-{os.getpid()}.{kind}")


@cache
def _here() -> str:
    """Where process numbers mean what they mean in this process: a machine, and a container on it."""
    numbering = ""
    with suppress(OSError):
        numbering = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{socket.gethostname()} {numbering}".encode()).hexdigest()[:8]


def mend_left_by_kills(parent: Path, names: str) -> None:
    """Remove what processes that were killed here had begun to write in the place of folders in `parent`, and put back
    what they had taken away from there.

    Args:
        names: pattern of the folders' names.
    """
    for left in parent.glob(f".{names}.{_here()}-*"):
        name, _, process_and_kind = left.name[1:].rpartition(f".{_here()}-")
        process, _, kind = process_and_kind.partition(".")
        lives = process != str(os.getpid()) and Path("/proc", process).exists()
        if lives or not Path("/proc/self").exists():
            continue
        if kind == "old" and not (parent / name).exists():
            os.rename(left, parent / name)
        elif kind in ("old", "part"):
            shutil.rmtree(left, ignore_errors=True)


def seal(folder: Path, leave_out: Sequence[str] = ()) -> None:
    """Write the manifest of `folder`: the SHA-256 of each file in it, but for the entries left out.

    Whoever may read the folder may then read its files, which safetensors writes for their owner alone.
    """
    names = [name for name in _files(folder) if name.split("/")[0] not in leave_out and (folder / name).is_file()]
    for name in names:
        with suppress(OSError):  # a disk that knows no rights
            (folder / name).chmod(folder.stat().st_mode & 0o666)
    write_json(folder / MANIFEST, {"sha256": {name: file_hash(folder / name) for name in names}})


UNREAD = re.compile(r"(?i:licen[cs]e|notice).*|.*\.(md|png|jpg)|.*bad_rows\.jsonl")
"""Files beside a model that nothing reads."""


def finish(folder: Path) -> None:
    """Seal a model folder that is complete, remove what killed writes have left in it, and then its checkpoints."""
    for left in folder.rglob(".*.part"):
        if left.is_file() and left.relative_to(folder).parts[0] not in WORKING_FOLDERS:
            left.unlink()
    sync_tree(folder)  # the checkpoints may go only once the model is on the disk
    seal(folder, leave_out=(*WORKING_FOLDERS, CARD))
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def check_finished(folder: Path) -> None:
    """Raise ModelError unless a training has finished there."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file" if folder.exists() else f"the model folder {folder} does not exist")
    if not (folder / MANIFEST).is_file():
        unfinished = (folder / CHECKPOINTS).is_dir()
        hint = (
            "its training has not finished; go on with `fusebert train ... --resume`"
            if unfinished
            else f"no {MANIFEST}"
        )
        raise ModelError(f"{folder} is not a finished fusebert model: {hint}")


def verify(folder: Path) -> None:
    """Raise ModelError unless each file that the manifest of `folder` names is there, byte for byte, and no other.

    What reads the folder might take in another file, whose hash nobody has vouched for.
    """
    manifest = read_json(folder / MANIFEST)
    hashes = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(hashes, dict) or not hashes:
        raise ModelError(f"{folder / MANIFEST} is damaged: it lists no files")
    for name, expected in hashes.items():
        path = folder / name  # which may be a link, as in the cache of the Hugging Face Hub: its hash is what counts
        if "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ModelError(f"{folder / MANIFEST} names {name!r}, which lies outside the folder")
        if not path.is_file():
            raise ModelError(f"{path} is missing; copy the whole folder again")
        if file_hash(path) != expected:
            raise ModelError(
                f"{path} has changed since it was written (its SHA-256 differs); restore it or train again"
            )
    for name in _files(folder):
        if name not in hashes and not is_unread(name):
            raise ModelError(
                f"{folder / name} is not in {MANIFEST}: it came after the folder was finished; move it elsewhere"
            )


def is_unread(name: str) -> bool:
    """Whether a file of a sealed folder, by its path within, may have come later, as nothing reads it there: losses,
    the card, a licence, lists of bad rows, and what is hidden, by git, the Hub's downloads, a file manager or an
    editor."""
    first, *inside = parts = name.split("/")
    is_hidden = any(part.startswith(".") for part in parts)
    return is_hidden or first in WORKING_FOLDERS or (not inside and UNREAD.fullmatch(first) is not None)


def finished_around(path: Path) -> Path | None:
    """The finished folder that is no longer what its manifest says once `path` is written; None where there is none."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - without `..`, and without following links
    for folder in path.parents:
        name = path.relative_to(folder).as_posix()
        with suppress(ModelError, AttributeError, KeyError, TypeError):  # other programs have manifests, too
            if name in read_json(folder / MANIFEST)["sha256"] or not is_unread(name):
                return folder
    return None


def refuse_in_finished(path: Path, instead: str = "another --output") -> None:
    """Raise UsageError where writing `path` would leave a finished folder no longer what its manifest says."""
    if around := finished_around(path):
        raise UsageError(f"{path} lies in the finished {around}; choose {instead}")


def listing_hash(folder: Path) -> str:
    """SHA-256 of the names and sizes of the files in the folders of a folder, in hexadecimal."""
    listed = (f"{path.relative_to(folder)} {path.lstat().st_size}\n" for path in sorted(folder.glob("*/*")))
    return hashlib.sha256("".join(listed).encode(errors="surrogateescape")).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[str]:
    """All but the manifest; links to folders, too, in which nobody looks."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted({path.relative_to(folder).as_posix() for path in found} - {MANIFEST})


def sync_tree(folder: Path) -> None:
    """Make everything in `folder` durable."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
