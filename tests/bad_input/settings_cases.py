"""Recipes, options, model folders and disks as they should not be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fusebert.storage import MANIFEST, file_hash
from tests.bad_input.data_cases import BAD
from tests.bad_input.place import Case, Place, rows

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


def other_things(place: Place) -> list[str]:
    (place.folder / "demo" / "world").mkdir(parents=True)
    place.write("demo/world/own.txt", "mine")
    return ["demo", "--output", str(place.folder / "demo")]


def outside(folder: Path) -> None:
    (folder.parent / "outside").write_text("secret")
    (folder / MANIFEST).write_text(json.dumps({"sha256": {"../outside": file_hash(folder.parent / "outside")}}))


LAUGHS = "a: &a0 [ha]\n" + "".join(f"b{n}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9))

RECIPES = [
    Case("missing", lambda place: ["train", str(place.folder / "none.yaml")], 2, ("none.yaml", "does not exist")),
    Case("not YAML", recipe("a: [1, 2"), 2, ("recipe.yaml", "YAML")),
    Case("not UTF-8", recipe(b"data.target: caf\xe9"), 2, ("recipe.yaml", "YAML")),
    Case("nested 500 deep", recipe("[" * 500 + "]" * 500), 2, ("recipe.yaml", "YAML")),
    Case("a date", recipe("data.train: rows.csv\ntraining.epochs: 2020-13-45"), 2, ("training.epochs", "2020-13-45")),
    Case("a list", recipe("- 1\n- 2\n"), 2, ("recipe.yaml", "key: value")),
    Case(
        "python/object tag", recipe("a: !!python/object/apply:os.system ['true']"), 2, ("recipe.yaml", "python/object")
    ),
    Case("unknown key", recipe("training.epoch: 3\n"), 2, ("recipe.yaml", "'training.epoch'", "'training.epochs'")),
    Case("wrong value", recipe("training.epochs: many\n"), 2, ("recipe.yaml", "training.epochs", "'many'", "integer")),
    Case("wrong value of a modality", recipe("text.max_tokens: 1\n"), 2, ("recipe.yaml", "text.max_tokens", "greater")),
    Case("columns not a mapping", recipe("data.columns: text\n"), 2, ("recipe.yaml", "data.columns", "COLUMN")),
    Case("column called no", recipe("data.columns: {no: text}\n"), 2, ("recipe.yaml", "False", "in quotes")),
    Case("a key twice", recipe("training.epochs: 1\ntraining.epochs: 9\n"), 2, ("training.epochs", "twice", "line 2")),
    Case("a column twice", recipe("data.columns: {a: text, a: table}\n"), 2, ("recipe.yaml", "a is there twice")),
    Case("a billion of one word", recipe(LAUGHS), 2, ("recipe.yaml", "*a0 stands for another part", "line 2")),
    Case("no training table", recipe("data.target: answer\n"), 2, ("data.train",)),
    Case("nothing learnt to freeze", setting("image.encoder=conv", "image.frozen=true"), 2, ("image.frozen", "conv")),
    Case(
        "weights that are a pickle",
        lambda place: setting(
            "image.encoder=vgg16", "image.size_pixels=32", f"image.weights={place.write('vgg.pth', b'PK' * 50)}"
        )(place),
        1,
        ("vgg.pth", "VGG16"),
    ),
    Case(
        "a demo over other things",
        other_things,
        2,
        ("demo/world", "is not a toy world"),
    ),
    Case("unknown task", setting("task.name=poetry"), 2, ("'poetry'", "classification")),
    Case("task not a name", setting("task.name=[1]"), 2, ("[1]", "classification")),
    Case("unknown column", setting("data.columns.nose=text"), 2, ("rows.jsonl", "'nose'", "question")),
    Case("unknown modality", setting("data.columns.question=smell"), 2, ("'smell'", "text", "image")),
    Case("unknown tracker", setting("training.trackers=[pigeon]"), 2, ("'pigeon'", "tensorboard")),
    Case("unknown part to freeze", setting("training.freeze=[foot]"), 2, ("'foot'", "trunk")),
    Case("unknown part, not in a list", setting("training.freeze=foot"), 2, ("'foot'", "trunk")),
    Case("share of 2", setting("data.validation=2"), 2, ("data.validation", "between 0 and 1")),
    Case("setting without =", setting("training.epochs"), 2, ("'training.epochs'", "key=value")),
    Case("unknown option", setting("--fast"), 2, ("--fast", "--help")),
    Case("seed beyond bounds", setting("training.seed=99999999999999999999"), 2, ("training.seed", "less than")),
    Case("target as input", setting("data.columns.answer=text"), 2, ("'answer' is the target",)),
    Case("two targets", setting("--target", "question", "data.target=label"), 2, ("question", "label", "which")),
    Case("unknown time", setting("--time-limit", "soon"), 2, ("time_limit", "'soon'")),
    Case("trunk of unknown size", setting("model.trunk=huge"), 1, ("'huge'", "tiny", "base")),
    Case("trunk folder missing", setting("model.trunk=./none/bert"), 1, ("./none/bert", "does not exist")),
    Case(
        "trunk without weights",
        lambda place: place.trunk(lambda bert: (bert / "model.safetensors").unlink()),
        1,
        ("bert/model.safetensors", "missing"),
    ),
    Case(
        "trunk's weights changed",
        lambda place: place.trunk(lambda bert: change_a_byte(bert / "model.safetensors"), seal=True),
        1,
        ("bert/model.safetensors", "has changed since"),
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
    Case(
        "trunk of all memory",
        lambda place: place.trunk(configured(hidden_size=16_384, num_hidden_layers=200, intermediate_size=131_072)),
        1,
        ("model.safetensors", "too small for what config.json says"),
    ),
    Case(
        "trunk of a million layers",
        lambda place: place.trunk(configured(num_hidden_layers=1_000_000)),
        1,
        ("config.json", "num_hidden_layers", "200"),
    ),
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
        2,
        ("is a folder", "name a file"),
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
        2,
        ("a.csv", "no column 'answer'", "predict needs none"),
    ),
]
