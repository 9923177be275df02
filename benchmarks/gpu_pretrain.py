"""Pre-training steps of BERT on a GPU: fusebert beside transformers' BertForPreTraining, as shares of the card's rate.

All sides start from the same weights and take whole steps in bf16 autocast (forward, backward, clipping, fused AdamW)
on the same sentence pairs, whose batches lie ready on the host: ours packed; theirs padded to the full length, so that
torch.compile meets one shape. Each masks 15 % of the pieces for itself. A batch has the tokens of BERT's own, 256 rows
of 512. fusebert runs with compiled layers and loss; transformers compiled, with `sdpa` and, where the package is there,
`flash_attention_2`; on a CPU nothing is compiled. `share` is a step's operations in a second / those of the best large
bf16 product of torch. What a step needs is counted alike for all sides, as `pretraining.operations` does: not the
padding, nor what comes after attention in the last layer for tokens that nothing reads, both of which transformers
computes. `--minutes 20` then plans and trains a BERT as `fusebert pretrain --budget 20m` does; its held-out losses.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, DataCollatorForLanguageModeling
from transformers.utils import is_flash_attn_2_available

import common
from finetune import step
from fusebert.corpus.prepare import prepare_corpus
from fusebert.corpus.process import Settings
from fusebert.corpus.vocabulary import FOLDER, make_vocabulary
from fusebert.data.collate import Collator
from fusebert.evaluation.inference import autocast, to_device
from fusebert.tasks.pretraining.publish import hugging_face_weights
from fusebert.training.build import build_model
from fusebert.training.compilation import compile_for_training
from fusebert.training.optimization import build_optimizer
from fusebert.training.pretrain import pretrain
from fusebert.training.pretrain_corpus import prepare_rows, read_corpus
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.progress import Silence, Terminal
from pretraining import Unmasked, operations

SIZE, QUICK_SIZE = "base", "tiny"
LENGTHS, QUICK_LENGTHS = (128, 512), (32,)
TOKENS_PER_BATCH, QUICK_TOKENS = 131_072, 256
BATCHES, QUICK_BATCHES = 4, 2
VOCABULARY, QUICK_VOCABULARY = 30_522, 300
MATRIX, QUICK_MATRIX = (4096, 8192), (256,)
MATRIX_ROUNDS = 20
QUICK_TRAINING_SECONDS = 12.0

Work = Callable[[], object]


def text(folder: Path, quick: bool, held_out: float) -> Path:
    """A prepared corpus with a vocabulary: wiki_en, or invented words where only the program is tested."""
    if quick:
        random = np.random.default_rng(0)
        words = ["".join(random.choice(list("abcdefghij"), 4)) for _ in range(200)]
        lines = [
            json.dumps({"text": " ".join(" ".join(random.choice(words, 8)) + "." for _ in range(30))})
            for _ in range(80)
        ]
        source = folder / "invented.jsonl"
        source.write_text("\n".join(lines), encoding="utf-8")
    else:
        source = common.articles()
    prepare_corpus([str(source)], folder / "corpus", Settings(held_out=held_out, near_duplicates=not quick))
    make_vocabulary(folder / "corpus", QUICK_VOCABULARY if quick else VOCABULARY)
    return folder / "corpus"


def seconds(work: Work, device: torch.device, rounds: int = 1) -> float:
    """Of each round, with all that the device still had to do."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(rounds):
        work()
    wait()
    return (time.perf_counter() - started) / rounds


def matrix_rate(device: torch.device, quick: bool) -> float:
    """Operations a second of the best square bf16 product."""
    best = 0.0
    for size in QUICK_MATRIX if quick else MATRIX:
        left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
        seconds(lambda a=left, b=right: a @ b, device, 3)  # type: ignore[misc]
        best = max(best, 2.0 * size**3 / seconds(lambda a=left, b=right: a @ b, device, MATRIX_ROUNDS))  # type: ignore[misc]
    return best


def side(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any], device: torch.device) -> Work:
    """A step on each batch."""

    def run() -> None:
        for batch in batches:
            with autocast(device, "bf16"):
                found = model(**to_device(batch, device))
            step(found["loss"], model, optimizer)

    return run


