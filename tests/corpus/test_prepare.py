"""From raw documents to shards: every format, duplicates, workers, kills."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sentencex
from pyarrow import parquet

from fusebert.cli import main
from fusebert.corpus import documents as reading
from fusebert.corpus import prepare, process, vocabulary
from fusebert.corpus.duplicates import Fingerprint, Seen, fingerprint
from fusebert.corpus.languages import language_code
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.sentences import clean, language_of, split
from fusebert.corpus.shards import read_shards
from fusebert.corpus.tokens import tokenize_corpus
from fusebert.corpus.vocabulary import make_vocabulary, measure
from fusebert.errors import DataError, RowError, UsageError
from fusebert.modalities.text.tokenizer import train_tokenizer
from tests.corpus.conftest import CHINESE, document, write_jsonl

ALL = Settings(held_out=0.0)


def sentences(folder: Path) -> list[list[str]]:
    return [row["sentences"] for row in read_shards(folder, "train")]


def places(folder: Path) -> dict[tuple[int, int], list[tuple[str, int]]]:
    """Part and number of each piece of a document that was kept, by the document's source and row."""
    found = defaultdict(list)
    for part in ("train", "held_out"):
        for row in read_shards(folder, part):
            source, number, piece = map(int, row["id"].split(":"))
            found[source, number].append((part, piece))
    return found


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.parametrize("kind", ["txt", "jsonl", "jsonl.gz", "parquet", "folder"])
def test_every_format_gives_the_same_documents(kind: str, documents: list[str], tmp_path: Path) -> None:
    texts, source = documents[:40], tmp_path / f"documents.{kind}"
    if kind == "txt":
        source.write_text("\n \n\n".join(texts) + "\n", encoding="utf-8")
    elif kind == "parquet":
        parquet.write_table(pa.table({"text": texts}), source)
    elif kind == "folder":
        (tmp_path / "folder" / "inner").mkdir(parents=True)
        source = tmp_path / "folder"
        write_jsonl(source / "a.jsonl", texts[:25])
        (source / "inner" / "b.txt").write_text("\n\n".join(texts[25:]), encoding="utf-8")
    else:
        write_jsonl(source, texts)
    report = prepare_corpus([str(source)], tmp_path / "out", ALL)
    assert report["counts"]["documents"] == 40
    assert [" ".join(found) for found in sentences(tmp_path / "out")] == [" ".join(text.split()) for text in texts]


