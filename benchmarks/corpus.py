"""Raw articles to tokenized sentences: fusebert's corpus preparation beside `datasets.map` with the same splitting.

Both sides read the same JSON lines with two processes, clean and split by the same rules, tokenize all of it with the
same vocabulary (TOKENIZERS_PARALLELISM is true for both) to int32, and leave files; fusebert also drops duplicates and
holds documents out. It runs twice: as users have it (`fusebert`), and without the fingerprints for near-duplicates,
which the other side does not make either (`same_work`, `ratio_wall_same_work`). `datasets` takes the better of two
batch sizes, tried on a part. Each side runs in a process of its own, whose memory (with its children's, shared pages
divided among them: PSS) is sampled: `peak_mb` is what it holds, `peak_pss_mb` also counts pages of files that are
mapped, such as Arrow files and libraries, which the system may take back. `ratio_wall` is their seconds / ours,
`ratio_memory` their `peak_mb` / ours. In the end fusebert alone reads ten times as much: copies whose words are
shuffled within each sentence, so that all are kept; peak memory should not follow (`peak_growth`).
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import psutil

import common

QUICK_DOCUMENTS, TRIAL_DOCUMENTS = 60, 1000
COPIES = 10
WORKERS = 2
BATCH_SIZES = (100, 1000)
SAMPLE_SECONDS = 0.1
MOST_DIFFERENCE = 0.01
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "true"}
OURS = f"""
import json, sys, time
from pathlib import Path
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.tokens import tokenize_corpus
from fusebert.modalities.text.tokenizer import read_tokenizer
if __name__ == "__main__":
    source, folder, trunk, near = sys.argv[1:5]
    settings = Settings(held_out=0.01, least_characters=1, near_duplicates=near == "near")
    prepare_corpus([source], Path(folder), settings, workers={WORKERS})
    tokenizer = read_tokenizer(Path(trunk))
    parts = [tokenize_corpus(Path(folder), part, tokenizer) for part in ("train", "held_out")]
    ended = time.time()
    counts = {{name: sum(len(getattr(part, name)) - 1 for part in parts) for name in ("documents", "sentences")}}
    print(json.dumps({{"ended": ended, "pieces": sum(len(part.ids) for part in parts), **counts}}))
