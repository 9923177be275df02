"""The command line: thin, no machine learning in it. Heavy imports stand inside the commands, so `--help` is quick."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from fusebert import __version__
from fusebert.cli import answers, check, corpus, settings, training, vectors
from fusebert.cli.common import STDOUT, print_line, say, speaks
from fusebert.errors import FusebertError, UsageError

EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong use. With --json, stdout holds one JSON object; messages go to stderr."


def main(arguments: Sequence[str] | None = None, followed: bool = False) -> int:
    """Run one command; every foreseeable failure is one line on stderr.

    Args:
        followed: another command runs this one, and says how to go on.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever began this process
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given and speaks()
    options = argparse.Namespace(began=time.monotonic())  # before the slow imports, which a time limit includes
    try:
        options, rest = build_parser().parse_known_args(given, options)
        options.json = as_json
        result = options.run(options, rest)
        if options.json:
            print_line(result)
        if "error" in result:
            return _fail(result["error"], 1, as_json=False)
    except FusebertError as error:
        return _fail(str(error), error.exit_code, as_json)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on with --resume" if "resume" in options and not followed else ""
        return _fail(f"interrupted{goes_on}", 1, as_json)
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename == STDOUT:  # `| head` has what it wants
            return 1
        where = f"{error.filename}: " if error.filename else ""
        goes_on = "; make room, and go on with --resume" if error.errno == errno.ENOSPC and "resume" in options else ""
        return _fail(f"{where}{error.strerror or error}{goes_on}", 1, as_json)
    return 0


class Parser(argparse.ArgumentParser):
    """Tells what is wrong as any command does."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        raise UsageError(message)


def build_parser() -> argparse.ArgumentParser:
    """Every command and its options."""
    parser = Parser(prog="fusebert", description="Multimodal models built on BERT.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"fusebert {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    groups: dict[str, Any] = {"": commands}

    def command(name: str, run: Callable[..., Any], summary: str) -> argparse.ArgumentParser:
        group, _, last = name.rpartition(" ")
        if group not in groups:
            parent = commands.add_parser(group, help=f"see `fusebert {group} --help`", epilog=EPILOG)
            groups[group] = parent.add_subparsers(title="commands", required=True, metavar="COMMAND")
        made = groups[group].add_parser(last, help=summary, description=summary, epilog=EPILOG, allow_abbrev=False)
        made.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        made.set_defaults(run=run)
        return made  # type: ignore[no-any-return]

    for part in (training, answers, check, settings, corpus, vectors):
        part.add_commands(command)
    return parser


def _fail(message: str, code: int, as_json: bool) -> int:
    say(f"fusebert: {' '.join(message.split())}")
    if as_json:
        with suppress(BrokenPipeError):
            print_line({"error": message, "exit_code": code})
    return code
