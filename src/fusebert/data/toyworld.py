"""A small made-up world of pictures, questions and spoken colour words, for the demo and the tests."""

from __future__ import annotations

import io
import json
import tempfile
import wave
from collections import Counter
from functools import cache
from itertools import permutations
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from fusebert.errors import UsageError

FORMAT_VERSION = 1
SETTINGS_FILE = "toyworld.json"
DEFAULT_PICTURES = {"train": 600, "val": 120, "test": 120}
MOST_PICTURES = 20_000  # beyond this, scenes with one shape that no other picture has become hard to find

IMAGE_SIZE_PIXELS = 64
CELL_SIZE_PIXELS = 32
SHAPE_SIZES_PIXELS = {"small": 16, "large": 26}
CELL_MARGIN_PIXELS = 1
OVERSAMPLING = 2  # shapes are drawn this much larger and shrunk, which smooths their edges
COLOURS_RGB = {
    "red": (215, 40, 40),
    "blue": (40, 80, 220),
    "green": (30, 150, 60),
    "yellow": (240, 205, 20),
    "purple": (150, 60, 185),
    "black": (35, 35, 35),
}
SHAPES = ("circle", "square", "triangle", "star")

SAMPLE_RATE_HZ = 16_000
FORMANTS_HZ = {"a": (800, 1250), "e": (450, 1950), "i": (290, 2300), "o": (480, 850), "u": (320, 750)}
SPOKEN_WORDS = {"red": "ai", "blue": "ua", "green": "iu", "yellow": "eo", "purple": "oi", "black": "ae"}
FORMANT_WIDTH_HZ = 90
SOURCE_CUTOFF_HZ = 300
FADE_SECONDS = 0.04
FILTER_SAMPLES = 8192  # holds the longest vowel and its ringing out

LANGUAGES = ("en", "zh")
QUESTIONS = {
    "colour": ("what colour is the {shape}?", "{shape}是什么颜色的？"),
    "shape": ("which shape is {colour}?", "{colour}的是什么形状？"),
    "count": ("how many shapes are there?", "图中有几个图形？"),
    "exists": ("is there a {colour} {shape}?", "图中有{colour}的{shape}吗？"),
    "left": (
        "is the {colour} {shape} left of the {colour2} {shape2}?",
        "{colour}的{shape}在{colour2}的{shape2}左边吗？",
    ),
    "heard_colour": ("what colour does the voice say?", "录音里说的是什么颜色？"),
    "heard_shape": ("which shape has the colour that the voice says?", "录音里说的颜色是哪个图形的？"),
}
CHINESE_COLOURS = {"red": "红色", "blue": "蓝色", "green": "绿色", "yellow": "黄色", "purple": "紫色", "black": "黑色"}
CHINESE_SHAPES = {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "五角星"}
CHINESE = CHINESE_COLOURS | CHINESE_SHAPES | {"small": "小", "large": "大"}


class Shape(NamedTuple):
    """One drawn shape; `x` and `y` are its centre in pixels."""

    name: str
    colour: str
    size: str
    x: int
    y: int


Scene = tuple[Shape, ...]
Words = dict[str, str]
Row = dict[str, Any]


def write_toyworld(
    folder: Path, *, pictures: dict[str, int] | None = None, seed: int = 0, sounds: bool = False
) -> Path:
    """Write a world of drawn shapes with English and Chinese questions; the same arguments give the same bytes.

    The folder gets one `<split>.jsonl` per split, `images/*.png` (64 x 64 pixels, RGB) and, with `sounds`,
    `audio/*.wav` (16 kHz, mono, 16 bit, 0.6 to 0.8 s: the made-up word for one colour of the picture). No two pictures
    are alike. Each has four rows and, with `sounds`, a fifth about the recording; all else stays the same.

    Columns: `id`, `image` (relative path), `question`, `language` ("en" or "zh"), `caption` (in that language),
    `shapes` (how many, 1 to 3), `colours` (list of English names), `answer` (in English: a colour, a shape, "1" to
    "3", "yes" or "no") and, with `sounds`, `audio` (relative path).

    Args:
        folder: where the world goes. If it holds a world with the same settings, nothing is written.
        pictures: number of pictures per split, of "train", "val" and "test"; 600, 120 and 120 if None.
        seed: another seed gives another world.
        sounds: also write recordings.

    Returns:
        `folder`.

    Raises:
        ValueError: `pictures` is not usable.
        UsageError: `folder` holds something else, or a world with other settings.
    """
    sizes = _checked_sizes(DEFAULT_PICTURES if pictures is None else pictures)
    settings = {"format": FORMAT_VERSION, "pictures": sizes, "seed": seed, "sounds": sounds}
    if _holds_world(folder, settings):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as workshop:
        unfinished = Path(workshop) / "world"
        _write_world(unfinished, sizes, seed, sounds)
        (unfinished / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        _move_into_place(unfinished, folder, settings)
    return folder


def _checked_sizes(pictures: dict[str, int]) -> dict[str, int]:
    known = set(pictures) <= set(DEFAULT_PICTURES)
    if not known or min(pictures.values(), default=0) < 1 or sum(pictures.values()) > MOST_PICTURES:
        raise ValueError(f"{pictures=} must number some of train, val, test; each 1 or more, {MOST_PICTURES} in all.")
    return {split: pictures[split] for split in DEFAULT_PICTURES if split in pictures}


def _holds_world(folder: Path, settings: dict[str, Any]) -> bool:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"{folder} exists and is not a toy world; choose another folder.") from None
    if found != settings:
        raise UsageError(f"{folder} holds a toy world with other settings ({found}); delete it or choose another.")
    return True


