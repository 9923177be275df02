"""Fine-tuning a pretrained BERT to classify texts of uneven length: fusebert beside transformers with dynamic padding.

Both sides start from the same weights, read the same rows with the same token ids, take the same number of steps
(forward, backward, clipping, fused AdamW), and drop out the same shares. Tokenisation is done before; batches are put
together inside the timing. `ratio_*` is their seconds / ours; `*_length_grouped` is theirs with transformers' own
grouping by length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification
from transformers.trainer_pt_utils import get_length_grouped_indices

import common
from fusebert.config import Recipe
from fusebert.data.collate import Collator
from fusebert.data.dataset import Preparer
from fusebert.data.sampler import TokenBudgetSampler
from fusebert.evaluation.inference import autocast
from fusebert.modalities.text.processor import Processor
from fusebert.model.pretrained import read_config
from fusebert.tasks.classification.task import Config, Task
from fusebert.training.build import build_model
from fusebert.training.optimization import build_optimizer
from fusebert.training.prepare import Prepared
from fusebert.training.progress import Silence
from fusebert.types import Example, Sample

ROWS, QUICK_ROWS = 320, 32
QUICK_TOKENS = 48
PRECISIONS = ("fp32", "bf16")
SUFFIXES = {"transformers": "", "transformers_length_grouped": "_length_grouped"}


@dataclass(frozen=True)
class Pass:
    """One pass over the first `rows` rows, in the order of `epoch`."""

    rows: int
    epoch: int

    @property
    def steps(self) -> int:
        return -(-self.rows // common.BATCH_ROWS)


Side = Callable[[Pass], object]


def load(rows: int, share: float, recipe: Recipe, folder: Path) -> tuple[Prepared, list[Example]]:
    """Texts and labels, tokenised by the library's own processor; both sides use these ids."""
    texts = common.load_texts(rows, share)
    task = Task.fit(Config(), texts.all_labels)
    processors = {"text": Processor.fit(recipe.modality_config("text"), ["text"], [], folder)}
    preparer = Preparer(processors, task, "label")
    examples = [
        preparer(Sample(Path("texts"), number, {"text": text, "label": label}, None))
        for number, (text, label) in enumerate(zip(texts.texts, texts.labels, strict=True), 1)
    ]
    good = [example for example in examples if isinstance(example, Example)]
    assert len(good) == rows
    return Prepared([], "label", task, processors, {}, {}, folder, ""), good


def our_side(recipe: Recipe, prepared: Prepared, examples: list[Example], precision: str) -> Side:
    """Packed rows in batches of equal tokens."""
    torch.manual_seed(0)
    model = build_model(recipe, prepared, Silence()).train()
    optimizer = build_optimizer(model, recipe.training)
    collator = Collator(prepared.processors, prepared.task.collate)
    lengths = np.array([example.length for example in examples])

    def run(work: Pass) -> None:
        part = lengths[: work.rows]
        sampler = TokenBudgetSampler(part, -(-int(part.sum()) // work.steps), seed=0)
        assert len(sampler) == work.steps
        sampler.start_at(work.epoch)
        for rows in sampler:
            batch = collator([examples[row] for row in rows])
            with autocast(model.device, precision):
                loss = model(**batch)["loss"]
            step(loss, model, optimizer)

    return run


def their_sides(recipe: Recipe, prepared: Prepared, examples: list[Example], precision: str) -> dict[str, Side]:
    """transformers, in random batches and in batches grouped by length; both train one model."""
    torch.manual_seed(0)
    model = BertForSequenceClassification.from_pretrained(
        prepared.trunk_folder,
        num_labels=len(prepared.task.labels),  # type: ignore[attr-defined]
        attn_implementation="sdpa",
        hidden_dropout_prob=recipe.model.dropout,
        attention_probs_dropout_prob=recipe.model.attention_dropout,
    ).train()
    groups = [[p for p in model.parameters() if (p.ndim < 2) == plain] for plain in (False, True)]
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[0], "weight_decay": recipe.training.weight_decay},
            {"params": groups[1], "weight_decay": 0.0},
        ],
        lr=recipe.training.learning_rate,
        fused=True,
    )
    first = torch.tensor([prepared.processors["text"].special["[CLS]"]])
    ids = [torch.cat([first, torch.from_numpy(example.features["text"]["input_ids"])]) for example in examples]
    labels = torch.tensor([int(example.target) for example in examples])  # type: ignore[arg-type]

    def epoch(order: list[int]) -> None:
        for start in range(0, len(order), common.BATCH_ROWS):
            rows = order[start : start + common.BATCH_ROWS]
            mask = pad_sequence([torch.ones_like(ids[row]) for row in rows], batch_first=True)
            padded = pad_sequence([ids[row] for row in rows], batch_first=True)
            with autocast(model.device, precision):
                loss = model(input_ids=padded, attention_mask=mask, labels=labels[rows]).loss
            step(loss, model, optimizer)

    def shuffled(work: Pass) -> None:
        epoch(np.random.default_rng(work.epoch).permutation(work.rows).tolist())

    def grouped(work: Pass) -> None:
        random = torch.Generator().manual_seed(work.epoch)
        lengths = [len(ids[row]) for row in range(work.rows)]
        epoch(get_length_grouped_indices(lengths, common.BATCH_ROWS, generator=random))

    return {"transformers": shuffled, "transformers_length_grouped": grouped}


def step(loss: torch.Tensor, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def main() -> None:
    options = common.text_parser(__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, help="rows of one pass (default 320)")
    options.add_argument("--attention-dropout", type=float, help="on both sides (default: the checkpoint's own)")
    options.add_argument("--precision", choices=PRECISIONS, help="only this one")
    given = options.parse_args()
    folder = common.trunk_folder()
    common.prepare_process()
    trunk = read_config(folder)
    attention = trunk.attention_probs_dropout_prob if given.attention_dropout is None else given.attention_dropout
    settings = {
        "model.trunk": common.TRUNK,
        "model.dropout": trunk.hidden_dropout_prob,
        "model.attention_dropout": attention,
        "text.max_tokens": (QUICK_TOKENS if given.quick else common.MAX_TOKENS) - 1,  # [CLS] is the model's
        "training.learning_rate": 5e-5,
    }
    recipe, rows = Recipe.from_flat(settings), given.rows or (QUICK_ROWS if given.quick else ROWS)
    prepared, examples = load(rows, given.paragraph_share, recipe, folder)
    result: dict[str, Any] = {
        "machine": common.machine(),
        "rows": rows,
        "steps": Pass(rows, 0).steps,
        "fill": common.fill([example.length for example in examples], given.paragraph_share),
        "dropout": {"hidden": trunk.hidden_dropout_prob, "attention": attention},
    }
    passes = [Pass(rows, epoch) for epoch in range(1, 1 + (1 if given.quick else given.repeats))]
    for precision in [given.precision] if given.precision else PRECISIONS:
        common.note(precision)
        sides = {"fusebert": our_side(recipe, prepared, examples, precision)}
        sides |= their_sides(recipe, prepared, examples, precision)
        times = common.alternate(sides, Pass(min(rows, 2 * common.BATCH_ROWS), 0), passes)
        result[precision] = common.compare(times, "fusebert", SUFFIXES)
    shown = result["fp32" if "fp32" in result else given.precision]
    result |= {name: value for name, value in shown.items() if name.startswith("ratio_")}
    common.show(result, given.json)


if __name__ == "__main__":
    main()
