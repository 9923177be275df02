"""The toy world is repeatable, fair, and true to its pictures."""

from __future__ import annotations

import hashlib
import json
import re
import wave
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fusebert.data.toyworld import CHINESE, COLOURS_RGB, SHAPES, write_toyworld
from fusebert.errors import UsageError

PICTURES = {"train": 150, "val": 30, "test": 60}
SMALL = {"train": 6, "val": 3, "test": 3}
ENGLISH = {CHINESE[word]: word for word in (*COLOURS_RGB, *SHAPES)}
MOST_RIGHT_WITHOUT_PICTURE = 0.45


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toyworld(tmp_path_factory.mktemp("toy") / "world", pictures=PICTURES, sounds=True)


def rows_of(world: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def all_rows(world: Path) -> list[dict[str, Any]]:
    return [row for split in PICTURES for row in rows_of(world, split)]


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_picture(path: Path) -> dict[str, tuple[str, float]]:
    """Colour -> shape and horizontal centre, from the pixels alone."""
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        pixels = np.asarray(picture)
    assert pixels.shape == (64, 64, 3)
    masks = {colour: (pixels == np.uint8(rgb)).all(axis=2) for colour, rgb in COLOURS_RGB.items()}
    return {colour: (shape_of(mask), float(np.nonzero(mask)[1].mean())) for colour, mask in masks.items() if mask.any()}


def shape_of(mask: np.ndarray) -> str:
    rows, columns = np.nonzero(mask)
    box = mask[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    if box.mean() > 0.7:
        return "square" if box[0, 0] and box[-1, -1] else "circle"
    widths = box.sum(axis=1)
    return "triangle" if (np.diff(widths) >= 0).all() else "star"


def words_in(question: str) -> list[str]:
    found = re.findall("|".join([*COLOURS_RGB, *SHAPES, *ENGLISH]), question)
    return [ENGLISH.get(word, word) for word in found]


def answer_from_pixels(question: str, seen: dict[str, tuple[str, float]]) -> str:
    """The right answer, told from the colours and shapes that the question names."""
    match words_in(question):
        case []:
            return str(len(seen))
        case [word] if word in COLOURS_RGB:
            return seen[word][0]
        case [word]:
            return next(colour for colour, (shape, _) in seen.items() if shape == word)
        case [colour, shape]:
            return "yes" if colour in seen and seen[colour][0] == shape else "no"
        case [first, first_shape, second, second_shape]:
            assert (seen[first][0], seen[second][0]) == (first_shape, second_shape)
            assert abs(seen[first][1] - seen[second][1]) > 5
            return "yes" if seen[first][1] < seen[second][1] else "no"
    raise AssertionError(question)


def is_heard(row: dict[str, Any]) -> bool:
    return "voice" in row["question"] or "录音" in row["question"]


def test_same_seed_gives_same_bytes(tmp_path: Path) -> None:
    first = hashes(write_toyworld(tmp_path / "a", pictures=SMALL, seed=3, sounds=True))
    second = hashes(write_toyworld(tmp_path / "b", pictures=dict(reversed(SMALL.items())), seed=3, sounds=True))
    other = hashes(write_toyworld(tmp_path / "c", pictures=SMALL, seed=4, sounds=True))
    assert first == second
    assert first["train.jsonl"] != other["train.jsonl"]
    assert len(first) == 3 + 1 + 2 * sum(SMALL.values())


def test_sounds_change_nothing_else(tmp_path: Path) -> None:
    loud = write_toyworld(tmp_path / "loud", pictures=SMALL, sounds=True)
    quiet = write_toyworld(tmp_path / "quiet", pictures=SMALL)
    assert hashes(loud / "images") == hashes(quiet / "images")
    unheard = [row for row in rows_of(loud, "train") if not is_heard(row)]
    assert [{key: row[key] for key in row if key != "audio"} for row in unheard] == rows_of(quiet, "train")


def test_no_two_pictures_are_alike(world: Path) -> None:
    pictures = [read for name, read in hashes(world).items() if name.startswith("images/")]
    assert len(pictures) == len(set(pictures)) == sum(PICTURES.values())
    used = [{row["image"] for row in rows_of(world, split)} for split in PICTURES]
    assert [len(images) for images in used] == list(PICTURES.values())
    assert not used[0] & used[1] | used[0] & used[2] | used[1] & used[2]


def test_rows_describe_their_picture(world: Path) -> None:
    pictures = {path.name: read_picture(path) for path in (world / "images").iterdir()}
    for row in all_rows(world):
        seen = pictures[Path(row["image"]).name]
        assert row["shapes"] == len(seen)
        assert sorted(row["colours"]) == sorted(seen)
        described = words_in(row["caption"])
        assert sorted(described) == sorted([*seen, *(shape for shape, _ in seen.values())])
        if not is_heard(row):
            assert row["answer"] == answer_from_pixels(row["question"], seen), row
        elif row["answer"] not in COLOURS_RGB:
            assert row["answer"] in [shape for shape, _ in seen.values()]


def test_ids_are_unique_and_languages_are_even(world: Path) -> None:
    rows = all_rows(world)
    assert len({row["id"] for row in rows}) == len(rows) == 5 * sum(PICTURES.values())
    languages = Counter(row["language"] for row in rows)
    assert languages["en"] == languages["zh"]
    for row in rows:
        chinese = row["language"] == "zh"
        assert not chinese == row["question"].isascii() == row["caption"].isascii()


def test_yes_and_no_are_even(world: Path) -> None:
    for split in PICTURES:
        answers = Counter(
            (len(words_in(row["question"])), row["language"], row["answer"]) for row in rows_of(world, split)
        )
        for words in (2, 4):
            for language in ("en", "zh"):
                assert abs(answers[words, language, "yes"] - answers[words, language, "no"]) <= 1


def test_question_alone_does_not_tell_the_answer(world: Path) -> None:
    known: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows_of(world, "train"):
        known[row["question"]][row["answer"]] += 1
    tests = rows_of(world, "test")
    right = [known[row["question"]].most_common(1)[0][0] == row["answer"] for row in tests if row["question"] in known]
    assert len(right) > len(tests) / 2
    assert np.mean(right) < MOST_RIGHT_WITHOUT_PICTURE


def read_sound(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)


def voice_print(sound: np.ndarray) -> np.ndarray:
    """Energy in 200 Hz bands of each half, as a unit vector of decibels around their mean."""
    bands = []
    for half in np.array_split(sound, 2):
        power = np.abs(np.fft.rfft(half, 8192)) ** 2
        energy = 10 * np.log10(power[: 102 * 20].reshape(20, 102).mean(axis=1))
        bands.append(energy - energy.mean())
    joined = np.concatenate(bands)
    return joined / np.linalg.norm(joined)


def test_sounds_say_their_colour(world: Path) -> None:
    prints: dict[str, list[tuple[str, np.ndarray]]] = {"train": [], "test": []}
    for split, found in prints.items():
        for row in rows_of(world, split):
            sound = read_sound(world / row["audio"])
            assert 0.5 * 16_000 <= sound.size <= 16_000
            assert 0.3 * 32768 < np.abs(sound).max() < 32767
            if is_heard(row) and row["answer"] in COLOURS_RGB:
                assert row["answer"] in row["colours"]
                found.append((row["answer"], voice_print(sound)))
    centres = {c: np.mean([x for said, x in prints["train"] if said == c], axis=0) for c in COLOURS_RGB}
    right = [said == max(centres, key=lambda c: float(centres[c] @ x)) for said, x in prints["test"]]
    assert np.mean(right) > 0.9


def test_finished_world_is_left_alone(tmp_path: Path) -> None:
    folder = write_toyworld(tmp_path / "world", pictures=SMALL)
    (folder / "val.jsonl").unlink()
    assert write_toyworld(folder, pictures=SMALL) == folder
    assert not (folder / "val.jsonl").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    write_toyworld(tmp_path / "world", pictures=SMALL)
    with pytest.raises(UsageError, match="other settings"):
        write_toyworld(tmp_path / "world", pictures=SMALL, seed=1)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match="is not a toy world"):
        write_toyworld(tmp_path / "notes", pictures=SMALL)


@pytest.mark.parametrize("pictures", [{}, {"train": 0}, {"dev": 3}, {"train": 1_000_000}])
def test_unusable_numbers_are_refused(tmp_path: Path, pictures: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="1 or more"):
        write_toyworld(tmp_path / "world", pictures=pictures)
    assert not list(tmp_path.iterdir())


def test_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fusebert.data.toyworld._move_into_place", stop)
    with pytest.raises(KeyboardInterrupt):
        write_toyworld(tmp_path / "world", pictures=SMALL)
    assert not list(tmp_path.iterdir())
