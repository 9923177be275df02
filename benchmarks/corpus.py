"""Raw articles to tokenized sentences: fusebert's corpus preparation beside `datasets.map` with the same splitting.

Both sides read the same JSON lines with two processes, clean and split by the same rules, and tokenize with the same
vocabulary; fusebert also drops duplicates and holds documents out. Each side runs in a process of its own, whose
memory (with its children's) is sampled. `ratio_*` is their seconds / ours, `ratio_memory` their peak / ours. In the
end fusebert alone reads ten times as much: copies whose words are shuffled within each sentence, so that all are kept;
peak memory should not follow (`peak_growth`).
"""

from __future__ import annotations

import gzip
import json
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

QUICK_DOCUMENTS = 60
COPIES = 10
WORKERS = 2
SAMPLE_SECONDS = 0.05
OURS = """
import sys
from pathlib import Path
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.tokens import tokenize_corpus
from fusebert.modalities.text.processor import read_tokenizer
if __name__ == "__main__":
    source, folder, trunk = sys.argv[1:]
    report = prepare_corpus([source], Path(folder), Settings(held_out=0.01), workers=2)
    tokenize_corpus(Path(folder), "train", read_tokenizer(Path(trunk)))
    print(sum(count for name, count in report["counts"].items() if name in ("train_documents", "held_out_documents")))
"""
THEIRS = """
import sys
from datasets import load_dataset
from tokenizers import Tokenizer
from fusebert.corpus.sentences import clean, split
if __name__ == "__main__":
    source, folder, trunk = sys.argv[1:]
    tokenizer = Tokenizer.from_file(trunk + "/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    def prepare(rows):
        sentences = [split(clean(text), "en") for text in rows["text"]]
        encode = tokenizer.encode_batch_fast
        encoded = [[one.ids for one in encode(some, add_special_tokens=False)] for some in sentences]
        return {"sentences": sentences, "input_ids": encoded}
    rows = load_dataset("json", data_files=source, split="train", cache_dir=folder)
    rows.map(prepare, batched=True, num_proc=2, remove_columns=rows.column_names).save_to_disk(folder + "/out")
"""


def articles(folder: Path, documents: int | None, copies: int) -> Path:
    """The articles of Wikipedia as JSON lines; each copy but the first has its own order of words."""
    target = folder / f"articles-{copies}.jsonl"
    random = Random(0)
    with target.open("w", encoding="utf-8") as out:
        for copy in range(copies):
            with gzip.open(common.data_folder() / "wiki_en" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
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


def run(program: str, source: Path) -> dict[str, float]:
    """Wall and CPU seconds, the peak of the process's and its children's memory together, and what it printed last."""
    with tempfile.TemporaryDirectory() as room:
        script, said = Path(room) / "side.py", Path(room) / "said"  # a file, so that worker processes can import it
        script.write_text(program, encoding="utf-8")
        given = [sys.executable, str(script), str(source), f"{room}/out", str(common.trunk_folder())]
        started, peak, cpu = time.perf_counter(), 0, 0.0
        with said.open("wb") as out:
            process = subprocess.Popen(given, stdout=out, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                family = [watched, *watched.children(recursive=True)]
                peak = max(peak, sum(member.memory_info().rss for member in family))
                times = watched.cpu_times()
                cpu = max(cpu, times.user + times.system + times.children_user + times.children_system)
            except psutil.Error:
                pass
            time.sleep(SAMPLE_SECONDS)
        wall = time.perf_counter() - started
        lines = said.read_text(encoding="utf-8", errors="replace").split("\n")
        if process.returncode:
            sys.exit("\n".join(lines[-30:]))
    found = {"wall_seconds": round(wall, 2), "cpu_seconds": round(cpu, 2), "peak_mb": round(peak / 2**20, 1)}
    return found | ({"documents": int(lines[-2])} if program == OURS else {})


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--copies", type=int, default=COPIES, help="of the memory test")
    given = options.parse_args()
    common.prepare_process()
    result: dict[str, Any] = {"machine": common.machine()}
    documents = QUICK_DOCUMENTS if given.quick else None
    with tempfile.TemporaryDirectory() as room:
        source = articles(Path(room), documents, 1)
        megabytes = source.stat().st_size / 1e6
        rounds: dict[str, list[dict[str, float]]] = {"fusebert": [], "datasets": []}
        for repeat in range(1 if given.quick else min(3, given.repeats)):
            for name in sorted(rounds, reverse=bool(repeat % 2)):
                rounds[name].append(run(OURS if name == "fusebert" else THEIRS, source))
                common.note(f"  {name}: {rounds[name][-1]}")
        for name, found in rounds.items():
            middle = sorted(found, key=lambda one: one["wall_seconds"])[len(found) // 2]
            result[name] = middle | {"mb_per_second": round(megabytes / middle["wall_seconds"], 2)}
        result["megabytes"] = round(megabytes, 1)
        result["ratio_wall"] = round(result["datasets"]["wall_seconds"] / result["fusebert"]["wall_seconds"], 3)
        result["ratio_memory"] = round(result["datasets"]["peak_mb"] / result["fusebert"]["peak_mb"], 3)
        many = run(OURS, articles(Path(room), documents, given.copies))
        kept = many["documents"] / result["fusebert"]["documents"]
        assert kept > 0.95 * given.copies, f"only {kept:.1f} times the documents were kept; the copies must differ"
        result["copies"] = many | {"copies": given.copies}
        result["peak_growth"] = round(many["peak_mb"] / result["fusebert"]["peak_mb"] - 1, 3)
    common.show(result, given.json)


if __name__ == "__main__":
    main()