def _move_into_place(unfinished: Path, folder: Path, settings: dict[str, Any]) -> None:
    try:
        unfinished.rename(folder)
    except OSError:
        # Another process may have written the same world in the meantime.
        if not _holds_world(folder, settings):
            raise


def _write_world(folder: Path, sizes: dict[str, int], seed: int, sounds: bool) -> None:
    chance, voice_chance = Random(f"pictures {seed}"), Random(f"voices {seed}")
    noise, voice_noise = (np.random.default_rng(source.getrandbits(64)) for source in (chance, voice_chance))
    seen: set[frozenset[Shape]] = set()
    for media in ["images", "audio"][: 1 + sounds]:
        (folder / media).mkdir(parents=True)
    for split, size in sizes.items():
        yes_no_asked: Counter[tuple[str, str]] = Counter()
        rows: list[Row] = []
        for number in range(size):
            name = f"{split}_{number:04d}"
            scene = _new_scene(chance, seen)
            _save_picture(folder / "images" / f"{name}.png", _draw(scene, noise))
            picture_rows = _picture_rows(name, scene, chance, yes_no_asked)
            if sounds:
                spoken = voice_chance.choice(scene)
                _save_sound(folder / "audio" / f"{name}.wav", _speak(spoken.colour, voice_noise))
                kind, answer = voice_chance.choice([("heard_colour", spoken.colour), ("heard_shape", spoken.name)])
                picture_rows.append(_row(name, 4, scene, kind, LANGUAGES[number % 2], {}, answer))
                picture_rows = [row | {"audio": f"audio/{name}.wav"} for row in picture_rows]
            rows += picture_rows
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_bytes("".join(lines).encode("utf-8"))


def _new_scene(chance: Random, seen: set[frozenset[Shape]]) -> Scene:
    # The count stays fixed while we look, else crowded scenes would become the more frequent ones.
    count = chance.randint(1, 3)
    while frozenset(scene := _random_scene(count, chance)) in seen:
        pass
    seen.add(frozenset(scene))
    return scene


