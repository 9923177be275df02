"""Which tables a source stands for: itself, those of a folder, or a folder of pictures for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusebert.data.tables import is_table, picture_folders
from fusebert.errors import DataError, UsageError

SPLITS = ("train", "val", "valid", "validation", "dev", "test")
"""Names of tables in a folder that belong together, before the suffix."""
NAMED = 3


def find_tables(source: Path, against: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """The tables to look at, by name of the split, those to train on first; and how a folder was read, in words.

    Raises:
        DataError: a folder holds nothing to look at.
        UsageError: a table is given twice.
    """
    found, notes = _in_folder(source) if source.is_dir() else ({source.name: source}, [])
    for table in against:
        if table.resolve() in [one.resolve() for one in found.values()]:
            raise UsageError(f"{table} is given twice")
        name = next(name for name in (table.name, str(table), str(table.resolve())) if name not in found)
        found[name] = table
    return found, notes


def _in_folder(folder: Path) -> tuple[dict[str, Path], list[str]]:
    tables = [path for path in sorted(folder.iterdir()) if path.is_file() and is_table(path)]
    inside = {path.name.split(".")[0]: path for path in tables}
    named = {split: inside[split] for split in SPLITS if split in inside}
    if "train" in named:
        return named, [f"{folder} is read as tables: {', '.join(path.name for path in named.values())}"]
    classes = [path.name for path in picture_folders(folder)]
    there = _first([path.name for path in tables])
    if not classes:
        other = f"; to look at one of its tables, name it ({there})" if tables else ""
        raise DataError(
            f"{folder} has no table named train (such as train.csv or train.jsonl), and no folders with pictures, one "
            f"for each class{other}"
        )
    unread = f"; its tables are left alone ({there})" if tables else ""
    return {folder.name: folder}, [
        f"{folder} has no table named train, so it is read as pictures of {len(classes)} classes, a folder each "
        f"({_first(classes)}){unread}"
    ]


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED], *(["..."] if len(names) > NAMED else [])])
