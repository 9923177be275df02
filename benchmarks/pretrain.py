"""Pre-training steps on real sentence pairs: fusebert beside transformers' BertForPreTraining and its own collator.

Both sides start from the same weights and read the same pairs of the same Wikipedia articles with BERT's 30,522
pieces, in batches of the same rows, longest first as fusebert's sampler gives them, and take the same number of steps
(masking, collation, forward, backward, clipping, fused AdamW). Each masks for itself, 15 % of the pieces. transformers
runs with both of its attentions; `ratio_*` is the seconds of the quicker one / ours. Each size, length and precision is
measured in a process of its own, as a training is one. Both sides keep the memory that they free, as fusebert does; for
`ratio_*_as_shipped` transformers runs in another process and leaves that to the C library, as its users do. `share` is
our operations a second / those of the machine's best product. A size's own `ratio_*` are the smallest over its lengths,
in the `precision` that training takes by itself on this machine.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, DataCollatorForLanguageModeling

import common
import matrix_rate
from finetune import step
from fusebert.config import Recipe
from fusebert.corpus.prepare import Settings, prepare_corpus
from fusebert.corpus.tokens import tokenize_corpus
from fusebert.data.collate import Collator
from fusebert.evaluation.inference import autocast
from fusebert.modalities.text.tokenizer import read_tokenizer
from fusebert.model.trunk import SIZES
from fusebert.tasks.pretraining.publish import hugging_face_weights
from fusebert.training.build import build_model, pick_precision
from fusebert.training.optimization import build_optimizer
from fusebert.training.prepare import Prepared
from fusebert.training.pretrain_corpus import Corpus, prepare_rows
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.progress import Silence
from pretraining import Unmasked, operations

DOCUMENTS = 400
TOKENS_PER_BATCH, QUICK_TOKENS = 4096, 512  # what `fusebert pretrain` takes by itself
STEPS, QUICK_STEPS = {"mini": 6, "base": 1}, {"tiny": 1}
LENGTHS, QUICK_LENGTHS = (128, 512), (32,)
PRECISIONS = ("fp32", "bf16")
ATTENTIONS, SHIPPED = ("sdpa", "eager"), "_as_shipped"
RATIOS = ("ratio_cpu", "ratio_wall", f"ratio_cpu{SHIPPED}", f"ratio_wall{SHIPPED}")

Side = Callable[[int], object]
Sides = dict[str, Side]
Found = TypeVar("Found")


def wikipedia(folder: Path, documents: int) -> Path:
    """A corpus of the first articles."""
    source = folder / "articles.jsonl"
    with gzip.open(common.articles(), "rt", encoding="utf-8") as lines:
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


def their_side(
    recipe: Recipe, prepared: Prepared, precision: str, batches: list[list[int]], ours: Any, attention: str
) -> Side:
    """transformers, padded to the longest row of the batch."""
    trunk = ours.trunk.config.to_hugging_face()
    model = BertForPreTraining._from_config(BertConfig(**trunk, attn_implementation=attention))
    model.load_state_dict(hugging_face_weights(ours), strict=False)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.training.learning_rate, fused=True)
    collator = DataCollatorForLanguageModeling(AutoTokenizer.from_pretrained(common.trunk_folder()))
    unmasked = Unmasked(prepared.splits["train"])
    examples = {number: unmasked[number] for numbers in batches for number in numbers}

    def run(first: int) -> None:
        for numbers in batches[first:]:
            batch = collator([dict(examples[number]) for number in numbers])
            with autocast(model.device, precision):
                loss = model(**batch).loss
            step(loss, model, optimizer)

    return run


def their_sides(recipe: Recipe, prepared: Prepared, precision: str, batches: list[list[int]], ours: Any) -> Sides:
    """Both attentions."""
    return {name: their_side(recipe, prepared, precision, batches, ours, name) for name in ATTENTIONS}


def prepare(size: str, length: int, folder: Path, given: Any) -> tuple[Recipe, Prepared, list[list[int]]]:
    """The pairs, and the numbers of those in each batch."""
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
    prepared = prepare_rows(recipe, Corpus(tokenizer, *parts, np.zeros(0), unigram_entropy=0.0, data_hash=""), None)
    count = (QUICK_TOKENS if given.quick else TOKENS_PER_BATCH) // length
    steps = QUICK_STEPS[size] if given.quick else STEPS[size]
    lengths = prepared.splits["train"].lengths
    batches = [
        sorted(range(start * count, (start + 1) * count), key=lambda row: -lengths[row]) for start in range(steps)
    ]
    return recipe, prepared, batches


def alone(function: Callable[..., Found], *arguments: Any) -> Found:
    """What the function returns, in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def times_as_shipped(size: str, length: int, precision: str, folder: Path, given: Any) -> dict[str, common.Timing]:
    """transformers' times, where the process has not been told to keep its memory."""
    common.prepare_process(keeps_memory=False)
    recipe, prepared, batches = prepare(size, length, folder, given)
    _, model = our_side(recipe, prepared, precision, batches)
    sides = their_sides(recipe, prepared, precision, batches, model)
    times = common.alternate(sides, len(batches) - 1, [0] * rounds(given))
    return {f"{name}{SHIPPED}": timing for name, timing in times.items()}


