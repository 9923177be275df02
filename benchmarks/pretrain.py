"""Pre-training steps on real sentence pairs: fusebert beside transformers' BertForPreTraining and its own collator.

Both sides start from the same weights and read the same pairs of the same Wikipedia articles with BERT's 30,522
pieces, in batches of the same rows, and take the same number of steps (masking, collation, forward, backward, clipping,
fused AdamW). Each masks for itself, 15 % of the pieces. `ratio_*` is their seconds / ours.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, DataCollatorForLanguageModeling

import common
from finetune import step
from fusebert.config import Recipe
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.tokens import tokenize_corpus
from fusebert.data.collate import Collator
from fusebert.evaluation.inference import autocast
from fusebert.modalities.text.processor import read_tokenizer
from fusebert.tasks.pretraining.publish import hugging_face_weights
from fusebert.training.build import build_model
from fusebert.training.optimization import build_optimizer
from fusebert.training.prepare import Prepared
from fusebert.training.pretrain import Corpus, prepare_rows, pretraining_recipe
from fusebert.training.progress import Silence

DOCUMENTS = 400
TOKENS_PER_BATCH, QUICK_TOKENS = 4096, 512
STEPS, QUICK_STEPS = {"mini": 6, "base": 2}, {"tiny": 1}
LENGTHS, QUICK_LENGTHS = (128, 512), (32,)
PRECISIONS = ("fp32", "bf16")

Side = Callable[[int], object]


def wikipedia(folder: Path, documents: int) -> Path:
    """A corpus of the first articles."""
    source = folder / "articles.jsonl"
    with gzip.open(common.data_folder() / "wiki_en" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        source.write_text("".join(islice(lines, documents)), encoding="utf-8")
    prepare_corpus([str(source)], folder / "corpus", Settings(held_out=0.1))
    return folder / "corpus"


def our_side(recipe: Recipe, prepared: Prepared, precision: str, batches: list[list[int]]) -> tuple[Side, Any]:
    """Packed rows, the language model on masked places only."""
    torch.manual_seed(0)
    model = build_model(recipe, prepared, Silence()).train()
    optimizer = build_optimizer(model, recipe.training)
    collator, rows = Collator(prepared.processors, prepared.task.collate), prepared.splits["train"]

    def run(first: int) -> None:
        for numbers in batches[first:]:
            batch = collator([rows[number] for number in numbers])
            with autocast(model.device, precision):
                loss = model(**batch)["loss"]
            step(loss, model, optimizer)

    return run, model


def their_side(recipe: Recipe, prepared: Prepared, precision: str, batches: list[list[int]], ours: Any) -> Side:
    """transformers, padded to the longest row of the batch."""
    trunk = ours.trunk.config.to_hugging_face()
    model = BertForPreTraining._from_config(BertConfig(**trunk, attn_implementation="sdpa"))
    model.load_state_dict(hugging_face_weights(ours), strict=False)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.training.learning_rate, fused=True)
    collator = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(common.trunk_folder()))
    rows, cls = prepared.splits["train"], ours.config.cls_token_id

    def example(number: int) -> dict[str, Any]:
        made = rows[number]
        text, target = made.features["text"], made.target
        ids = np.concatenate([[cls], text["input_ids"]])
        ids[target.places] = target.pieces  # as it stood before our masking: theirs masks anew
        types = np.concatenate([[0], text["token_type_ids"]])
        return {"input_ids": ids, "token_type_ids": types, "next_sentence_label": target.next_sentence}

    prepared_examples = {number: example(number) for numbers in batches for number in numbers}

    def run(first: int) -> None:
        for numbers in batches[first:]:
            batch = collator([dict(prepared_examples[number]) for number in numbers])
            with autocast(model.device, precision):
                loss = model(**batch).loss
            step(loss, model, optimizer)

    return run


def measure(size: str, length: int, precision: str, folder: Path, given: Any) -> dict[str, Any]:
    """Both sides in turns, at one size and length."""
    settings = {
        "data.train": str(folder),
        "model.trunk": size,
        "task.length": length,
        "task.passes": 1.0,
        "task.rounds": 1,
        "task.whole_words": False,  # their collator masks single pieces
    }
    recipe = pretraining_recipe(settings)
    tokenizer = read_tokenizer(common.trunk_folder())
    parts = [tokenize_corpus(folder, part, tokenizer) for part in ("train", "held_out")]
    prepared = prepare_rows(recipe, Corpus(tokenizer, *parts, unigram_entropy=0.0), None)
    count = (QUICK_TOKENS if given.quick else TOKENS_PER_BATCH) // length
    steps = QUICK_STEPS[size] if given.quick else STEPS[size]
    batches = [list(range(start * count, (start + 1) * count)) for start in range(steps)]
    run, model = our_side(recipe, prepared, precision, batches)
    sides = {"fusebert": run, "transformers": their_side(recipe, prepared, precision, batches, model)}
    rows = prepared.splits["train"]
    jobs = [0] * (1 if given.quick else given.repeats)
    times = common.alternate(sides, steps - 1, jobs)
    tokens = int(sum(rows.lengths[number] for numbers in batches for number in numbers))
    found = common.compare(times, "fusebert", {"transformers": ""})
    return found | {"tokens": tokens, "tokens_per_second": round(tokens / found["wall_seconds"]["fusebert"])}


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--precision", choices=PRECISIONS, help="only this one")
    given = options.parse_args()
    common.prepare_process()
    result: dict[str, Any] = {"machine": common.machine()}
    sizes = QUICK_STEPS if given.quick else STEPS
    with tempfile.TemporaryDirectory() as room:
        folder = wikipedia(Path(room), 60 if given.quick else DOCUMENTS)
        for size in sizes:
            for length in QUICK_LENGTHS if given.quick else LENGTHS:
                for precision in [given.precision] if given.precision else PRECISIONS:
                    common.note(f"{size}, {length} tokens, {precision}")
                    found = measure(size, length, precision, folder, given)
                    result.setdefault(size, {})[f"{precision}_{length}"] = found
            shown = next(iter(result[size].values()))
            result[size] |= {name: shown[name] for name in ("ratio_cpu", "ratio_wall")}
    common.show(result, given.json)


if __name__ == "__main__":
    main()
