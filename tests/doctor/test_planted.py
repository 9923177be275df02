"""Faults are planted in a clean world; the doctor names their rows, and no others."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

from fusebert.cli import main
from fusebert.data.toyworld import write_toyworld
from fusebert.doctor.check import check
from fusebert.doctor.media import _clipped, examine_pictures, examine_sounds
from fusebert.doctor.rows import copied_texts, label_leaks, people_on_both_sides, repeated_ids, running_numbers
from fusebert.types import Sample

PICTURES = {"train": 60, "val": 10, "test": 30}
PLANTED = 6
KEPT = ("id", "image", "audio", "caption", "answer")

Rows = list[dict[str, Any]]


class World:
    """A folder of tables that can be changed: one row a picture, with a melody of its own and a caption."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.chance = folder, Random(0)
        self.tables: dict[str, Rows] = {}
        for split in PICTURES:
            rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
            firsts = {row["image"]: row for row in reversed(rows)}
            self.tables[split] = [{name: row[name] for name in KEPT} for row in firsts.values()]
            for row in self.tables[split]:
                soundfile.write(folder / row["audio"], melody(self.chance), 16_000)

    def some(self, split: str) -> list[int]:
        """Numbers of PLANTED rows of a table."""
        return sorted(self.chance.sample(range(len(self.tables[split])), PLANTED))

    def examine(self, target: str = "answer") -> list[Any]:
        for split, rows in self.tables.items():
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (self.folder / f"{split}.jsonl").write_text(lines)
        return check(self.folder, target, strict=False)[1]


def melody(chance: Random) -> np.ndarray:
    """Eight tones of a tenth of a second."""
    time = np.arange(1600) / 16_000
    tones = [chance.uniform(0.2, 0.6) * np.sin(2 * np.pi * chance.uniform(200, 4000) * time) for _ in range(8)]
    return np.concatenate(tones) + np.random.default_rng(chance.randrange(2**32)).normal(0, 0.002, 12_800)


@pytest.fixture
def clean(tmp_path: Path) -> World:
    return World(write_toyworld(tmp_path / "world", pictures=PICTURES, sounds=True))


def silence(world: World) -> set[tuple[str, int]]:
    chosen = world.some("train")
    for number in chosen:
        soundfile.write(world.folder / world.tables["train"][number]["audio"], np.zeros(9000), 16_000)
    return {("train", number) for number in chosen}


def clip(world: World) -> set[tuple[str, int]]:
    chosen = world.some("test")
    for number in chosen:
        path = world.folder / world.tables["test"][number]["audio"]
        samples, rate = soundfile.read(path)
        soundfile.write(path, np.clip(4 * samples / np.abs(samples).max(), -0.9, 0.9), rate)
    return {("test", number) for number in chosen}


def mix_rates(world: World) -> set[tuple[str, int]]:
    chosen = world.some("train")
    for number in chosen:
        path = world.folder / world.tables["train"][number]["audio"]
        samples, _ = soundfile.read(path)
        soundfile.write(path, samples[::2], 8_000)
    return {("train", number) for number in chosen}


def copy_pictures(world: World) -> set[tuple[str, int]]:
    """Smaller, brighter, and as JPEG."""
    chosen = world.some("test")
    for number, source in zip(chosen, world.some("train"), strict=True):
        picture = (
            Image.open(world.folder / world.tables["train"][source]["image"])
            .resize((56, 56))
            .point(lambda grey: min(255, int(grey * 1.05)))
        )
        name = f"images/copy{number}.jpg"
        picture.save(world.folder / name, quality=80)
        world.tables["test"][number]["image"] = name
    return {("test", number) for number in chosen}


def copy_sounds(world: World) -> set[tuple[str, int]]:
    """Quieter, with a little noise, and as compressed Vorbis."""
    chosen, noise = world.some("test"), np.random.default_rng(0)
    for number, source in zip(chosen, world.some("train"), strict=True):
        samples, rate = soundfile.read(world.folder / world.tables["train"][source]["audio"])
        name = f"audio/copy{number}.ogg"
        soundfile.write(world.folder / name, 0.5 * samples + noise.normal(0, 0.001, len(samples)), rate)
        world.tables["test"][number]["audio"] = name
    return {("test", number) for number in chosen}


def share_speakers(world: World) -> set[tuple[str, int]]:
    for split, rows in world.tables.items():
        for number, row in enumerate(rows):
            row["speaker"] = f"{split}{number % 7}"
    chosen = world.some("test")
    for number in chosen:
        world.tables["test"][number]["speaker"] = "train3"
    return {("test", number) for number in chosen}