def rounds(given: Any) -> int:
    return 1 if given.quick else int(given.repeats)


def measure(size: str, length: int, precision: str, folder: Path, best: float, given: Any) -> dict[str, Any]:
    """Both sides in turns, at one size and length; then transformers by itself."""
    common.prepare_process()
    recipe, prepared, batches = prepare(size, length, folder, given)
    run, model = our_side(recipe, prepared, precision, batches)
    sides = {"fusebert": run} | their_sides(recipe, prepared, precision, batches, model)
    times = common.alternate(sides, len(batches) - 1, [0] * rounds(given))
    times |= alone(times_as_shipped, size, length, precision, folder, given)
    found = common.compare(times, "fusebert", {name: f"_{name}" for name in times if name != "fusebert"})
    for clock in ("cpu", "wall"):
        for shipped in ("", SHIPPED):
            kinds = (found[f"ratio_{clock}_{attention}{shipped}"] for attention in ATTENTIONS)
            found[f"ratio_{clock}{shipped}"] = min(kinds)
    rows = prepared.splits["train"]
    lengths = rows.lengths
    read = [int(lengths[number]) for numbers in batches for number in numbers]
    masked = sum(len(rows[number].target.places) for numbers in batches for number in numbers)
    wall = found["wall_seconds"]["fusebert"]
    rate = operations(model.trunk.config, read, masked) / wall
    return found | {
        "tokens": sum(read),
        "tokens_per_second": round(sum(read) / wall),
        "share": round(rate / best, 4),
    }


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--precision", choices=PRECISIONS, help="only this one")
    given = options.parse_args()
    common.prepare_process()
    result: dict[str, Any] = {"machine": common.machine()}
    sizes = QUICK_STEPS if given.quick else STEPS
    wanted = [given.precision] if given.precision else PRECISIONS
    rates = {precision: matrix_rate.best_rate(precision, given.quick) for precision in wanted}
    result["matrix_gflops"] = {precision: round(rate / 1e9, 1) for precision, rate in rates.items()}
    with tempfile.TemporaryDirectory() as room:
        folder = wikipedia(Path(room), 60 if given.quick else DOCUMENTS)
        for size in sizes:
            for length in QUICK_LENGTHS if given.quick else LENGTHS:
                for precision, best in rates.items():
                    common.note(f"{size}, {length} tokens, {precision}")
                    found = alone(measure, size, length, precision, folder, best, given)
                    result.setdefault(size, {})[f"{precision}_{length}"] = found
            chosen = pick_precision("auto", "cpu", SIZES[size][1])
            shown = [found for name, found in result[size].items() if name.startswith(chosen)]
            for name in RATIOS if shown else ():
                result[size] |= {"precision": chosen, name: min(found[name] for found in shown)}
    common.show(result, given.json)


if __name__ == "__main__":
    main()