def _random_scene(count: int, chance: Random) -> Scene:
    names, colours = chance.sample(SHAPES, count), chance.sample(list(COLOURS_RGB), count)
    shapes = []
    for name, colour, cell in zip(names, colours, chance.sample(range(4), count), strict=True):
        size = chance.choice(list(SHAPE_SIZES_PIXELS))
        nearest = SHAPE_SIZES_PIXELS[size] // 2 + CELL_MARGIN_PIXELS
        x, y = (chance.randint(nearest, CELL_SIZE_PIXELS - nearest) for _ in range(2))
        shapes.append(Shape(name, colour, size, x + cell % 2 * CELL_SIZE_PIXELS, y + cell // 2 * CELL_SIZE_PIXELS))
    return tuple(shapes)


def _draw(scene: Scene, noise: np.random.Generator) -> Image.Image:
    paper = noise.integers(226, 246, size=3) + noise.integers(-6, 7, (IMAGE_SIZE_PIXELS, IMAGE_SIZE_PIXELS, 1))
    picture = Image.fromarray(paper.astype(np.uint8))
    large = Image.new("RGBA", (IMAGE_SIZE_PIXELS * OVERSAMPLING,) * 2)
    for shape in scene:
        ImageDraw.Draw(large).polygon(_outline(shape), fill=COLOURS_RGB[shape.colour])
    drawing = large.reduce(OVERSAMPLING)
    picture.paste(drawing, mask=drawing)
    return picture


def _outline(shape: Shape) -> list[tuple[float, float]]:
    """Corners in pixels of the oversampled picture."""
    radii = {"circle": [1.0] * 72, "square": [1.0] * 4, "triangle": [1.0] * 3, "star": [1.0, 0.4] * 5}[shape.name]
    angles = 2 * np.pi * np.arange(len(radii)) / len(radii) + (np.pi / 4 if shape.name == "square" else 0.0)
    reach = np.array(radii) * SHAPE_SIZES_PIXELS[shape.size] / 2
    x, y = shape.x + reach * np.sin(angles), shape.y - reach * np.cos(angles)
    return list(zip(x * OVERSAMPLING, y * OVERSAMPLING, strict=True))


def _save_picture(path: Path, picture: Image.Image) -> None:
    # In memory first: Pillow writes in many small steps, which are slow on disk.
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    path.write_bytes(file.getvalue())


def _picture_rows(name: str, scene: Scene, chance: Random, yes_no_asked: Counter[tuple[str, str]]) -> list[Row]:
    # Every picture is asked for its count: left to chance, single shapes, which allow fewer kinds, would get it more.
    beside = [(a, b) for a, b in permutations(scene, 2) if a.x // CELL_SIZE_PIXELS < b.x // CELL_SIZE_PIXELS]
    kinds = ["count", *chance.sample(["colour", "shape", "exists"] + ["left"] * bool(beside), 3)]
    chance.shuffle(kinds)
    rows = []
    for number, (kind, language) in enumerate(zip(kinds, LANGUAGES * 2, strict=True)):
        shape = chance.choice(scene)
        words = {"colour": shape.colour, "shape": shape.name}
        answer = str(len(scene)) if kind == "count" else words.get(kind)
        if answer is None:
            # Taking turns keeps yes and no equally frequent.
            answer = "no" if yes_no_asked[kind, language] % 2 else "yes"
            yes_no_asked[kind, language] += 1
            if kind == "left":
                one, two = chance.choice(beside)[:: 1 if answer == "yes" else -1]
                words = {"colour": one.colour, "shape": one.name, "colour2": two.colour, "shape2": two.name}
            elif answer == "no":
                words = _absent_words(words, chance)
        rows.append(_row(name, number, scene, kind, language, words, answer))
    return rows


def _absent_words(words: Words, chance: Random) -> Words:
    """Change the colour or the shape; as a picture has each only once, what results is not in it."""
    changed, choices = chance.choice([("colour", list(COLOURS_RGB)), ("shape", list(SHAPES))])
    return words | {changed: chance.choice([word for word in choices if word != words[changed]])}


def _row(name: str, number: int, scene: Scene, kind: str, language: str, words: Words, answer: str) -> Row:
    translated = words if language == "en" else {key: CHINESE[word] for key, word in words.items()}
    return {
        "id": f"{name}_{number}",
        "image": f"images/{name}.png",
        "question": QUESTIONS[kind][LANGUAGES.index(language)].format(**translated),
        "language": language,
        "caption": _caption(scene, language),
        "shapes": len(scene),
        "colours": [shape.colour for shape in scene],
        "answer": answer,
    }


def _caption(scene: Scene, language: str) -> str:
    if language == "zh":
        parts = [f"一个{CHINESE[shape.colour]}的{CHINESE[shape.size]}{CHINESE[shape.name]}" for shape in scene]
        return f"图中有{'、'.join(parts)}。"
    return f"There is {' and '.join(f'a {shape.size} {shape.colour} {shape.name}' for shape in scene)}."


def _speak(colour: str, noise: np.random.Generator) -> npt.NDArray[np.float64]:
    """The word for a colour, samples from -1 to 1; pitch, pace, loudness and hiss differ from call to call."""
    pitch_hz, seconds, loudness = noise.uniform(100, 220), noise.uniform(0.3, 0.4), noise.uniform(0.4, 0.8)
    word = np.concatenate([_vowel(vowel, pitch_hz, seconds) for vowel in SPOKEN_WORDS[colour]])
    return np.asarray(loudness * word + noise.normal(0.0, 0.003, word.size))


def _vowel(vowel: str, pitch_hz: float, seconds: float) -> npt.NDArray[np.float64]:
    """A falling train of pulses, as from vocal cords, through the resonances of a mouth; its peak is 1."""
    size = round(seconds * SAMPLE_RATE_HZ)
    cycles = np.cumsum(np.linspace(pitch_hz, 0.9 * pitch_hz, size)) / SAMPLE_RATE_HZ
    pulses = np.diff(np.floor(cycles), prepend=0.0)
    sound = np.fft.irfft(np.fft.rfft(pulses, FILTER_SAMPLES) * _mouth(vowel))[:size]
    fade = np.minimum(1.0, np.arange(size) / (FADE_SECONDS * SAMPLE_RATE_HZ))
    sound *= fade * fade[::-1]
    return np.asarray(sound / np.abs(sound).max())


@cache
def _mouth(vowel: str) -> npt.NDArray[np.complex128]:
    hz = np.fft.rfftfreq(FILTER_SAMPLES, 1 / SAMPLE_RATE_HZ)
    response = 1 / (1 + 1j * hz / SOURCE_CUTOFF_HZ)
    for formant_hz in FORMANTS_HZ[vowel]:
        response *= formant_hz**2 / (formant_hz**2 - hz**2 + 1j * hz * FORMANT_WIDTH_HZ)
    return np.asarray(response)


def _save_sound(path: Path, sound: npt.NDArray[np.float64]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, sound.size, "NONE", "not compressed"))
        file.writeframes((sound * 32767).clip(-32768, 32767).astype("<i2").tobytes())
