"""Which tables a source stands for: itself, those of a folder, or a folder of pictures or sounds for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusebert.data.tables import FOLDERS_OF, SUFFIXES, class_folders, is_table
from fusebert.errors import DataError, UsageError

SPLITS = ("train", "val", "valid", "validation", "dev", "test")
"""Names of tables in a folder that belong together, before the suffix."""
NAMED = 3


def find_tables(source: Path, against: Sequence[Path]) -> tuple[dict[str, Path], list[str]]:
    """The tables to look at, by name of the split, those to train on first; and how a folder was read, in words.

    Raises:
        DataError: a folder holds nothing to look at.
        UsageError: a table is given twice, or a folder has two for one split.
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
    named: dict[str, Path] = {}
    for split in SPLITS:
        of_split = [path for path in tables if path.name.lower() in {split + suffix for suffix in SUFFIXES}]
        if len(of_split) > 1:
            raise UsageError(
                f"{folder} has {' and '.join(path.name for path in of_split)}: which is {split}? Name the tables "
                f"themselves: {of_split[0]} --against ..."
            )
        if of_split:
            named[split] = of_split[0]
    if "train" in named:
        return named, [f"{folder} is read as tables: {', '.join(path.name for path in named.values())}"]
    column, found = class_folders(folder)
    classes = [path.name for path in found]
    there = _first([path.name for path in tables])
    if not classes:
        other = f"; to look at one of its tables, name it ({there})" if tables else ""
        raise DataError(
            f"{folder} has no table named train (such as train.csv or train.jsonl), and no folders with pictures or "
            f"sounds, one for each class{other}"
        )
    unread = f"; its tables are left alone ({there})" if tables else ""
    what, _, _ = FOLDERS_OF[column]
    return {folder.name: folder}, [
        f"{folder} has no table named train, so it is read as {what}s of {len(classes)} classes, a folder each "
        f"({_first(classes)}){unread}"
    ]


def _first(names: Sequence[str]) -> str:
    return ", ".join([*names[:NAMED], *(["..."] if len(names) > NAMED else [])])