"""
THEIRS = f"""
import json, sys, time
from datasets import Features, List, Value, load_dataset
from tokenizers import Tokenizer
from fusebert.corpus.sentences import clean, split
if __name__ == "__main__":
    source, folder, trunk, batch = sys.argv[1:]
    tokenizer = Tokenizer.from_file(trunk + "/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    def prepare(rows):
        sentences = [split(clean(text), "en") for text in rows["text"]]
        encode = tokenizer.encode_batch_fast
        encoded = [[one.ids for one in encode(some, add_special_tokens=False)] for some in sentences]
        return {{"sentences": sentences, "input_ids": encoded}}
    rows = load_dataset("json", data_files=source, split="train", cache_dir=folder)
    columns = Features({{"sentences": List(Value("string")), "input_ids": List(List(Value("int32")))}})
    given = {{"num_proc": {WORKERS}, "batch_size": int(batch), "features": columns}}
    rows = rows.map(prepare, batched=True, remove_columns=rows.column_names, **given)
    ended = time.time()
    ids = [part.flatten() for part in rows.data.column("input_ids").chunks]
    counts = {{"sentences": sum(map(len, ids)), "pieces": sum(len(part.flatten()) for part in ids)}}
    print(json.dumps({{"ended": ended, "documents": len(rows), **counts}}))
"""


def articles(folder: Path, documents: int | None, copies: int) -> Path:
    """The articles of Wikipedia as JSON lines; each copy but the first has its own order of words."""
    target = folder / f"articles-{copies}.jsonl"
    random = Random(0)
    with target.open("w", encoding="utf-8") as out:
        for copy in range(copies):
            with gzip.open(common.articles(), "rt", encoding="utf-8") as lines:
                for line in islice(lines, documents):
                    row = json.loads(line)
                    text = shuffled(row["text"], random) if copy else row["text"]
                    out.write(json.dumps({"id": f"{copy}-{row['id']}", "text": text}, ensure_ascii=False) + "\n")
    return target


def shuffled(text: str, random: Random) -> str:
    """The same words and full stops, in another order between two full stops: no duplicate, but of the same kind."""
    lines = []
    for line in text.split("\n"):
        sentences = [sentence.split(" ") for sentence in line.split(". ")]
        for words in sentences:
            random.shuffle(words)
        lines.append(". ".join(" ".join(words) for words in sentences))
    return "\n".join(lines)


def run(program: str, source: Path, *more: str) -> dict[str, float]:
    """Wall and CPU seconds, the peak memory of the process and its children together, and what they counted."""
    with tempfile.TemporaryDirectory() as room:
        script, said = Path(room) / "side.py", Path(room) / "said"  # a file, so that worker processes can import it
        script.write_text(program, encoding="utf-8")
        given = [sys.executable, str(script), str(source), f"{room}/out", str(common.trunk_folder()), *more]
        started, cpu, peaks = time.time(), 0.0, [0, 0]
        with said.open("wb") as out:
            process = subprocess.Popen(given, stdout=out, stderr=subprocess.STDOUT, env=os.environ | ENVIRONMENT)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                times = watched.cpu_times()
                cpu = max(cpu, times.user + times.system + times.children_user + times.children_system)
                family = [watched, *watched.children(recursive=True)]
                now = zip(*map(memory, family), strict=True)
                peaks = [max(peak, sum(each)) for peak, each in zip(peaks, now, strict=True)]
            except psutil.Error:
                pass
            time.sleep(SAMPLE_SECONDS)
        lines = said.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")
        if process.returncode:
            sys.exit("\n".join(lines[-30:]))
    counts = json.loads(lines[-1])
    wall = counts.pop("ended") - started
    held, whole = (round(peak / 2**10, 1) for peak in peaks)
    measured = {"wall_seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "peak_mb": held, "peak_pss_mb": whole}
    return measured | counts


def memory(process: psutil.Process) -> tuple[int, int]:
    """KiB of a process without and with mapped files; of pages that several share, its part. 0 when it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0, 0
    found = {name: int(size.split()[0]) for name, size in (line.split(":") for line in lines)}
    return found["Pss_Anon"] + found["Pss_Shmem"], found["Pss"]


def check_same_work(ours: dict[str, float], theirs: dict[str, float]) -> None:
    """Duplicates apart, which only fusebert drops."""
    for name in ("documents", "sentences", "pieces"):
        difference = abs(ours[name] / theirs[name] - 1)
        assert difference < MOST_DIFFERENCE, f"the {name} of the two sides differ by {difference:.1%}"


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--copies", type=int, default=COPIES, help="of the memory test")
    given = options.parse_args()
    common.prepare_process()
    result: dict[str, Any] = {"machine": common.machine()}
    documents = QUICK_DOCUMENTS if given.quick else None
    with tempfile.TemporaryDirectory() as room:
        trial = articles(Path(room), documents or TRIAL_DOCUMENTS, 1)
        tried = {size: run(THEIRS, trial, str(size)) for size in BATCH_SIZES}
        batch = min(tried, key=lambda size: tried[size]["wall_seconds"])
        result["datasets_batch_size"] = batch
        result["tokenizers_parallelism"] = ENVIRONMENT["TOKENIZERS_PARALLELISM"]
        source = articles(Path(room), documents, 1)
        megabytes = source.stat().st_size / 1e6
        sides = {"fusebert": (OURS, "near"), "same_work": (OURS, "exact"), "datasets": (THEIRS, str(batch))}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for repeat in range(1 if given.quick else min(3, given.repeats)):
            for name in sorted(rounds, reverse=bool(repeat % 2)):
                program, argument = sides[name]
                rounds[name].append(side := run(program, source, argument))
                common.note(f"  {name}: {side}")
        for name in ("fusebert", "same_work"):
            check_same_work(rounds[name][0], rounds["datasets"][0])
        for name, found in rounds.items():
            middle = sorted(found, key=lambda one: one["wall_seconds"])[len(found) // 2]
            result[name] = middle | {"mb_per_second": round(megabytes / middle["wall_seconds"], 2)}
        result["megabytes"] = round(megabytes, 1)
        result["ratio_wall"] = round(result["datasets"]["wall_seconds"] / result["fusebert"]["wall_seconds"], 3)
        same = result["same_work"]["wall_seconds"]
        result["ratio_wall_same_work"] = round(result["datasets"]["wall_seconds"] / same, 3)
        result["ratio_memory"] = round(result["datasets"]["peak_mb"] / result["fusebert"]["peak_mb"], 3)
        many = run(OURS, articles(Path(room), documents, given.copies), "near")
        kept = many["documents"] / result["fusebert"]["documents"]
        assert kept > 0.95 * given.copies, f"only {kept:.1f} times the documents were kept; the copies must differ"
        result["copies"] = many | {"copies": given.copies}
        result["peak_growth"] = round(many["peak_mb"] / result["fusebert"]["peak_mb"] - 1, 3)
    common.show(result, given.json)


if __name__ == "__main__":
    main()