def measure(length: int, corpus: Path, device: torch.device, best: float, given: Any) -> dict[str, Any]:
    """All sides in turns, at one length."""
    recipe = pretraining_recipe(
        {
            "data.train": str(corpus.absolute()),
            "model.trunk": QUICK_SIZE if given.quick else SIZE,
            "task.length": length,
            "task.rounds": 1,
            "task.passes": 1.0,
            "task.whole_words": False,  # their collator masks single pieces
        }
    )
    prepared = prepare_rows(recipe, read_corpus(recipe, None), None)
    rows, collator = prepared.splits["train"], Collator(prepared.processors, prepared.task.collate)
    count = (QUICK_TOKENS if given.quick else given.tokens_per_batch) // length
    groups = [range(start * count, (start + 1) * count) for start in range(QUICK_BATCHES if given.quick else BATCHES)]
    ready = torch.Tensor.pin_memory if device.type == "cuda" else torch.Tensor.contiguous
    ours = [_each(collator([rows[number] for number in group]), ready) for group in groups]
    torch.manual_seed(0)
    start = build_model(recipe, prepared, Silence())
    unmasked = Unmasked(rows)
    tokenizer = AutoTokenizer.from_pretrained(corpus / FOLDER)
    masked = DataCollatorForLanguageModeling(tokenizer, pad_to_multiple_of=length)
    theirs = [_each(dict(masked([unmasked[number] for number in group])), ready) for group in groups]

    sides: dict[str, Work] = {}
    model = build_model(recipe, prepared, Silence()).train().to(device)
    model.load_state_dict(start.state_dict())
    if device.type == "cuda":
        compile_for_training(model)
    sides["fusebert"] = side(model, build_optimizer(model, recipe.training), ours, device)
    attentions = ["sdpa"] + ["flash_attention_2"] * (device.type == "cuda" and is_flash_attn_2_available())
    for attention in attentions:
        config = BertConfig(**start.trunk.config.to_hugging_face(), attn_implementation=attention)
        model = BertForPreTraining._from_config(config)
        model.load_state_dict(hugging_face_weights(start), strict=False)
        model.train().to(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.training.learning_rate, fused=True)
        if device.type == "cuda":
            model.compile()
        sides[f"transformers_{attention}"] = side(model, optimizer, theirs, device)

    times: dict[str, list[float]] = {name: [] for name in sides}
    for name, run in sides.items():
        took = seconds(run, device)
        common.note(f"  {name} begins: {took:.1f} s, most of it to compile")
    for _ in range(1 if given.quick else given.repeats):
        for name, run in sides.items():
            times[name].append(seconds(run, device))
    return report(start.trunk.config, ours, {name: median(found) for name, found in times.items()}, best)


def _each(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Every tensor of a batch changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return {name: _each(one, change) for name, one in value.items()} if isinstance(value, dict) else value


def report(trunk: Any, batches: list[Any], took: dict[str, float], best: float) -> dict[str, Any]:
    """Tokens a second and the share of the matrix rate, by side."""
    lengths = np.concatenate([batch["lengths"] for batch in batches])
    masked = sum(len(batch["labels"]["pieces"]) for batch in batches)
    count, tokens = operations(trunk, lengths, masked), int(lengths.sum())
    found: dict[str, Any] = {"tokens": tokens, "operations": count}
    for name, wall in took.items():
        found[name] = {"tokens_per_second": round(tokens / wall), "share": round(count / wall / best, 4)}
    theirs = min(wall for name, wall in took.items() if name.startswith("transformers"))
    return found | {"ratio_wall": round(theirs / took["fusebert"], 3)}


def train(corpus: Path, folder: Path, device: torch.device, given: Any) -> dict[str, Any]:
    """The best model of the minutes given: its held-out losses, round by round."""
    settings = {
        "data.train": str(corpus.absolute()),
        "training.device": device.type,
        "training.trackers": [],
        **({"model.trunk": QUICK_SIZE} if given.quick else {}),
    }
    budget = QUICK_TRAINING_SECONDS if given.quick else 60 * given.minutes
    started = time.perf_counter()
    found = pretrain(settings, folder, budget=budget, progress=Terminal())
    spent = round(time.perf_counter() - started, 1)
    history = found["training"].pop("history")
    rounds = [{"step": entry["step"], "seconds": entry["seconds"]} | entry["validation"] for entry in history]
    scores = found["evaluations"]["held_out"]["metrics"]
    told = {"plan": found["plan"], "unigram_entropy": found["unigram_entropy"]}
    return {"held_out": scores, "command_seconds": spent, **told, "rounds": rounds} | found["training"]


def main() -> None:
    options = common.parser(__doc__.splitlines()[0])
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--corpus", type=Path, help="prepared already, with its vocabulary; else wiki_en is prepared")
    options.add_argument("--lengths", type=int, nargs="*", help="tokens of a full row; 128 and 512")
    options.add_argument("--tokens-per-batch", type=int, default=TOKENS_PER_BATCH, help="131,072 as in BERT's own")
    options.add_argument("--minutes", type=float, help="then train the best model of so many minutes")
    given = options.parse_args()
    common.prepare_process()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no CUDA device here; --device cpu --quick tests the program without one.")
    device = torch.device(given.device)
    result: dict[str, Any] = {"machine": common.machine()}
    result["machine"]["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    best = matrix_rate(device, given.quick)
    result["matrix_tflops_bf16"] = round(best / 1e12, 3)
    with tempfile.TemporaryDirectory() as room:
        corpus = given.corpus or text(Path(room), given.quick, held_out=0.1 if given.quick else 0.02)
        lengths = QUICK_LENGTHS if given.quick else LENGTHS
        for length in lengths if given.lengths is None else given.lengths:
            common.note(f"{length} tokens a row")
            result[f"length_{length}"] = measure(length, corpus, device, best, given)
            for name, value in result[f"length_{length}"].items():
                common.note(f"  {name:30} {value}")
        if given.minutes:
            result["trained"] = train(corpus, Path(room) / "model", device, given)
            common.note(f"trained: {result['trained']['held_out']}")
    common.show(result, given.json)


if __name__ == "__main__":
    main()
