"""Sounds, columns of tables and histories as they should not be."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile

from tests.bad_input.place import BAD_ROW, Case, Place, png

BAD = f"row {BAD_ROW}"
RATE_HZ = 16_000
SMALL = ("model.trunk=tiny", "training.epochs=1", "training.trackers=[]")


def tone(seconds: float = 0.1, rate: int = RATE_HZ) -> np.ndarray:
    return np.asarray(0.3 * np.sin(np.arange(int(seconds * rate)) / 7), dtype=np.float32)


def sound(samples: np.ndarray, rate: int = RATE_HZ, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def wav(channels: int = 1, rate: int = RATE_HZ, bits: int = 16, code: int = 1, claimed: int | None = None) -> bytes:
    """A WAV whose header says what it is told to, before 200 bytes of samples."""
    data = bytes(range(200))
    step = channels * bits // 8
    header = struct.pack("<HHIIHH", code, channels, rate, rate * step & 0xFFFFFFFF, step, bits)
    body = b"fmt " + struct.pack("<I", len(header)) + header
    body += b"data" + struct.pack("<I", len(data) if claimed is None else claimed) + data
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


def flac_of_hours() -> bytes:
    """A FLAC whose header says 10 hours, after which there is a tenth of a second."""
    data = bytearray(sound(tone(), kind="FLAC"))
    packed = int.from_bytes(data[18:26], "big")
    packed = packed >> 36 << 36 | 10 * 3600 * RATE_HZ
    data[18:26] = packed.to_bytes(8, "big")
    return bytes(data)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.wav", sound(tone()))
    return file.getvalue()


def heard(value: Any, data: bytes | None = None) -> Callable[[Place], list[str]]:
    """Train on recordings; row 4 has `value`, a file of these bytes if they are given."""

    def command(place: Place) -> list[str]:
        place.write("good.wav", sound(tone()))
        if data is not None:
            place.write(str(value), data)
        rows = [{"audio": "good.wav", "answer": ("yes", "no")[number % 2]} for number in range(12)]
        rows[BAD_ROW - 1]["audio"] = value
        return train(place, rows, "data.columns.audio=audio")

    return command


def column(value: Any, good: Callable[[int], Any], *settings: str) -> Callable[[Place], list[str]]:
    """Train on a table's column; row 4 has `value`."""

    def command(place: Place) -> list[str]:
        rows = [{"x": good(number), "answer": ("yes", "no")[number % 2]} for number in range(40)]
        rows[BAD_ROW - 1]["x"] = value
        return train(place, rows, "data.columns.x=table", *settings)

    return command


def history(value: Any) -> Callable[[Place], list[str]]:
    """Train on histories; row 4 has `value`."""

    def command(place: Place) -> list[str]:
        rows = [{"clicks": [{"item": number % 5}], "answer": ("yes", "no")[number % 2]} for number in range(12)]
        rows[BAD_ROW - 1]["clicks"] = value
        return train(place, rows, "data.columns.clicks=events")

    return command


def events(*changes: dict[str, Any], settings: tuple[str, ...] = (), catalogue: list[Any] | None = None) -> Any:
    """Train a recommender on a table of events; `changes` are made to those from row 4 on."""

    def command(place: Place) -> list[str]:
        rows: list[dict[str, Any]] = [
            {"user": f"u{number % 3}", "item": f"i{number % 7}", "time": number, "stars": 3} for number in range(40)
        ]
        for row, change in zip(rows[BAD_ROW - 1 :], changes, strict=False):
            row.update(change)
        more = ["task.name=recommendation", "task.time=time", "task.value=stars", *settings]
        if catalogue is not None:
            more.append(f"task.catalogue={place.jsonl(catalogue, 'items.jsonl')}")
        return train(place, rows, *more, target=False)

    return command