def make_a_label_rare(world: World) -> set[tuple[str, int]]:
    rows = world.tables["train"]
    for row in rows:
        row["answer"] = "usual"
    chosen = world.some("train")[:1]
    rows[chosen[0]]["answer"] = "rare"
    return {("train", number) for number in chosen}


def repeat_ids(world: World) -> set[tuple[str, int]]:
    rows = world.tables["train"]
    chosen = [number for number in world.some("train") if number]
    for number in chosen:
        rows[number]["id"] = rows[0]["id"]
    return {("train", number) for number in chosen}


def tell_the_label(world: World) -> set[tuple[str, int]]:
    rows = world.tables["train"]
    for row in rows[: len(rows) * 9 // 10]:
        row["caption"] += f" ({row['answer']})"
    for row in rows[len(rows) * 9 // 10 :]:
        row["caption"] = "nothing is said here"
    return {("train", number) for number in range(len(rows) * 9 // 10)}


def contradict(world: World) -> set[tuple[str, int]]:
    rows = world.tables["train"]
    first, second = world.some("train")[:2]
    rows[second] |= {name: rows[first][name] for name in ("image", "audio", "caption")}
    rows[first]["answer"], rows[second]["answer"] = "yes", "no"
    return {("train", first), ("train", second)}


def copy_rows(world: World, split: str) -> set[tuple[str, int]]:
    rows = world.tables["train"]
    chosen = [number for number in world.some(split) if number or split != "train"]
    for number in chosen:
        world.tables[split][number] |= {name: rows[0][name] for name in ("image", "audio", "caption", "answer")}
    return {(split, number) for number in chosen}


def repeat_rows(world: World) -> set[tuple[str, int]]:
    return copy_rows(world, "train")


def score_training_rows(world: World) -> set[tuple[str, int]]:
    return copy_rows(world, "test")


@pytest.mark.parametrize(
    ("fault", "plant"),
    [
        ("repeated row", repeat_rows),
        ("copied row", score_training_rows),
        ("silent sound", silence),
        ("clipped sound", clip),
        ("mixed rates", mix_rates),
        ("near-duplicate picture", copy_pictures),
        ("near-duplicate recording", copy_sounds),
        ("same people", share_speakers),
        ("rare labels", make_a_label_rare),
        ("repeated id", repeat_ids),
        ("label in the text", tell_the_label),
        ("contradiction", contradict),
    ],
)
def test_planted_rows_are_named_and_no_others(
    clean: World, fault: str, plant: Callable[[World], set[tuple[str, int]]]
) -> None:
    """Precision and recall of one."""
    before = {finding.fault for finding in clean.examine()}
    assert fault not in before
    planted = plant(clean)
    found = [finding for finding in clean.examine() if finding.fault == fault]
    named = {(row.table.stem, row.row - 1) for finding in found for row in finding.rows}
    assert named == planted


@pytest.mark.parametrize(("fault", "plant"), [("near-duplicate picture", copy_pictures), ("silent sound", silence)])
def test_files_in_lists_are_looked_at(clean: World, fault: str, plant: Callable[[World], set[tuple[str, int]]]) -> None:
    planted = plant(clean)
    for row in chain.from_iterable(clean.tables.values()):
        row |= {name: [row[name], row[name]] for name in ("image", "audio") if name in row}
    named = [(row.table.stem, row.row - 1) for one in clean.examine() if one.fault == fault for row in one.rows]
    assert sorted(named) == sorted(planted)


def test_columns_are_named(clean: World) -> None:
    for rows in clean.tables.values():
        for number, row in enumerate(rows):
            row["camera"] = "one"
            row["ward"] = f"{row['answer']} {number % 2}"
            if rows is not list(clean.tables.values())[-1]:
                row["lens"] = str(number)
    found = {(finding.fault, finding.column) for finding in clean.examine()}
    expected = {("constant column", "camera"), ("gives the answer away", "ward"), ("absent column", "lens")}
    assert expected <= found
    assert [column for fault, column in found if fault == "absent column"] == ["lens"]


@pytest.mark.parametrize(
    ("labels", "told", "elsewhere", "leaks"),
    [
        (["好评", "差评"], 1.0, 0.0, True),
        (["good", "bad"], 0.9, 0.0, True),
        (["红", "绿", "蓝"], 1.0, 0.05, True),
        (["good", "bad"], 0.45, 0.3, False),  # a word of praise
        (["好", "差"], 0.7, 0.15, False),
        (["good", "bad"], 0.8, 0.3, False),
        (["a cat", "a dog", "a cow", "a hen"], 0.4, 0.0, False),
        ([f"wish {n}" for n in range(20)], 0.6, 0.0, True),
    ],
)
def test_labels_in_texts_are_told_from_words_that_go_with_them(
    labels: list[str], told: float, elsewhere: float, leaks: bool
) -> None:
    chance, rows = Random(2), []
    for n in range(400):
        own = labels[n % len(labels)]
        words = [label for label in labels if chance.random() < (told if label == own else elsewhere)]
        rows.append(Sample(Path("t.csv"), n, {"text": ", ".join(["it was so", *words]), "y": own}, None))
    assert [finding.column for finding in label_leaks({"train": rows}, ["text"], "y")] == ["text"] * leaks


def test_a_word_that_nearly_all_texts_hold_is_no_label_in_them() -> None:
    """Of the two others nothing can be said."""
    rows = [
        Sample(
            Path("t.csv"),
            n,
            {"text": f"it was {'good' if n % 20 else 'so'}", "y": "bad" if n in (0, 20) else "good"},
            None,
        )
        for n in range(40)
    ]
    assert not [*label_leaks({"train": rows}, ["text"], "y")]


def test_copied_texts_across_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nearly the same long text, the same short one in other case; not a text on the same matter."""
    chance = Random(1)
    words = [f"word{n}" for n in range(500)]
    texts = [" ".join(chance.choices(words, k=60)) for _ in range(40)] + ["Where is my card?"]
    near = texts[3].split()
    near[30] = "else"
    tests = [" ".join(chance.choices(words, k=60)) for _ in range(20)]
    tests[4], tests[9] = " ".join(near), "where is  my CARD?"
    tests.append("where is my purse?")
    for name, rows in (("train", texts), ("test", tests)):
        lines = [json.dumps({"text": text, "label": "ab"[n % 2]}) + "\n" for n, text in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    assert (
        main(
            [
                "check",
                str(tmp_path / "train.jsonl"),
                "--target",
                "label",
                "--json",
                "--against",
                str(tmp_path / "test.jsonl"),
            ]
        )
        == 0
    )
    out = capsys.readouterr()
    findings = json.loads(out.out)["findings"]
    copied = [finding for finding in findings if finding["fault"] == "near-duplicate text"]
    assert [row["row"] for row in copied[0]["rows"]] == [5, 10]
    assert "near-duplicate text: text: 2 rows of test.jsonl are nearly a training row" in out.err
    assert main(["check", str(tmp_path), "--target", "label", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["findings"]
    assert [
        row["row"] for finding in again if finding["fault"] == "near-duplicate text" for row in finding["rows"]
    ] == [5, 10]


def test_short_chinese_texts_are_compared_without_their_signs() -> None:
    def rows(*texts: str) -> list[Sample]:
        return [Sample(Path("t.jsonl"), n, {"text": text}, None) for n, text in enumerate(texts, 1)]

    splits = {"train": rows("酒店有停车位吗？", "很好"), "test": rows("酒店有 停车位吗?", "酒店有早餐吗？")}
    (found,) = copied_texts(splits, ["text"], text_alone=True)
    assert [row.row for row in found.rows] == [1]


def test_texts_that_training_rows_share_tell_no_row_beside_others() -> None:
    def rows(*texts: str) -> list[Sample]:
        return [Sample(Path("t.jsonl"), n, {"text": text, "age": n}, None) for n, text in enumerate(texts, 1)]

    splits = {
        "train": rows("love it", "Love  it", "the hem came undone"),
        "test": rows("love it", "the hem came undone"),
    }
    found = {alone: [*copied_texts(splits, ["text"], text_alone=alone)] for alone in (True, False)}
    assert [row.row for row in found[True][0].rows] == [1, 2]
    assert [row.row for row in found[False][0].rows] == [2]


@pytest.mark.parametrize("write", [int, float, str])
def test_what_counts_the_rows_is_named(write: Callable[[int], Any]) -> None:
    """Also shuffled, and with a fifth of the rows held out; not years, nor numbers of which some come twice."""
    numbers = Random(0).sample(range(100, 200), 80)
    splits = {
        "train": [
            Sample(Path("t.csv"), n, {"row": write(number), "year": 1990 + number % 30, "sold": number * 37}, None)
            for n, number in enumerate(numbers)
        ]
    }
    assert [finding.column for finding in running_numbers(splits, ["row", "year", "sold"])] == ["row"]


def test_people_are_known_however_their_names_are_written() -> None:
    def findings(train: list[Any], test: list[Any]) -> list[str]:
        rows = {
            table: [Sample(Path("t.csv"), row, {"speaker": who, "id": who}, None) for row, who in enumerate(people)]
            for table, people in (("train", train), ("test", test))
        }
        return [one.fault for one in (*people_on_both_sides(rows, ["speaker"]), *repeated_ids(rows, ["id"]))]

    assert findings(["P1", "P2"], ["P1 ", "P3"]) == findings([1, 2], [1.0, None, None]) == ["same people"]
    assert findings(["P1", " P1"], ["P2", "n/a"]) == ["repeated id"]
    assert not findings(["P1", "n/a", None], ["P2", "n/a", None])


@pytest.mark.parametrize(
    "name", ["用户", "用户ID", "用户id", "客户号", "说话人", "手机号", "身份证号", "openid", "uid"]
)
def test_people_are_known_by_chinese_names_of_columns(name: str) -> None:
    rows = {table: [Sample(Path("t.csv"), n, {name: f"u{n}"}, None) for n in range(9)] for table in ("train", "test")}
    assert [finding.fault for finding in people_on_both_sides(rows, [name, "商品"])] == ["same people"]


def test_every_sample_of_a_flat_top_counts() -> None:
    """A sine of twice full scale stands above it for two thirds of the time."""
    wave = np.sin(2 * np.pi * 100 * np.arange(16_000) / 16_000)[:, None]
    assert _clipped(np.clip(2 * wave, -1, 1), 16_000) == pytest.approx(2 / 3, abs=0.02)
    assert _clipped(wave, 16_000) == 0


def test_copies_of_names_and_numbers_count_where_rows_differ(tmp_path: Path) -> None:
    chance = Random(3)
    for digits, wanted in ((6, {"repeated row": [4, 9], "copied row": [2]}), (0, {})):
        rows = [{"size": round(chance.random(), digits), "shop": n % 5, "sold": n % 2} for n in range(100)]
        tests = [{"size": round(chance.random(), digits), "shop": n % 5, "sold": n % 2} for n in range(50)]
        rows[3], rows[8], tests[1] = rows[50], rows[20], rows[60]
        for name, some in (("train", rows), ("test", tests)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        findings = check(tmp_path, "sold", strict=False)[1]
        found = {
            one.fault: [row.row for row in one.rows] for one in findings if one.fault in ("repeated row", "copied row")
        }
        assert found.keys() == wanted.keys()
        assert all(len(found[fault]) == len(numbers) for fault, numbers in wanted.items())


def test_settings_are_those_of_training(clean: World, capsys: pytest.CaptureFixture[str]) -> None:
    clean.examine()
    given = ["check", str(clean.folder), "--target", "answer", "task.unseen_labels=wrong"]
    assert main([*given, "audio.max_seconds=0.5"]) == 1
    assert "rows cannot be used" in capsys.readouterr().err
    assert main([*given, "audio.max_seconds=0.5", "data.columns.audio=ignore"]) == 0
    assert main([*given, "audio.max_secnds=2"]) == 2
    assert "audio.max_seconds" in capsys.readouterr().err


def test_a_table_is_looked_at_once(clean: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Else each of its rows would be a copy."""
    assert main(["check", str(clean.folder), "--against", str(clean.folder / "test.jsonl")]) == 2
    assert "test.jsonl is given twice" in capsys.readouterr().err


def test_a_clean_world_gives_no_alarm(clean: World) -> None:
    assert {finding.fault for finding in clean.examine()} <= {"rare labels"}


def test_the_same_drawing_in_another_colour_is_another_picture(tmp_path: Path) -> None:
    """Also where many training rows show that drawing, and only the last of them is the copy's."""
    colours = [(220, 30, 30), (240, 200, 40), (120, 60, 20), (40, 160, 70), (40, 60, 200), (90, 90, 90)]

    def rows(split: str, side: int, painted: Sequence[tuple[int, int, int]]) -> list[Sample]:
        for n, colour in enumerate(painted):
            picture = Image.new("RGB", (96, 96), "white")
            ImageDraw.Draw(picture).ellipse((20, 28, 70, 78), fill=colour)
            picture.resize((side, side)).save(tmp_path / f"{split}{n}.jpg", quality=70)
        return [Sample(Path("t.csv"), n, {"image": f"{split}{n}.jpg"}, tmp_path) for n in range(len(painted))]

    splits = {"train": rows("train", 96, colours[:5] * 30 + [(10, 140, 140)]), "test": rows("test", 72, colours)}
    (found,) = examine_pictures(splits, "image")
    assert [row.row for row in found.rows] == [0, 1, 2, 3, 4]
    splits["test"] = rows("test", 72, [(10, 140, 140)])
    assert len([*examine_pictures(splits, "image")]) == 1


def test_media_that_cannot_be_read_are_rows_not_findings(clean: World) -> None:
    (clean.folder / clean.tables["train"][0]["audio"]).write_bytes(b"RIFF no sound")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(buffer, "PNG")
    (clean.folder / clean.tables["train"][1]["image"]).write_bytes(buffer.getvalue()[:60])
    clean.examine()
    found, _ = check(clean.folder, "answer", False, (), {"task.unseen_labels": "wrong"})
    assert [problem["row"] for problem in found["problems"]] == [1, 2]


def test_decoded_sound_is_heard_and_channels_may_take_each_other_away(tmp_path: Path) -> None:
    time = np.arange(8000) / 16_000
    loud = [np.sin(2 * np.pi * hertz * time) * 0.3 for hertz in range(300, 700, 50)]
    arrays = [np.stack([sound, -sound if n == 2 else sound]) for n, sound in enumerate(loud)]
    arrays[5][:] = 0
    sounds = [{"array": one.tolist(), "sampling_rate": 8_000 if n == 3 else 16_000} for n, one in enumerate(arrays)]
    rows = [Sample(Path("train"), n, {"sound": sound}, None) for n, sound in enumerate(sounds, 1)]
    copy = Sample(Path("test"), 1, {"sound": sounds[0]}, None)
    findings = examine_sounds({"train": rows, "test": [copy]}, "sound")
    found = {one.fault: [row.row for row in one.rows] for one in findings}
    assert found == {"silent sound": [3, 6], "mixed rates": [4], "near-duplicate recording": [1]}


def hum(random: np.random.Generator) -> np.ndarray:
    """A machine's second: harmonics and noise."""
    turns = random.uniform(50, 120) * np.arange(16_000) / 16_000
    harmonics = sum(0.2 / n * np.sin(2 * np.pi * (n * turns + random.uniform())) for n in range(1, 6))
    return np.asarray(harmonics + 0.05 * random.normal(size=16_000))


def heard(table: str, sounds: list[np.ndarray]) -> list[Sample]:
    given = [{"array": sound.astype(np.float32), "sampling_rate": 16_000} for sound in sounds]
    return [Sample(Path(table), row, {"sound": one}, None) for row, one in enumerate(given, 1)]


def test_steady_sounds_of_a_kind_are_no_copies_and_copies_of_them_are_found() -> None:
    random = np.random.default_rng(0)
    hums = [hum(random) for _ in range(40)]
    copies = [0.3 * one + 0.05 + random.normal(0, 1e-3, len(one)) for one in hums[:3]]  # another gain and offset
    splits = {"train": heard("train", hums[:20]), "test": heard("test", hums[20:] + copies)}
    (found,) = examine_sounds(splits, "sound")
    assert found.fault == "near-duplicate recording"
    assert [row.row for row in found.rows] == [21, 22, 23]


def test_channels_that_take_each_other_away_are_told_from_silence() -> None:
    sound = hum(np.random.default_rng(0))
    rows = heard("train", [np.stack([sound, -sound]), np.zeros(9000), np.full(9000, 0.2), sound])
    (found,) = examine_sounds({"train": rows}, "sound")
    assert [row.row for row in found.rows] == [1, 2, 3]  # a constant voltage is no sound
    assert found.said.endswith("; channels of 1 of them take each other away")


def test_decoded_sound_is_heard_whichever_way_its_channels_lie() -> None:
    tone = np.sin(2 * np.pi * 50 * np.arange(16_000) / 16_000)
    clipped, half = np.clip(1.5 * tone, -0.9, 0.9), np.stack([tone, -tone])
    for sounds in ([clipped, np.stack([clipped, clipped]), np.stack([clipped, clipped], axis=1)], [half, half.T]):
        (found,) = examine_sounds({"train": heard("train", sounds)}, "sound")
        assert [row.row for row in found.rows] == list(range(1, len(sounds) + 1))
    assert found.said.endswith("; channels of 2 of them take each other away")


@pytest.mark.parametrize(("rate", "hertz"), [(8_000, 60), (16_000, 50), (44_100, 100), (96_000, 60)])
def test_low_tones_are_clean(rate: int, hertz: int, tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
    clipped = []
    for place, samples in enumerate([0.8 * tone, np.clip(1.5 * tone, -0.9, 0.9)]):
        soundfile.write(tmp_path / f"{place}.wav", samples, rate)
        rows = [Sample(tmp_path / "t.csv", 1, {"sound": f"{place}.wav"}, tmp_path)]
        clipped.append("clipped sound" in {one.fault for one in examine_sounds({"train": rows}, "sound")})
    assert clipped == [False, True]
