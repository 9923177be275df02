"""The commands from raw documents to a BERT: `corpus prepare`, `corpus vocabulary`, `pretrain`."""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from fusebert.cli.common import Command, add_bad_rows, no_flags, nothing, run_folder, say, speaks
from fusebert.errors import DataError, UsageError

UNITS = {"k": 2**10, "m": 2**20, "g": 2**30}


def add_commands(command: Command) -> None:
    """Add them to the command line."""
    prepare = command("corpus prepare", _prepare, "Turn raw documents into a corpus folder.")
    prepare.add_argument(
        "inputs", metavar="IN", nargs="+", help="txt, jsonl, jsonl.gz, parquet, folders, hub:NAME[:CONFIG]"
    )
    prepare.add_argument("--output", metavar="FOLDER", type=Path, required=True)
    prepare.add_argument("--field", default="text", help="the column with the text, in tables (default: text)")
    language = "code of ISO 639, such as en or zh; auto: by each document's script; other: by the rules of English"
    prepare.add_argument("--language", default="auto", help=language)
    prepare.add_argument("--held-out", type=float, default=0.02, metavar="SHARE", help="of documents kept apart")
    prepare.add_argument("--least-characters", type=int, default=100, metavar="N", help="leave out shorter documents")
    near = "drop only exact copies, not near-duplicates"
    prepare.add_argument("--keep-near-duplicates", dest="near_duplicates", action="store_false", help=near)
    add_bad_rows(prepare)
    prepare.add_argument("--seed", type=int, default=0, help="of the choice of held-out documents")
    prepare.add_argument("--max-memory", type=byte_count, default=2**30, metavar="SIZE", help="default 1g")
    prepare.add_argument("--workers", type=int, metavar="N", help="default: as many as cores and memory allow")
    prepare.add_argument("--engine", choices=("local", "ray"), default="local", help="ray: also on other machines")
    prepare.add_argument("--resume", action="store_true", help="go on at the last whole shard")

    vocabulary = command(
        "corpus vocabulary",
        _vocabulary,
        "Learn a WordPiece vocabulary from a corpus, and report how well it fits.",
    )
    vocabulary.add_argument("folder", metavar="CORPUS", type=Path)
    vocabulary.add_argument("--size", type=int, default=30522, help="pieces (default 30522, as BERT has)")
    vocabulary.add_argument("--cased", action="store_true", help="keep capitals (accents stay in any case)")
    vocabulary.add_argument("--beside", metavar="BERT", help="measure this BERT's vocabulary on the same text")

    pretrain = command(
        "pretrain",
        _pretrain,
        "Pre-train a BERT on a corpus, or on a table of text beside pictures, sound or columns.",
    )
    source = "a prepared corpus, a table of rows, or a recipe (.yaml); settings are KEY=VALUE, see `fusebert settings`"
    pretrain.add_argument("source", metavar="CORPUS|TABLE|RECIPE", type=Path, help=source)
    pretrain.add_argument("--output", metavar="FOLDER", type=Path, help="model folder to write (default: runs/NAME)")
    pretrain.add_argument("--budget", metavar="TIME", help="plan size and steps so that all is done in 20m, or 2h")
    pretrain.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint")


def byte_count(text: str) -> int:
    """Bytes of "512m" or "2g"."""
    found = re.fullmatch(r"(\d+)([kmg])b?", text.lower())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 512m or 2g")
    return int(found[1]) * UNITS[found[2]]


def _prepare(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    from fusebert.corpus.prepare import Settings, most_workers, prepare_corpus
    from fusebert.corpus.shards import LEAST_DOCUMENTS

    if options.workers is None:
        options.workers = min(os.cpu_count() or 1, most_workers(options.max_memory))
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    given = {"max_memory": options.max_memory, "workers": options.workers, "engine": options.engine}
    report = prepare_corpus(options.inputs, options.output, settings, **given, resume=options.resume)
    for name, count in report["counts"].items():
        say(f"{name.replace('_', ' '):24} {count:>14,}")
    if damaged := report["counts"].get("damaged_files"):
        say(f"Warning: {damaged} files are damaged; how many documents are lost is not known (bad_documents.jsonl)")
    kept = [report["counts"].get(f"{part}_documents", 0) for part in ("train", "held_out")]
    if min(kept) < LEAST_DOCUMENTS:
        say(
            f"Warning: documents to train on: {kept[0]:,}, held out: {kept[1]:,}; pre-training needs {LEAST_DOCUMENTS} "
            "of each (blank lines divide a text file into documents; --held-out is the share kept apart)"
        )
    if report["ignored_files"]:
        say(f"{report['ignored_files']} files of other kinds in the folders were ignored")
    say(f"The corpus is in {options.output}; next: fusebert corpus vocabulary {options.output}")
    return report


def _vocabulary(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    nothing(rest)
    from fusebert.corpus.vocabulary import FOLDER, make_vocabulary, unspelled
    from fusebert.modalities.text.processor import MANY_UNKNOWN

    beside = None
    if options.beside is not None:
        from fusebert.model.pretrained import find_trunk

        beside = find_trunk(options.beside)
    had_one = (options.folder / FOLDER).exists()
    report = make_vocabulary(options.folder, options.size, not options.cased, beside)
    if had_one:
        say("the vocabulary that was here is replaced; a run that began with it cannot go on")
    if (size := report["size"]) < options.size:
        say(f"{size:,} pieces are all that the corpus gives, of {options.size:,} that were asked for")
    if (every := report["learnt_from_one_document_in"]) > 1:
        say(f"the corpus is large: learnt from one document in {every}")
    for name in ("own", "beside"):
        if name in report:
            say(f"{name}: " + ", ".join(f"{key} {value:g}" for key, value in report[name].items()))
    if (lost := 1 - report["own"]["coverage"]) > MANY_UNKNOWN:
        say(unspelled(lost, "characters"))
    return report


def _pretrain(options: argparse.Namespace, rest: list[str]) -> dict[str, Any]:
    from fusebert.config import Recipe, settings_of
    from fusebert.recipe_yaml import parse_overrides
    from fusebert.section import seconds

    settings = settings_of(options.source, parse_overrides(no_flags(rest)))
    output = options.output or run_folder(options.source)
    try:
        budget = seconds(options.budget)
    except ValueError as error:
        raise UsageError(f"--budget={options.budget} is {error}") from None
    Recipe.from_flat({"task.name": "pretraining", **settings})  # wrong ones are told before slow imports
    from fusebert.training.pretrain import pretrain
    from fusebert.training.pretrain_recipe import pretraining_recipe
    from fusebert.training.pretrain_table import pretrain_table
    from fusebert.training.progress import Terminal

    recipe = pretraining_recipe(settings)
    source = recipe.table(recipe.data.train or Path())
    if not source.exists():
        raise DataError(f"{source} does not exist; name a prepared corpus, or a table")
    how: dict[str, Any] = {"resume": options.resume, "progress": Terminal("round"), "started": options.began}
    if source.is_dir():
        metrics = pretrain(settings, output, budget=budget, **how)
    elif budget is not None:
        raise UsageError("--budget plans for a corpus; for a table, set training.time_limit")
    else:
        metrics = pretrain_table(settings, output, **how)
    if speaks():
        say(f"The model is in {output}; use it as model.trunk={output}")
    return {"folder": str(output), **metrics}