def train(place: Place, rows: list[dict[str, Any]], *settings: str, target: bool = True) -> list[str]:
    table = place.write("rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    aim = ["--target", "answer"] if target else []
    return ["train", str(table), *aim, "--output", str(place.output), *SMALL, *settings]


def link_out(place: Place) -> list[str]:
    (place.folder / "link.wav").symlink_to(place.model / "model.safetensors")
    return heard("link.wav")(place)


def folder_as_sound(place: Place) -> list[str]:
    (place.folder / "folder.wav").mkdir()
    return heard("folder.wav")(place)


def number(row: int) -> Any:
    return row + 0.5


def day(row: int) -> Any:
    return f"2024-01-{1 + row % 28:02}"


def kind(row: int) -> Any:
    return ("a", "b", "c")[row % 3]


AUDIO, X, CLICKS = "'audio'", "'x'", "'clicks'"
NOT_A_SOUND = (BAD, AUDIO, "not a sound file")

SOUNDS = [
    Case("missing", heard("none.wav"), 1, ("rows.jsonl", BAD, AUDIO, "none.wav", "does not exist")),
    Case("0 bytes", heard("a.wav", b""), 1, (BAD, AUDIO, "empty")),
    Case("text named .wav", heard("a.wav", b"hello\n" * 50), 1, NOT_A_SOUND),
    Case("a page named .mp3", heard("a.mp3", b"<!doctype html><title>404</title>" * 9), 1, NOT_A_SOUND),
    Case("picture named .wav", heard("a.wav", png()), 1, NOT_A_SOUND),
    Case("zip named .wav", heard("a.wav", zipped()), 1, NOT_A_SOUND),
    Case("samples without a header", heard("a.wav", tone().tobytes()), 1, NOT_A_SOUND),
    Case("half a header", heard("a.wav", wav()[:30]), 1, (BAD, AUDIO, "cut short")),
    Case("0 samples", heard("a.wav", sound(tone(0))), 1, (BAD, AUDIO, "no samples")),
    Case("0 samples, flac", heard("a.flac", sound(tone(0), kind="FLAC")), 1, (BAD, AUDIO)),
    Case("unknown format code", heard("a.wav", wav(code=0x9999)), 1, NOT_A_SOUND),
    Case("0 bits a sample", heard("a.wav", wav(bits=0)), 1, (BAD, AUDIO)),
    Case("0 channels", heard("a.wav", wav(channels=0)), 1, (BAD, AUDIO)),
    Case("100 channels", heard("a.wav", sound(np.zeros((99, 100), np.float32))), 1, (BAD, AUDIO, "100 channels")),
    Case("0 Hz", heard("a.wav", wav(rate=0)), 1, (BAD, AUDIO)),
    Case("1 Hz", heard("a.wav", wav(rate=1)), 1, (BAD, AUDIO, "1 samples a second")),
    Case("1,000,000 Hz", heard("a.wav", wav(rate=1_000_000)), 1, (BAD, AUDIO, "1,000,000 samples a second")),
    Case("40 seconds", heard("a.wav", sound(tone(40, 8000), 8000)), 1, (BAD, AUDIO, "40.0 s", "audio.max_seconds")),
    Case("a header of 10 hours", heard("a.flac", flac_of_hours()), 1, (BAD, AUDIO, "36,000.0 s")),
    Case("not numbers", heard("a.wav", sound(tone() * np.nan, subtype="FLOAT")), 1, (BAD, AUDIO, "finite")),
    Case("infinite", heard("a.wav", sound(tone() + np.inf, subtype="FLOAT")), 1, (BAD, AUDIO, "finite")),
    Case("wav cut short", heard("a.wav", sound(tone())[:-100]), 1, (BAD, AUDIO, "cut short")),
    Case("flac cut short", heard("a.flac", sound(tone(), kind="FLAC")[:60]), 1, (BAD, AUDIO)),
    Case("ogg header cut short", heard("a.ogg", sound(tone(), kind="OGG")[:40]), 1, (BAD, AUDIO, "cut short")),
    *(
        Case(f"{name} cut in half", heard(f"a.{name}", whole[: len(whole) // 2]), 1, (BAD, AUDIO, *said))
        for name, whole, said in (
            ("flac", sound(tone(1.0), kind="FLAC"), ()),
            ("ogg", sound(tone(1.0), kind="OGG"), ("cut short",)),
            ("opus", sound(tone(1.0), kind="OGG", subtype="OPUS"), ("cut short",)),
            ("mp3", sound(tone(1.0), kind="MP3"), ("cut short",)),
        )
    ),
    Case(
        "opus without its last bytes",
        heard("a.opus", sound(tone(), kind="OGG", subtype="OPUS")[:-20]),
        1,
        (BAD, AUDIO, "cut short"),
    ),
    Case("mp3 with its label only", heard("a.mp3", b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)), 1, (BAD, AUDIO)),
    Case("path with ..", heard("../../etc/passwd.wav"), 1, (BAD, AUDIO, "out of the table's folder")),
    Case("absolute path", heard("/etc/passwd.wav"), 1, (BAD, AUDIO, "absolute path")),
    Case("link out of the folder", link_out, 1, (BAD, AUDIO, "out of the table's folder")),
    Case("path with NUL", heard("a\0b.wav"), 1, (BAD, AUDIO, "NUL")),
    Case("path of 5,000 characters", heard("a" * 5000 + ".wav"), 1, (BAD, AUDIO, "too long")),
    Case("folder as sound", folder_as_sound, 1, (BAD, AUDIO, "not a file")),
    Case("a number", heard(5), 1, (BAD, AUDIO, "a sound expected", "int")),
    Case("samples without a rate", heard({"array": [0.1, 0.2]}), 1, (BAD, AUDIO, "sampling_rate")),
    Case("samples that are words", heard({"array": ["x"], "sampling_rate": 8000}), 1, (BAD, AUDIO, "numbers")),
    Case("samples in a cube", heard({"array": [[[0.1]]], "sampling_rate": 8000}), 1, (BAD, AUDIO, "no samples")),
    Case("samples of unlike lengths", heard({"array": [[0.1], [0.1, 0.2]], "sampling_rate": 8000}), 1, (BAD, AUDIO)),
]

COLUMNS = [
    Case("a word among numbers", column("many", number), 1, (BAD, X, "'many' is not a number")),
    Case("a comma for a point", column("1,5", number), 1, (BAD, X, "is not a number")),
    Case("a number of 1e300", column(1e300, number), 1, (BAD, X, "finite number")),
    Case("an infinite number", column("inf", number), 1, (BAD, X, "finite number")),
    Case("an integer of 400 digits", column(int("9" * 400), number), 1, (BAD, X, "number")),
    Case("a list among numbers", column([1], number), 1, (BAD, X, "is not a number")),
    Case("a day that does not exist", column("2024-02-30", day), 1, (BAD, X, "2024-02-30", "not a date")),
    Case("a date in words", column("last week", day), 1, (BAD, X, "not a date")),
    Case("a date in slashes", column("31/12/2024", day), 1, (BAD, X, "not a date")),
    Case("the year 10000", column("10000-01-01", day), 1, (BAD, X, "not a date")),
    Case("an object among categories", column({"a": 1}, kind), 1, (BAD, X, "one value expected", "dict")),
    Case("a list among categories", column(["a"], kind), 1, (BAD, X, "one value expected", "list")),
    Case("a category of 300 characters", column("a" * 300, kind), 1, (BAD, X, "300 characters", "text")),
    Case("categories of no column", column("a", kind, "table.categories=[y]"), 2, ("table.categories", "'y'")),
    Case("0 bins", column(1, number, "table.bins=0"), 2, ("table.bins", "0")),
]

HISTORIES = [
    Case("a word", history("many"), 1, (BAD, CLICKS, "not a list of events")),
    Case("broken JSON", history('[{"item": '), 1, (BAD, CLICKS, "not a list of events")),
    Case("one event without a list", history({"item": 1}), 1, (BAD, CLICKS, "list of events expected", "dict")),
    Case("no item", history([{"item": 1}, {"type": "buy"}]), 1, (BAD, CLICKS, "event 2", "no item")),
    Case("an item that is a list", history([{"item": [1]}]), 1, (BAD, CLICKS, "event 1", "one value expected")),
    Case("an unknown field", history([{"item": 1, "when": 5}]), 1, (BAD, CLICKS, "'when'", "item, type, time, value")),
    Case("times of some only", history([{"item": 1, "time": 5}, {"item": 2}]), 1, (BAD, CLICKS, "event 2", "no time")),
    Case("a time in words", history([{"item": 1, "time": "soon"}]), 1, (BAD, CLICKS, "'soon' is not a time")),
    Case("a day that does not exist", history([{"item": 1, "time": "2024-02-30"}]), 1, (BAD, CLICKS, "not a time")),
    Case("milliseconds", history([{"item": 1, "time": 1717243200000}]), 1, (BAD, CLICKS, "milliseconds")),
    Case("a value in words", history([{"item": 1, "value": "much"}]), 1, (BAD, CLICKS, "'much' is not a number")),
    Case("100,001 events", history([1] * 100_001), 1, (BAD, CLICKS, "100,001 events")),
]

EVENTS = [
    Case("no user", events({"user": None}), 1, (BAD, "'user'", "no user")),
    Case("no item", events({"item": ""}), 1, (BAD, "no item")),
    Case("no time", events({"time": None}), 1, (BAD, "'time'", "no time")),
    Case("a time in words", events({"time": "soon"}), 1, (BAD, "'soon' is not a time")),
    Case("a value in words", events({"stars": "many"}), 1, (BAD, "'many' is not a number")),
    Case("a user of 300 characters", events({"user": "u" * 300}), 1, (BAD, "300 characters")),
    Case("no such column", events(settings=("task.user=who",)), 2, ("'who'", "user, item, time, stars", "task.user")),
    Case("no such catalogue", events(settings=("task.catalogue=none.jsonl",)), 1, ("none.jsonl", "does not exist")),
    Case("an item twice", events(catalogue=[{"item": "i1"}, {"item": "i1"}]), 1, ("items.jsonl", "row 2", "'i1'")),
    Case("an item without a name", events(catalogue=[{"item": "i1"}, {"item": None}]), 1, ("items.jsonl", "row 2")),
    Case("a catalogue without items", events(catalogue=[{"name": "i1"}]), 1, ("items.jsonl", "'item'")),
    Case("content without a catalogue", events(settings=("task.content=tiny",)), 2, ("task.catalogue",)),
]
