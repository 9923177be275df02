"""The table of bad input: for each kind a command, the exit code it must end with, and the key words of its message."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import torch
from PIL import Image
from pyarrow import parquet

from fusebert.model.pretrained import save_trunk
from fusebert.model.trunk import Trunk, TrunkConfig
from fusebert.storage import MANIFEST, file_hash

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TINY = (
    "model.trunk=tiny",
    "image.size_pixels=16",
    "image.patch_pixels=16",
    "training.epochs=1",
    "training.trackers=[]",
)
GOOD, BAD_ROW = "good.png", 4


@dataclass(frozen=True)
class Place:
    """Where a case is set up: an empty `folder`, and a trained `model` that it may copy but not change."""

    folder: Path
    model: Path

    @property
    def output(self) -> Path:
        return self.folder / "out"

    def write(self, name: str, data: bytes | str) -> Path:
        path = self.folder / name
        path.write_bytes(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data)
        return path

    def jsonl(self, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> Path:
        self.write(GOOD, png())
        return self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def train(self, table: Path | str, *settings: str, target: str | None = "answer") -> list[str]:
        aim = ["--target", target] if target else []
        return ["train", str(table), *aim, "--output", str(self.output), *TINY, *settings]

    def predict(self, *arguments: Path | str, model: Path | None = None) -> list[str]:
        return ["predict", str(model or self.model), *map(str, arguments)]

    def damaged_model(self, damage: Callable[[Path], Any], seal: bool = False) -> list[str]:
        """Predict with a copy of the model after `damage`; `seal` makes the manifest vouch for it."""
        folder = Path(shutil.copytree(self.model, self.folder / "damaged"))
        damage(folder)
        if seal:
            hashes = json.loads((folder / MANIFEST).read_text())["sha256"]
            (folder / MANIFEST).write_text(json.dumps({"sha256": {name: file_hash(folder / name) for name in hashes}}))
        return self.predict("--question", "what is it", model=folder)

    def trunk(self, damage: Callable[[Path], Any], **config: Any) -> list[str]:
        """Train on a small pretrained BERT after `damage`."""
        folder = self.folder / "bert"
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        save_trunk(Trunk(TrunkConfig(**{"vocab_size": 300} | sizes | config)), folder)
        shutil.copy(self.model / "tokenizer.json", folder)
        damage(folder)
        return self.train(self.jsonl(rows()), f"model.trunk={folder}")


@dataclass(frozen=True)
class Case:
    """One kind of bad input.

    Args:
        name: the test's id.
        command: sets the place up and returns the command's arguments.
        code: the exit code.
        words: what the message must hold.
    """

    name: str
    command: Callable[[Place], list[str]]
    code: int
    words: tuple[str, ...]


def rows(*changes: dict[str, Any], start: int = BAD_ROW, count: int = 12) -> list[dict[str, Any]]:
    """Good rows; `changes` are made to those from row `start` (counted from 1) on."""
    found: list[dict[str, Any]] = [
        {"image": GOOD, "question": f"what is thing {word} here", "answer": ("red", "blue")[number % 2]}
        for number, word in enumerate(WORDS[:count])
    ]
    for row, change in zip(found[start - 1 :], changes, strict=False):
        row.update(change)
    return found


def answers(values: list[Any]) -> list[dict[str, Any]]:
    """Twelve rows whose targets repeat `values`."""
    return rows(*({"answer": values[number % len(values)]} for number in range(12)), start=1)


# Pictures


def png(picture: Image.Image | None = None, kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture; a red top over a blue bottom where none is given."""
    file = io.BytesIO()
    (picture or two_halves()).save(file, kind, **options)
    return file.getvalue()


