"""Runs the benchmarks of speed and writes a dated page beside this file (`make bench`).

Those that train for long stand by themselves: `pretrain_race`, `pretrain_use`, `pretrain_law`, `leave_one_out`; and
`gpu_pretrain`, which needs a GPU.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

HERE = Path(__file__).resolve().parent
RUNS = {
    "Fine-tuning": ["finetune.py"],
    "Encoding": ["encode.py"],
    "Share of the matrix rate": ["matrix_rate.py"],
    "Pre-training steps": ["pretrain.py"],
    "Corpus preparation": ["corpus.py"],
    "Modalities": ["modalities.py"],
    "Kill and resume": ["kill_resume.py"],
    "Kill and resume: transformers Trainer": ["kill_resume.py", "--peer"],
}
HIDDEN = ("machine", "repeats")


def run(arguments: list[str]) -> dict[str, Any]:
    """The JSON object of one benchmark; its notes go to this program's stderr."""
    command = [sys.executable, str(HERE / arguments[0]), "--json", *arguments[1:]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def flat(found: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots."""
    out: dict[str, Any] = {}
    for name, value in found.items():
        if name not in HIDDEN:
            out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return out


def page(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    machine = next(iter(results.values()))["machine"]
    lines = [f"# Benchmarks of {machine['date']}", "", "`ratio_*` is the other side's time / fusebert's.", ""]
    lines += _table("Machine", machine)
    for title, found in results.items():
        command = " ".join(RUNS[title])
        lines += [f"## {title}", "", f"`python benchmarks/{command} --json`", "", *_table("Measured", flat(found))]
    return "\n".join(lines)


def _table(title: str, values: dict[str, Any]) -> list[str]:
    return [f"| {title} | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items()), ""]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    given = options.parse_args()
    more = ["--repeats", str(given.repeats)] + ["--quick"] * given.quick
    results = {}
    for title, arguments in RUNS.items():
        common.note(f"{title} ...")
        results[title] = run(arguments + more)
    target = HERE / f"results-{'quick' if given.quick else datetime.date.today().isoformat()}.md"
    target.write_text(page(results), encoding="utf-8")
    common.show({"page": str(target)} | results, given.json)


if __name__ == "__main__":
    main()