def test_another_field(documents: list[str], tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", documents[:5], "body")
    assert prepare_corpus([str(source)], tmp_path / "out", Settings(field="body"))["counts"]["documents"] == 5


def test_two_workers_write_the_bytes_of_one(jsonl: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        prepare_corpus([str(jsonl)], tmp_path / str(workers), workers=workers)
    assert shards(tmp_path / "1") == shards(tmp_path / "2")


def test_duplicates_are_dropped_and_counted(documents: list[str], tmp_path: Path, random: np.random.Generator) -> None:
    long = [document(random, 40) for _ in range(6)]
    near = [text.replace("The king", "The queen", 1).replace(".", "!", 1) for text in long]
    exact = [text.upper() for text in long[:3]] + [documents[0].replace(" ", "  ")]
    source = write_jsonl(tmp_path / "a.jsonl", [*documents[:50], *long, *near, *exact])
    counts = prepare_corpus([str(source)], tmp_path / "out", ALL)["counts"]
    assert counts["exact_duplicates"] == 4
    assert counts["near_duplicates"] == 6
    assert counts["train_documents"] == 56
    kept = prepare_corpus([str(source)], tmp_path / "all", Settings(held_out=0.0, near_duplicates=False))["counts"]
    assert kept["train_documents"] == 62


def test_near_is_not_merely_alike(random: np.random.Generator) -> None:
    prints = [fingerprint(document(random, 30), "en") for _ in range(100)]
    values = np.stack([np.frombuffer(found.signature, np.uint32) for found in prints])
    alike = (values[:, None] == values[None]).mean(axis=2)
    assert alike[~np.eye(100, dtype=bool)].max() < 0.5
    assert isinstance(prints[0], Fingerprint)
    assert len(prints[0].bands()) == 8


def test_chinese_copies_may_differ_in_blanks_and_the_width_of_signs() -> None:
    for one, other, same in (
        ("餐馆的地址在哪？", "餐馆的地址 在哪?", True),
        ("买了３件ＶＩＰ，很好！", "买了3件vip,很好", True),
        ("餐馆的地址在哪？", "餐馆的电话在哪？", False),
        ("！！", "？？", False),
    ):
        assert (fingerprint(one, "zh").exact == fingerprint(other, "zh").exact) == same
    assert fingerprint("It is here.", "en").exact != fingerprint("It is here", "en").exact


def test_held_out_documents_are_apart_and_a_copy_stays_on_its_side(documents: list[str], tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", documents)
    second = write_jsonl(tmp_path / "b.jsonl", documents[::-1])
    settings = Settings(held_out=0.2)
    prepare_corpus([str(first)], tmp_path / "1", settings)
    prepare_corpus([str(second)], tmp_path / "2", settings)
    held = [{" ".join(row["sentences"]) for row in read_shards(tmp_path / n, "held_out")} for n in ("1", "2")]
    assert held[0] == held[1]
    assert 30 < len(held[0]) < 90
    assert not held[0] & {" ".join(found) for found in sentences(tmp_path / "1")}


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_all_pieces_of_a_long_document_are_on_one_side(
    kind: str, documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_DOCUMENT_CHARACTERS", 400)
    source = tmp_path / f"a.{kind}"
    if kind == "txt":
        source.write_text("\n\n".join(documents))
    else:
        write_jsonl(source, documents)
    prepare_corpus([str(source)], tmp_path / "out", Settings(held_out=0.5, least_characters=1))
    found = places(tmp_path / "out").values()
    assert len(found) == len(documents)
    assert {part for pieces in found for part, _ in pieces} == {"train", "held_out"}
    assert all(len({part for part, _ in pieces}) == 1 for pieces in found)
    assert all([piece for _, piece in pieces] == [*range(len(pieces))] for pieces in found)
    assert sum(len(pieces) > 2 for pieces in found) > 100


@pytest.mark.parametrize("settings", [Settings(held_out=1 - 2**-20), Settings(least_characters=10**6)])
def test_a_corpus_without_training_documents_is_refused(settings: Settings, jsonl: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no document is left to train on \(300 documents"):
        prepare_corpus([str(jsonl)], tmp_path / "out", settings)
    assert not [*(tmp_path / "out").iterdir()]


PROGRAM = """
import sys
from fusebert.corpus import documents, prepare
prepare.SHARD_BYTES, prepare.BATCH_CHARACTERS, documents.MAX_DOCUMENT_CHARACTERS = 9_000, 1_000, 500
prepare.prepare_corpus([sys.argv[1]], prepare.Path(sys.argv[2]), prepare.Settings(held_out=0.1), resume=True)
"""


def test_killed_at_any_moment_the_next_run_writes_the_same_bytes(
    jsonl: Path, tmp_path: Path, random: np.random.Generator
) -> None:
    def run(folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", PROGRAM, str(jsonl), str(folder)])

    assert run(tmp_path / "whole").wait() == 0

    def written(folder: Path) -> int:
        return len(list(folder.glob("*.parquet")))

    kills = 0
    while not (tmp_path / "killed" / "corpus.json").exists():
        process, wanted = run(tmp_path / "killed"), written(tmp_path / "killed") + int(random.integers(10, 20))
        while process.poll() is None and written(tmp_path / "killed") < wanted:
            time.sleep(0.0005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    assert len(shards(tmp_path / "whole")) > 3
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    assert all(len({part for part, _ in pieces}) == 1 for pieces in places(tmp_path / "killed").values())
    reports = [json.loads((tmp_path / name / "corpus.json").read_text()) for name in ("killed", "whole")]
    for report in reports:
        assert report.pop("seconds") > 0
    assert reports[0] == reports[1]


@pytest.fixture
def stopped(jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that a bad row in the last line of `jsonl` stopped after a few shards."""
    monkeypatch.setattr(prepare, "SHARD_BYTES", 50_000)
    jsonl.write_text(jsonl.read_text() + "{\n")
    with pytest.raises(DataError, match="--bad-rows skip"):
        prepare_corpus([str(jsonl)], tmp_path / "out")
    assert len(shards(tmp_path / "out")) >= 3
    return tmp_path / "out"


SKIP = Settings(bad_rows="skip")


def test_a_stopped_run_goes_on_only_as_it_was_begun(stopped: Path, jsonl: Path, tmp_path: Path) -> None:
    other = write_jsonl(tmp_path / "other.jsonl", ["text"])
    with pytest.raises(UsageError, match="already holds"):
        prepare_corpus([str(jsonl)], stopped, SKIP)
    for inputs, settings in (([jsonl], Settings(seed=1)), ([jsonl, other], SKIP), ([other], SKIP)):
        with pytest.raises(UsageError, match="other inputs or settings"):
            prepare_corpus([*map(str, inputs)], stopped, settings, resume=True)
    before = jsonl.stat()
    os.utime(jsonl, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(UsageError, match="other inputs or settings"):
        prepare_corpus([str(jsonl)], stopped, SKIP, resume=True)
    os.utime(jsonl, ns=(before.st_atime_ns, before.st_mtime_ns))
    prepare_corpus([str(jsonl)], stopped, SKIP, resume=True)
    prepare_corpus([str(jsonl)], tmp_path / "whole", SKIP)
    assert shards(stopped) == shards(tmp_path / "whole")


def test_shards_that_no_commit_speaks_of_are_removed(stopped: Path, jsonl: Path, tmp_path: Path) -> None:
    (stopped / "train-00099.parquet").write_bytes((stopped / "train-00000.parquet").read_bytes())
    (stopped / "held_out-00099.parquet").write_bytes(b"half")
    prepare_corpus([str(jsonl)], stopped, SKIP, resume=True)
    prepare_corpus([str(jsonl)], tmp_path / "whole", SKIP)
    assert shards(stopped) == shards(tmp_path / "whole")


def test_a_shard_that_is_gone_is_missed(stopped: Path, jsonl: Path) -> None:
    (stopped / "train-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00001\.parquet has been removed"):
        prepare_corpus([str(jsonl)], stopped, SKIP, resume=True)


def test_shards_without_the_state_of_their_run_are_nobody_s(stopped: Path, jsonl: Path) -> None:
    (stopped / "state.sqlite").unlink()
    with pytest.raises(UsageError, match="not the state"):
        prepare_corpus([str(jsonl)], stopped, SKIP, resume=True)
    assert not (stopped / "state.sqlite").exists()


def test_only_what_the_report_counts_is_the_corpus(corpus: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    rows = [*read_shards(copy, "train")]
    (copy / "train-00099.parquet").write_bytes((copy / "held_out-00000.parquet").read_bytes())
    assert [*read_shards(copy, "train")] == rows
    (copy / "train-00000.parquet").unlink()
    with pytest.raises(DataError, match=r"train-00000\.parquet is missing"):
        list(read_shards(copy, "train"))


def test_tokens_of_an_earlier_corpus_in_the_same_place_are_not_used(documents: list[str], tmp_path: Path) -> None:
    tokenizer = train_tokenizer(documents[:20], 300, lowercase=True)
    counts = []
    for number in (40, 90):
        if counts:
            (tmp_path / "out" / "corpus.json").unlink()
            for path in (tmp_path / "out").glob("*.parquet"):
                path.unlink()
        source = write_jsonl(tmp_path / "a.jsonl", documents[:number])
        prepare_corpus([str(source)], tmp_path / "out", ALL, resume=True)
        counts.append(len(tokenize_corpus(tmp_path / "out", "train", tokenizer).documents) - 1)
    assert counts == [40, 90]


def test_what_is_written_is_not_read(documents: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "a.jsonl", documents[:5])
    (tmp_path / "picture.png").write_bytes(b"")
    (tmp_path / "out").mkdir()
    write_jsonl(tmp_path / "out" / "b.jsonl", documents[5:9])
    flags = ["--output", str(tmp_path / "out"), "--held-out", "0", "--workers", "1", "--resume"]
    assert main(["corpus", "prepare", str(tmp_path / "out" / "b.jsonl"), *flags]) == 1
    assert "is to be written" in capsys.readouterr().err
    assert main(["corpus", "prepare", str(tmp_path), *flags]) == 0
    assert "1 files of other kinds" in "".join(capsys.readouterr())
    assert len(sentences(tmp_path / "out")) == 5


@pytest.mark.parametrize(
    ("settings", "workers", "words"),
    [
        (Settings(held_out=1.0), 1, "--held-out"),
        (Settings(held_out=-0.1), 1, "--held-out"),
        (Settings(held_out=float("nan")), 1, "--held-out"),
        (Settings(seed=-1), 1, "--seed"),
        (Settings(seed=2**64), 1, "--seed"),
        (ALL, 0, "--workers"),
    ],
)
def test_python_is_told_what_the_command_line_is_told(
    settings: Settings, workers: int, words: str, jsonl: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=words):
        prepare_corpus([str(jsonl)], tmp_path / "out", settings, workers=workers)


def test_one_source_may_stand_by_itself(jsonl: Path, tmp_path: Path) -> None:
    alone, listed = (prepare_corpus(one, tmp_path / str(n), ALL) for n, one in enumerate((jsonl, [str(jsonl)])))
    assert alone["counts"] == listed["counts"]


def test_one_document_that_cannot_be_processed_does_not_stop_the_others(
    documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No text is known that any of the libraries fails on; so one is made to."""

    def fragile(text: str, language: str) -> list[str]:
        return split(text, language) if "poison" not in text else sentencex.segment(None, text)

    monkeypatch.setattr(process, "split", fragile)
    source = write_jsonl(tmp_path / "a.jsonl", [*documents[:4], "poison " * 50, *documents[4:8]])
    with pytest.raises(DataError, match=r"a\.jsonl, row 5, column 'text': the text cannot be processed \(TypeError"):
        prepare_corpus([str(source)], tmp_path / "refused", ALL)
    counts = prepare_corpus([str(source)], tmp_path / "out", Settings(held_out=0.0, bad_rows="skip"))["counts"]
    assert (counts["train_documents"], counts["bad"]) == (8, 1)
    assert json.loads((tmp_path / "out" / "bad_documents.jsonl").read_text())["row"] == 5


def test_a_vocabulary_is_measured_on_all_of_the_held_out_part(documents: list[str], tmp_path: Path) -> None:
    prepare_corpus([str(write_jsonl(tmp_path / "a.jsonl", documents))], tmp_path / "out", Settings(held_out=0.1))
    report = make_vocabulary(tmp_path / "out", 400)
    assert report["own"]["coverage"] == 1.0
    assert report["learnt_from_one_document_in"] == 1
    tokenizer = train_tokenizer(["abc abd bcd"] * 9, 200, lowercase=True)
    assert measure(tokenizer, ["abc bcd", "abc 国国"])["coverage"] == pytest.approx(9 / 11, abs=1e-6)
    half, nothing = (measure(tokenizer, [text]) for text in ("abc 国国", "国国 国国"))
    assert (half["fertility"], half["whole_words"]) == (1.0, pytest.approx(1 / 3, abs=1e-3))
    assert (nothing["fertility"], nothing["whole_words"], nothing["unknown"]) == (0.0, 0.0, 1.0)


def test_a_vocabulary_of_a_huge_corpus_is_learnt_from_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{'apples' if number % 3 == 0 else 'bananas'} fell in the garden {number}" for number in range(30)]
    one = Settings(held_out=0.0, least_characters=1, near_duplicates=False)
    counts = prepare_corpus([str(write_jsonl(tmp_path / "a.jsonl", texts))], tmp_path / "out", one)["counts"]
    monkeypatch.setattr(vocabulary, "LEARNT_CHARACTERS", counts["train_characters"] // 3 + 1)
    assert make_vocabulary(tmp_path / "out", 200)["learnt_from_one_document_in"] == 3
    pieces = vocabulary.corpus_tokenizer(tmp_path / "out").get_vocab()
    assert "apples" in pieces
    assert "bananas" not in pieces


def test_clean_text() -> None:
    assert clean("cafe\u0301\u200b  a\u00a0b\r\nc\x00\ufeff\ud800") == "caf\u00e9 a b\nc"
    assert clean("\u202eabc\u202c") == "abc"
    assert clean("e\u200b\u0301") == "\u00e9"
    assert clean("a\x85b\u2028c\x1dd") == "a\nb\nc\nd"
    assert clean("a" + "\u0316" * 40 + "b") == "a" + "\u0316" * 30 + "b"
    assert (
        clean("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645") == "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    )


def test_sentences_and_languages() -> None:
    assert split("Dr. Smith came. He left at 5 p.m. yesterday!\nA new line", "en") == [
        "Dr. Smith came.",
        "He left at 5 p.m. yesterday!",
        "A new line",
    ]
    assert split("".join(CHINESE), "zh") == list(CHINESE)
    assert split("他说：“你好。”她走了。", "zh") == ["他说：“你好。”", "她走了。"]
    assert [language_of(text) for text in ("Hello there.", "".join(CHINESE), "これはペンです。")] == ["en", "zh", "ja"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("В 1837 г. А. С. Пушкин умер.", "ru"),
        ("Ο Σίσυφος ήρθε στις 5 μ.μ. στην Αθήνα.", "el"),
        ("ഡോ. നായർ വന്നു.", "ml"),
        ("Պարոն Ա. Բ. եկավ։", "hy"),
        ("लड़का किताब पढ़ता है।", "other"),
        ("학생은 책을 읽었습니다.", "other"),
        ("قرأ الدرس.", "other"),
        ("Tiếng Việt ở đâu?", "en"),
        ("The angle α + β is 90° (Ω).", "en"),
    ],
)
def test_the_script_decides_whose_rules_are_taken(text: str, code: str) -> None:
    assert language_of(text) == code
    assert len(split(text, code)) == 1
    assert split("Ein Satz. Noch einer.", "de") == ["Ein Satz.", "Noch einer."]


def test_where_all_is_skipped_the_reason_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("all of it is UTF-16", encoding="utf-16")
    with pytest.raises(DataError, match=r"no document could be read; first: is UTF-16.* save it as UTF-8"):
        prepare_corpus(tmp_path / "a.txt", tmp_path / "out", Settings(bad_rows="skip"))


def test_hidden_files_are_no_documents(documents: list[str], tmp_path: Path) -> None:
    for place in ("in", "in/.trash", "in/more"):
        (tmp_path / place).mkdir(exist_ok=True)
    write_jsonl(tmp_path / "in" / "more" / "a.jsonl", documents[:2])
    write_jsonl(tmp_path / "in" / ".b.jsonl", documents[2:4])
    write_jsonl(tmp_path / "in" / ".trash" / "c.jsonl", documents[4:6])
    assert prepare_corpus(tmp_path / "in", tmp_path / "out", ALL)["counts"]["documents"] == 2


@pytest.mark.parametrize(("config", "count"), [(":few", 3), (":many", 6)])
def test_a_data_set_of_the_hub_has_parts(config: str, count: int, documents: list[str], tmp_path: Path) -> None:
    """The library reads a folder as it reads the Hub."""
    (tmp_path / "set").mkdir()
    names = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("few", "many"))
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{names}---\n")
    for name, size in (("few", 3), ("many", 6)):
        write_jsonl(tmp_path / "set" / f"{name}.jsonl", documents[:size])
    found = prepare_corpus(f"hub:{tmp_path / 'set'}{config}", tmp_path / "out", ALL)
    assert found["counts"]["documents"] == count
    assert [len(row["sentences"]) > 0 for row in read_shards(tmp_path / "out", "train")] == [True] * count


def test_a_shard_ends_where_much_was_read_and_little_kept(
    documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [documents[0]] * 100 + [documents[1]] * 100)
    monkeypatch.setattr(prepare, "MOST_READ", 100 * (len(documents[0]) + 200))
    report = prepare_corpus(source, tmp_path / "out", Settings(held_out=0.0))
    assert report["shards"] == {"train": 2}
    assert report["counts"]["train_documents"] == 2


def test_a_run_that_has_kept_nothing_yet_goes_on_with_the_same_settings_only(
    documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of texts that are too short and rows that cannot be read, much is passed before the first shard."""
    source = write_jsonl(tmp_path / "a.jsonl", ["too short"] * 100)
    with source.open("a") as file:
        file.write("{\n" * 100)
    before = source.stat()
    real, commits = prepare._Run._commit, []

    def stopping(run: Any) -> None:
        real(run)
        commits.append(run.counts["documents"] + run.counts["bad"])
        if commits[-1] > 120:
            raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "MOST_READ", 30 * 209)
    monkeypatch.setattr(prepare._Run, "_commit", stopping)
    given = {"held_out": 0.0, "bad_rows": "skip"}
    with pytest.raises(KeyboardInterrupt):
        prepare_corpus(source, tmp_path / "out", Settings(**given))
    assert commits == [30, 60, 90, 121]
    monkeypatch.setattr(prepare._Run, "_commit", real)
    assert source.stat() == before
    with pytest.raises(UsageError, match="begun with other inputs or settings"):
        prepare_corpus(source, tmp_path / "out", Settings(**given, least_characters=5), resume=True)
    with pytest.raises(DataError, match=r"no document is left to train on \(100 documents, 100 too short"):
        prepare_corpus(source, tmp_path / "out", Settings(**given), resume=True)


def test_what_to_do_about_a_bad_row_after_whole_shards_can_be_done(
    documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", documents[:40])
    with source.open("a") as file:
        file.write("{\n" + json.dumps({"text": documents[40]}) + "\n")
    monkeypatch.setattr(prepare, "SHARD_BYTES", 2000)
    with pytest.raises(DataError, match=r"row 41.*Go on without .* --bad-rows skip --resume; or mend it and begin"):
        prepare_corpus(source, tmp_path / "out", ALL)
    skipping = Settings(held_out=0.0, bad_rows="skip")
    assert prepare_corpus(source, tmp_path / "out", skipping, resume=True)["counts"]["bad"] == 1


def test_a_language_is_a_code(jsonl: Path, tmp_path: Path) -> None:
    assert [language_code(given) for given in ("zh-CN", "EN", "pt_br", "gsw", "auto", "other")] == [
        *("zh", "en", "pt", "gsw", "auto", "other")
    ]
    for given in ("tlh", "english", "", "xx"):
        with pytest.raises(UsageError, match="--language"):
            prepare_corpus(jsonl, tmp_path / "out", Settings(language=given))
    assert split("Dr. Smith came. He left.", "other") == split("Dr. Smith came. He left.", "en")


def test_a_megabyte_without_a_line_end_is_split_in_time() -> None:
    """sentencex alone takes minutes for it."""
    text = "".join(CHINESE) * 20_000
    started = time.process_time()
    assert split(text, "zh") == list(CHINESE) * 20_000
    assert len(split("国" * 100_000, "zh")) == 49
    assert time.process_time() - started < 10


def test_a_megabyte_of_marks_is_cleaned_in_time() -> None:
    started = time.process_time()
    clean("\u0301\u0316" * 2**19)  # to order them takes 15 minutes
    assert time.process_time() - started < 2


def test_long_lines_end_no_sentence_that_goes_on(random: np.random.Generator) -> None:
    expected = document(random, 300).replace("\n", " ").replace(". ", ".|").split("|")
    assert split(" ".join(expected), "en") == expected
    assert len(" ".join(expected)) > 10_000


def test_what_is_compared_is_bounded(tmp_path: Path) -> None:
    """Thousands of documents may share a band of their fingerprints and yet not be near-duplicates."""
    band = np.arange(8, dtype=np.uint32)
    random = np.random.default_rng(0)
    with contextlib.closing(sqlite3.connect(tmp_path / "a.sqlite")) as database:
        seen = Seen(database)
        steps: list[int] = []
        database.set_progress_handler(lambda: steps.append(1), 100)
        for number in range(600):
            signature = np.concatenate([band, random.integers(0, 2**32, 56, dtype=np.uint32)])
            assert seen.add(Fingerprint(number.to_bytes(16, "big"), signature.tobytes())) is None
            if number == 299:
                half = len(steps)
    assert len(steps) - half < 1.5 * half  # and not three times, as all pairs would cost


def test_folders_behind_links_are_read_once(documents: list[str], tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    write_jsonl(tmp_path / "here" / "a.jsonl", documents[:5])
    write_jsonl(tmp_path / "elsewhere" / "b.jsonl", documents[5:9])
    (tmp_path / "here" / "books").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "here")
    prepare_corpus([str(tmp_path / "here")], tmp_path / "out", ALL)
    assert len(sentences(tmp_path / "out")) == 9


def test_a_line_that_cannot_be_read_does_not_cut_its_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves would land on both sides of the held-out line. Rows come in order, as resuming counts on it."""
    path, bad = tmp_path / "a.txt", b"caf\xe9\n"
    path.write_bytes(bad + b"one\n" + bad + b"two\n" + bad + b"\n\n" + bad + b"three\n")

    def read() -> list[tuple[int, str | None]]:
        found = reading.read_documents(str(path), 0, "text")
        return [(one.row, None if isinstance(one, RowError) else one.text) for one in found]

    assert read() == [(1, None), (2, "one\ntwo\n"), (3, None), (5, None), (8, None), (9, "three\n")]
    monkeypatch.setattr(reading, "MOST_BAD_LINES", 1)
    assert read() == [(1, None), (2, "one\n"), (3, None), (4, "two\n"), (5, None), (8, None), (9, "three\n")]


def test_a_vocabulary_that_is_replaced_is_said(
    documents: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_corpus([str(write_jsonl(tmp_path / "a.jsonl", documents))], tmp_path / "out", Settings(held_out=0.1))
    said = []
    for size in ("300", "200"):
        assert main(["corpus", "vocabulary", str(tmp_path / "out"), "--size", size]) == 0
        said.append("that was here is replaced" in capsys.readouterr().err)
    assert said == [False, True]


def test_too_few_documents_to_pretrain_on_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a book without blank lines."""
    (tmp_path / "book.txt").write_text("The ship left the harbour. It came back in spring.\n" * 20)
    assert main(["corpus", "prepare", str(tmp_path / "book.txt"), "--output", str(tmp_path / "out")]) == 0
    assert "documents to train on: 1, held out: 0; pre-training needs 2 of each" in capsys.readouterr().err


def test_a_corpus_that_gives_fewer_pieces_than_asked_says_how_many(
    documents: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare_corpus([str(write_jsonl(tmp_path / "a.jsonl", documents))], tmp_path / "out", Settings(held_out=0.1))
    assert main(["corpus", "vocabulary", str(tmp_path / "out"), "--size", "1000000", "--json"]) == 0
    written = capsys.readouterr()
    assert f"{json.loads(written.out)['size']:,} pieces are all that the corpus gives" in written.err