def two_halves() -> Image.Image:
    picture = Image.new("RGB", (32, 32), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 16, 32, 32))
    return picture


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels, one bit each, all black: 110 kB of file, 2.7 GB of picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 1, 3, 0, 0, 0))
    body = chunk(b"PLTE", bytes(6)) + chunk(b"IDAT", zlib.compress(bytes(30_000 * 100), 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def lying_bmp() -> bytes:
    data = bytearray(png(kind="BMP"))
    data[18:26] = struct.pack("<ii", 4000, 4000)
    return bytes(data)


def picture(name: str, data: bytes | None = None) -> Callable[[Place], list[str]]:
    """Train on a table whose row 4 names the picture `name`."""

    def command(place: Place) -> list[str]:
        if data is not None:
            place.write(name, data)
        return place.train(place.jsonl(rows({"image": name})))

    return command


def link_out(place: Place) -> list[str]:
    (place.folder / "link.png").symlink_to(place.model / "plots")
    return picture("link.png")(place)


def folder_as_picture(place: Place) -> list[str]:
    (place.folder / "folder.png").mkdir()
    return picture("folder.png")(place)


# Tables


def table(name: str, data: bytes | str, *settings: str, target: str = "answer") -> Callable[[Place], list[str]]:
    """Train on a table with these bytes."""
    return lambda place: place.train(place.write(name, data), *settings, target=target)


def lines(bad: str | bytes) -> bytes:
    """A jsonl table whose row 4 is `bad`."""
    good = [json.dumps({"question": f"what is {word}", "answer": "ab"[i % 2]}).encode() for i, word in enumerate(WORDS)]
    good[BAD_ROW - 1] = bad if isinstance(bad, bytes) else bad.encode()
    return b"\n".join(good) + b"\n"


def delimited(bad: str | bytes = b"what is it,a", delimiter: str = ",") -> bytes:
    """A csv table whose line 4 is `bad`."""
    good = [delimiter.join(pair).encode() for pair in [("question", "answer")]]
    good += [f"what is {word}{delimiter}{'ab'[number % 2]}".encode() for number, word in enumerate(WORDS)]
    good[BAD_ROW - 1] = bad if isinstance(bad, bytes) else bad.encode()
    return b"\n".join(good) + b"\n"


def on_rows(*changes: dict[str, Any], start: int = BAD_ROW) -> Callable[[Place], list[str]]:
    return lambda place: place.train(place.jsonl(rows(*changes, start=start)))


def on_answers(values: list[Any], *flags: str) -> Callable[[Place], list[str]]:
    return lambda place: [*place.train(place.jsonl(answers(values))), *flags]


def unseen(part: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        other = place.jsonl(rows({"answer": "violet"}), f"{part}.jsonl")
        return place.train(place.jsonl(rows()), f"data.{part}={other}")

    return command


def damaged_parquet(place: Place) -> list[str]:
    path = place.folder / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows()), path)
    path.write_bytes(path.read_bytes()[:-20])
    return place.train(path)


def doubled_parquet(place: Place) -> list[str]:
    column = pyarrow.array(["a", "b"])
    parquet.write_table(pyarrow.table([column, column], names=["x", "x"]), place.folder / "rows.parquet")
    return place.train(place.folder / "rows.parquet", target="x")


CELL = "a " * 500_000
RED_OR_BLUE = ["red", "blue"]
BAD = f"row {BAD_ROW}"

PICTURES = [
    Case("missing", picture("none.png"), 1, ("rows.jsonl", BAD, "'image'", "none.png", "does not exist")),
    Case("truncated png", picture("cut.png", png()[:70]), 1, (BAD, "'image'", "damaged")),
    Case("truncated jpeg", picture("cut.jpg", png(kind="JPEG")[:400]), 1, (BAD, "'image'", "damaged")),
    Case("truncated webp", picture("cut.webp", png(kind="WEBP")[:40]), 1, (BAD, "'image'", "damaged")),
    Case("0 bytes", picture("empty.png", b""), 1, (BAD, "'image'", "empty")),
    Case("text named .png", picture("text.png", b"hello\n" * 50), 1, (BAD, "'image'", "not a picture")),
    Case("30,000 x 30,000 pixels", picture("bomb.png", bomb()), 1, (BAD, "'image'", "too large", "pixels")),
    Case("svg", picture("a.svg.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"), 1, (BAD, "not a picture")),
    Case("eps named .png", picture("eps.png", png(kind="EPS")), 1, (BAD, "'image'", "not a picture")),
    Case("bmp lying about its size", picture("lie.bmp", lying_bmp()), 1, (BAD, "'image'", "damaged")),
    Case("path with ..", picture("../../etc/passwd.png"), 1, (BAD, "'image'", "out of the table's folder")),
    Case("absolute path", picture("/etc/passwd.png"), 1, (BAD, "'image'", "absolute path")),
    Case("link out of the folder", link_out, 1, (BAD, "'image'", "out of the table's folder")),
    Case("path with NUL", picture("a\0b.png"), 1, (BAD, "'image'", "NUL")),
    Case("path of 5,000 characters", picture("a" * 5000 + ".png"), 1, (BAD, "'image'", "too long")),
    Case("folder as picture", folder_as_picture, 1, (BAD, "'image'", "not a file")),
]

TABLES = [
    Case("missing table", lambda place: place.train(place.folder / "none.csv"), 1, ("none.csv", "does not exist")),
    Case("unknown kind", table("rows.txt", "a\n"), 1, ("rows.txt", "known kind")),
    Case("empty", table("rows.csv", b""), 1, ("rows.csv", "empty")),
    Case("header only", table("rows.csv", "question,answer\n"), 1, ("rows.csv", "no rows")),
    Case(
        "no target", lambda place: place.train(place.jsonl(rows()), target=None), 2, ("--target answer", "rows.jsonl")
    ),
    Case("target column missing", table("rows.csv", delimited(), target="x"), 2, ("rows.csv", "'x'", "does not exist")),
    Case("target always empty", on_answers([None]), 1, ("rows.jsonl", "no row", "'answer'")),
    Case("target empty in a row", on_rows({"answer": ""}), 1, ("rows.jsonl", BAD, "'answer'", "empty")),
    Case("one class only", on_answers(["red"]), 1, ("rows.jsonl", "'answer'", "1 label", "at least two")),
    Case("label unseen in train, validation", unseen("validation"), 1, ("validation.jsonl", BAD, "'answer'", "violet")),
    Case("label unseen in train, test", unseen("test"), 1, ("test.jsonl", BAD, "'answer'", "violet", "unseen_labels")),
    Case("label is an object", on_rows({"answer": {"a": 1}}), 1, ("rows.jsonl", BAD, "'answer'", "not a label")),
    Case(
        "list of lists as labels", on_answers([["red"], ["blue"], [["red"]]]), 1, ("row 3", "'answer'", "not a label")
    ),
    Case("labels 1 and '1'", on_answers([1, "1"]), 1, ("rows.jsonl", "'answer'", "mix", "numbers", "text")),
    Case("lists mixed with scalars", on_answers(["red", ["blue"]]), 1, ("rows.jsonl", "'answer'", "lists")),
    Case("labels in digits, --strict", on_answers(["1", "2"], "--strict"), 2, ("answer", "digits", "task.name")),
    Case(
        "target nan",
        table("rows.csv", delimited("what is it,nan").replace(b",a\n", b",1.5\n").replace(b",b\n", b",2\n")),
        1,
        ("rows.csv", BAD, "'answer'", "not a finite number"),
    ),
    Case(
        "target inf",
        table("rows.csv", delimited("what is it,inf").replace(b",a\n", b",1.5\n").replace(b",b\n", b",2\n")),
        1,
        ("rows.csv", BAD, "'answer'", "not a finite number"),
    ),
    Case("integer of 400 digits", on_answers([1.5, 2.5, int("9" * 400)]), 1, ("rows.jsonl", "row 3", "'answer'")),
    Case("number of 1e300", on_answers([1.5, 2.5, 1e300]), 1, ("rows.jsonl", "row 3", "'answer'", "too large")),
    Case("csv not UTF-8", table("rows.csv", delimited(b"caf\xe9,a")), 1, ("rows.csv", BAD, "UTF-8")),
    Case("jsonl not UTF-8", table("rows.jsonl", lines(b'{"question": "caf\xe9"}')), 1, ("rows.jsonl", BAD, "UTF-8")),
    Case("UTF-16", table("rows.csv", delimited().decode().encode("utf-16")), 1, ("rows.csv", "row 1", "UTF-8")),
    Case("ragged", table("rows.csv", delimited("what,is,it")), 1, ("rows.csv", BAD, "3 cells", "2 columns")),
    Case(
        "unclosed quote, skipping",
        table("rows.csv", delimited('"what is it,a'), "data.bad_rows=skip"),
        1,
        ("rows.csv", BAD, "quote"),
    ),
    Case(
        "setting of another task",
        on_answers([1.5, 2.5], "task.ignore_case=true"),
        2,
        ("task.ignore_case", "regression"),
    ),
    Case(
        "setting of the guessed task",
        on_answers(["a", "b"], "task.label_smoothing=2"),
        2,
        ("task.label_smoothing", "2"),
    ),
    Case("unclosed quote", table("rows.csv", delimited('"what is it,a')), 1, ("rows.csv", BAD, "quote", "not closed")),
    Case("semicolons", table("rows.csv", delimited("a;b", ";")), 1, ("rows.csv", "';'", "','")),
    Case("duplicate column", table("rows.csv", "a,b,a\n1,2,3\n"), 1, ("rows.csv", "'a'", "more than once")),
    Case("duplicate column, parquet", doubled_parquet, 1, ("rows.parquet", "'x'", "more than once")),
    Case("unnamed column", table("rows.csv", "a,,b\n1,2,3\n"), 1, ("rows.csv", "without a name", "2")),
    Case("broken JSON", table("rows.jsonl", lines('{"question": ')), 1, ("rows.jsonl", BAD, "not a JSON object")),
    Case("JSON array", table("rows.jsonl", lines("[1, 2]")), 1, ("rows.jsonl", BAD, "object expected", "list")),
    Case("duplicate key", table("rows.jsonl", lines('{"a": 1, "a": 2}')), 1, ("rows.jsonl", BAD, "'a'", "twice")),
    Case("NaN in JSON", table("rows.jsonl", lines('{"a": NaN}')), 1, ("rows.jsonl", BAD, "NaN", "null")),
    Case("deep nesting", table("rows.jsonl", lines("[" * 100_000)), 1, ("rows.jsonl", BAD, "recursion")),
    Case(
        "lone surrogate",
        table("rows.jsonl", lines('{"question": "what is \\ud800", "answer": "a"}')),
        1,
        ("rows.jsonl", BAD, "'question'", "surrogate"),
    ),
    Case(
        "lone surrogate in a label",
        table("rows.jsonl", lines('{"question": "what", "answer": "\\udcff"}')),
        1,
        ("rows.jsonl", BAD, "'answer'", "surrogate"),
    ),
    Case(
        "truncated gzip", table("rows.jsonl.gz", gzip.compress(lines("{}") * 400)[:-300]), 1, ("rows.jsonl.gz", "row")
    ),
    Case("damaged parquet", damaged_parquet, 1, ("rows.parquet", "parquet")),
    Case("1 MB cell", on_rows({"question": CELL}), 1, ("rows.jsonl", BAD, "'question'", "1,000,000 characters")),
    Case("nested text", on_rows({"question": ["a"]}), 1, ("rows.jsonl", BAD, "'question'", "text expected")),
    Case(
        "nothing in a row", on_rows({"question": None, "image": ""}), 1, ("rows.jsonl", BAD, "image, question", "empty")
    ),
    Case("too few rows", table("rows.csv", "question,answer\nwhat is,a\nis it,b\n"), 1, ("rows.csv", "too few")),
    Case("folder without pictures", lambda place: place.train(place.folder, target="label"), 1, ("no folders",)),
    Case(
        "check finds bad rows",
        lambda place: ["check", str(place.jsonl(rows({"image": "no.png"})))],
        1,
        ("rows.jsonl", BAD, "no.png"),
    ),
]


# Recipes, options and folders


def recipe(text: str | bytes, name: str = "recipe.yaml") -> Callable[[Place], list[str]]:
    return lambda place: ["train", str(place.write(name, text)), "--output", str(place.output)]


def setting(*settings: str) -> Callable[[Place], list[str]]:
    return lambda place: place.train(place.jsonl(rows()), *settings)


def configured(**changes: Any) -> Callable[[Path], Any]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def only_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


def kept_from(place: Place, *arguments: str) -> list[str]:
    """Train into a folder that an earlier run with other settings has begun."""
    place.output.mkdir()
    place.write("out/recipe.yaml", "data.train: rows.jsonl\ntraining.epochs: 7\n")
    return [*place.train(place.jsonl(rows())), *arguments]


def into(output: Callable[[Place], Path | str]) -> Callable[[Place], list[str]]:
    return lambda place: [*place.train(place.jsonl(rows())), "--output", str(output(place))]


def change_a_byte(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def outside(folder: Path) -> None:
    (folder.parent / "outside").write_text("secret")
    (folder / MANIFEST).write_text(json.dumps({"sha256": {"../outside": file_hash(folder.parent / "outside")}}))


RECIPES = [
    Case("missing", lambda place: ["train", str(place.folder / "none.yaml")], 2, ("none.yaml", "does not exist")),
    Case("not YAML", recipe("a: [1, 2"), 2, ("recipe.yaml", "YAML")),
    Case("not UTF-8", recipe(b"data.target: caf\xe9"), 2, ("recipe.yaml", "YAML")),
    Case("nested 500 deep", recipe("[" * 500 + "]" * 500), 2, ("recipe.yaml", "YAML")),
    Case("impossible date", recipe("data.target: 2020-13-45"), 2, ("recipe.yaml", "YAML")),
    Case("a list", recipe("- 1\n- 2\n"), 2, ("recipe.yaml", "key: value")),
    Case(
        "python/object tag", recipe("a: !!python/object/apply:os.system ['true']"), 2, ("recipe.yaml", "python/object")
    ),
    Case("unknown key", recipe("training.epoch: 3\n"), 2, ("recipe.yaml", "'training.epoch'", "'training.epochs'")),
    Case("wrong value", recipe("training.epochs: many\n"), 2, ("recipe.yaml", "training.epochs", "'many'", "integer")),
    Case("wrong value of a modality", recipe("text.max_tokens: 1\n"), 2, ("recipe.yaml", "text.max_tokens", "greater")),
    Case("columns not a mapping", recipe("data.columns: text\n"), 2, ("recipe.yaml", "data.columns", "COLUMN")),
    Case("no training table", recipe("data.target: answer\n"), 2, ("data.train",)),
    Case("unknown task", setting("task.name=poetry"), 2, ("'poetry'", "classification")),
    Case("task not a name", setting("task.name=[1]"), 2, ("[1]", "classification")),
    Case("unknown column", setting("data.columns.nose=text"), 2, ("rows.jsonl", "'nose'", "question")),
    Case("unknown modality", setting("data.columns.question=smell"), 2, ("'smell'", "text", "image")),
    Case("unknown tracker", setting("training.trackers=[pigeon]"), 2, ("'pigeon'", "tensorboard")),
    Case("unknown part to freeze", setting("training.freeze=[foot]"), 2, ("'foot'", "trunk")),
    Case("share of 2", setting("data.validation=2"), 2, ("data.validation", "between 0 and 1")),
    Case("setting without =", setting("training.epochs"), 2, ("'training.epochs'", "key=value")),
    Case("unknown option", setting("--fast"), 2, ("--fast", "--help")),
    Case("unknown time", setting("--time-limit", "soon"), 2, ("time_limit", "'soon'")),
    Case("trunk of unknown size", setting("model.trunk=huge"), 1, ("'huge'", "tiny", "base")),
    Case("trunk folder missing", setting("model.trunk=./none/bert"), 1, ("./none/bert", "does not exist")),
    Case(
        "trunk without weights",
        lambda place: place.trunk(lambda bert: (bert / "model.safetensors").unlink()),
        1,
        ("bert/model.safetensors", "missing"),
    ),
    Case("trunk with a pickle only", lambda place: place.trunk(only_a_pickle), 1, ("pickle", "never opens")),
    Case(
        "trunk's weights truncated",
        lambda place: place.trunk(lambda bert: (bert / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")),
        1,
        ("model.safetensors", "damaged"),
    ),
    Case(
        "trunk with relative positions",
        lambda place: place.trunk(configured(position_embedding_type="relative_key")),
        1,
        ("config.json", "relative_key", "'absolute'"),
    ),
    Case(
        "trunk is a decoder", lambda place: place.trunk(configured(is_decoder=True)), 1, ("config.json", "is_decoder")
    ),
    Case("trunk is no BERT", lambda place: place.trunk(configured(model_type="gpt2")), 1, ("config.json", "gpt2")),
    Case("trunk's shapes disagree", lambda place: place.trunk(configured(hidden_size=16)), 1, ("config.json says",)),
    Case(
        "trunk's config is not JSON",
        lambda place: place.trunk(lambda bert: (bert / "config.json").write_text("{")),
        1,
        ("config.json", "cannot be read"),
    ),
    Case(
        "trunk's tokenizer damaged",
        lambda place: place.trunk(lambda bert: (bert / "tokenizer.json").write_text("{")),
        1,
        ("tokenizer.json", "cannot be read"),
    ),
    Case(
        "vocabulary larger than weights",
        lambda place: place.trunk(lambda _: None, vocab_size=20),
        1,
        ("bert", "20", "do not belong together"),
    ),
    Case("output not empty", lambda place: kept_from(place), 2, ("out", "not empty", "--resume")),
    Case("resume with other settings", lambda place: kept_from(place, "--resume"), 2, ("out", "other settings")),
    Case("output is a file", into(lambda place: place.write("file", "x")), 2, ("file", "is a file")),
    Case("output under a file", into(lambda place: place.write("file", "x") / "out"), 2, ("file", "is a file")),
    Case("output already finished", into(lambda place: place.model), 2, ("already holds a finished model",)),
]

MODELS = [
    Case("folder missing", lambda place: place.predict("--question", "x", model=place.output), 1, ("does not exist",)),
    Case(
        "folder without manifest",
        lambda place: place.damaged_model(lambda model: (model / MANIFEST).unlink()),
        1,
        ("damaged", "manifest.json"),
    ),
    Case(
        "file missing",
        lambda place: place.damaged_model(lambda model: (model / "task.json").unlink()),
        1,
        ("task.json", "missing"),
    ),
    Case(
        "weights changed",
        lambda place: place.damaged_model(lambda model: change_a_byte(model / "model.safetensors")),
        1,
        ("model.safetensors", "changed", "SHA-256"),
    ),
    Case(
        "manifest damaged",
        lambda place: place.damaged_model(lambda model: (model / MANIFEST).write_text("{")),
        1,
        ("manifest.json", "cannot be read"),
    ),
    Case(
        "manifest of nothing",
        lambda place: place.damaged_model(lambda model: (model / MANIFEST).write_text("[]")),
        1,
        ("manifest.json", "damaged"),
    ),
    Case(
        "manifest nested deep",
        lambda place: place.damaged_model(lambda model: (model / MANIFEST).write_text("[" * 100_000)),
        1,
        ("manifest.json", "cannot be read"),
    ),
    Case("manifest leads outside", lambda place: place.damaged_model(outside), 1, ("'../outside'", "outside")),
    Case(
        "processor is not JSON",
        lambda place: place.damaged_model(lambda model: (model / "processors/text.json").write_text("{"), seal=True),
        1,
        ("text.json", "cannot be read"),
    ),
    Case(
        "processor lacks a key",
        lambda place: place.damaged_model(lambda model: (model / "processors/text.json").write_text("{}"), seal=True),
        1,
        ("damaged", "config"),
    ),
    Case(
        "weights truncated",
        lambda place: place.damaged_model(lambda model: (model / "model.safetensors").write_bytes(b"x"), seal=True),
        1,
        ("damaged", "cannot use"),
    ),
    Case("predict: unknown column", lambda place: place.predict("--smell", "x"), 2, ("'--smell'", "--question")),
    Case("predict: no value", lambda place: place.predict("--question"), 2, ("--question", "value")),
    Case("predict: no row", lambda place: place.predict(), 2, ("table", "--question")),
    Case("predict: --top 0", lambda place: place.predict("--top", "0", "--question", "x"), 2, ("--top", "0")),
    Case("predict: --top many", lambda place: place.predict("--top", "many"), 2, ("--top", "many")),
    Case("predict: picture missing", lambda place: place.predict("--image", "no.png"), 1, ("'image'", "no.png")),
    Case(
        "predict: a bad row",
        lambda place: place.predict(place.jsonl(rows({"image": "no.png"})), "--output", place.output),
        1,
        ("rows.jsonl", BAD, "'image'", "no.png"),
    ),
    Case("predict: table missing", lambda place: place.predict("none.csv", "--output", place.output), 1, ("none.csv",)),
    Case(
        "predict: output is a folder",
        lambda place: place.predict(place.jsonl(rows()), "--output", place.folder),
        1,
        ("directory",),
    ),
    Case(
        "predict: output under a file",
        lambda place: place.predict(place.jsonl(rows()), "--output", place.write("file", "x") / "out"),
        1,
        ("file",),
    ),
    Case(
        "predict: the disk is full",
        lambda place: place.predict(place.jsonl(rows()), "--output", "/dev/full"),
        1,
        ("/dev/full", "no space left"),
    ),
    Case(
        "evaluate: unknown modality",
        lambda place: ["evaluate", str(place.model), str(place.jsonl(rows())), "--without", "smell"],
        2,
        ("'smell'", "image", "text"),
    ),
    Case(
        "evaluate: a bad row",
        lambda place: ["evaluate", str(place.model), str(place.jsonl(rows({"answer": "violet"})))],
        1,
        ("rows.jsonl", BAD, "'answer'", "violet"),
    ),
    Case(
        "evaluate: no target",
        lambda place: ["evaluate", str(place.model), str(place.write("a.csv", "question\nhi\n"))],
        1,
        ("a.csv", "row 2", "'answer'", "empty"),
    ),
]

CASES = {
    f"{group}: {case.name}": case
    for group, cases in {"picture": PICTURES, "table": TABLES, "recipe": RECIPES, "model": MODELS}.items()
    for case in cases
}
