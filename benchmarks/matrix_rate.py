"""The share of this machine's own matrix rate that a training step of BERT base reaches.

The machine's rate is the best of several large products of torch. A step is forward, backward and fused AdamW over N
packed tokens in rows of 16..256, with hidden dropout 0.1. Its operations are counted as

    6 * P * N  +  12 * layers * D * sum(L_i ** 2)

P being the matrix parameters of the layers (12 * D**2 each), L_i the rows' lengths: a product costs 2 operations a
parameter and token, attention 4 * L**2 * D a row and layer, and backward twice the forward. Embeddings, softmax, norms,
dropout and the optimizer count as nothing, so a share of 1 cannot be reached.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import common
from fusebert.config import Recipe
from fusebert.data.collate import interleave
from fusebert.evaluation.inference import autocast
from fusebert.model.cpu import linear
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.trunk import TrunkConfig
from fusebert.training.optimization import build_optimizer

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = ((4096, 768, 3072), (4096, 3072, 768), (2048, 2048, 2048), (3072, 3072, 3072), (4096, 4096, 1024))
QUICK_SHAPES = ((256, 256, 256), (512, 256, 256))
TOKENS, QUICK_TOKENS = 4096, 512
SHORTEST, LONGEST = 16, 256
ROUNDS = 3
THREADS = 2

Work = Callable[[], object]


def products(precision: str, quick: bool) -> dict[str, tuple[Work, float]]:
    """name -> (the product, its operations)."""
    found: dict[str, tuple[Work, float]] = {}
    for rows, inner, columns in QUICK_SHAPES if quick else SHAPES:
        left = torch.randn(rows, inner).to(TYPES[precision])
        right, weight = left.new_ones(inner, columns), left.new_ones(columns, inner)
        operations = 2.0 * rows * inner * columns
        size = f"{rows}x{inner}x{columns}"
        found[f"matmul {size}"] = (lambda a=left, b=right: torch.matmul(a, b)), operations
        found[f"fusebert linear {size}"] = (lambda a=left, b=weight: linear(a, b, None)), operations
        found[f"linear {size}"] = (lambda a=left, b=weight: F.linear(a, b)), operations
    return found


def best_rate(precision: str, quick: bool) -> float:
    """Operations a second of the quickest product."""
    found = 0.0
    for product, count in products(precision, quick).values():
        product()
        found = max(found, count / _seconds(product, ROUNDS)["wall"])
    return found


def training_step(precision: str, quick: bool) -> tuple[Work, float, dict[str, int]]:
    """The step, its operations, and its sizes."""
    trunk = TrunkConfig.of_size("tiny" if quick else "base", 1000 if quick else 30522)
    lengths = _lengths(QUICK_TOKENS if quick else TOKENS)
    torch.manual_seed(0)
    modalities = {"text": {"columns": 1, "config": {"max_tokens": LONGEST}}}
    model = FusebertModel(
        FusebertConfig(
            trunk=trunk.model_copy(update={"attention_probs_dropout_prob": 0.0}).model_dump(),
            modalities=modalities,
            task={"name": "classification", "outputs": 2, "pooling": "mean"},  # which reads all tokens
        )
    ).train()
    optimizer = build_optimizer(model, Recipe.from_flat({}).training)
    order, _ = interleave([np.ones_like(lengths), lengths - 1])
    text = {
        "input_ids": torch.randint(5, trunk.vocab_size, (int((lengths - 1).sum()),)),
        "token_type_ids": torch.zeros(int((lengths - 1).sum()), dtype=torch.long),
        "position_ids": torch.from_numpy(np.concatenate([np.arange(1, length) for length in lengths])),
    }
    batch: dict[str, Any] = {
        "inputs": {"text": text},
        "order": torch.from_numpy(order),
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)),
        "lengths": lengths.tolist(),
        "counts": {"text": (lengths - 1).tolist()},
        "labels": torch.zeros(len(lengths), dtype=torch.long),
    }

    def run() -> None:
        with autocast(model.device, precision):
            loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    layers, hidden, tokens = trunk.num_hidden_layers, trunk.hidden_size, int(lengths.sum())
    matrices = sum(p.numel() for p in model.trunk.encoder.parameters() if p.ndim == 2)
    operations = 6.0 * matrices * tokens + 12.0 * layers * hidden * float((lengths**2).sum())
    return run, operations, {"layers": layers, "hidden": hidden, "tokens": tokens, "rows": len(lengths)}


def _lengths(tokens: int) -> np.ndarray:
    """Rows of SHORTEST..LONGEST tokens, about `tokens` together, longest first as the sampler gives them."""
    drawn = np.random.default_rng(0).integers(SHORTEST, LONGEST + 1, tokens)
    return -np.sort(-drawn[: max(1, int((drawn.cumsum() <= tokens).sum()))])


def measure(precision: str, repeats: int, quick: bool) -> dict[str, Any]:
    """The best product and the median step, in turns."""
    many = products(precision, quick)
    step, operations, sizes = training_step(precision, quick)
    step()
    best = {"wall": (0.0, ""), "cpu": (0.0, "")}
    steps: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(repeats):
        for name, (product, count) in many.items():
            product()
            took = _seconds(product, ROUNDS)
            for clock, seconds in took.items():
                best[clock] = max(best[clock], (count / seconds, name))
        for clock, seconds in _seconds(step, 1).items():
            steps[clock].append(seconds)
    rates = {clock: operations / median(seconds) for clock, seconds in steps.items()}
    return {
        "share": round(rates["wall"] / best["wall"][0], 4),
        "share_cpu": round(rates["cpu"] / best["cpu"][0], 4),
        "matrix_gflops": round(best["wall"][0] / 1e9, 1),
        "matrix_shape": best["wall"][1],
        "step_gflops": round(rates["wall"] / 1e9, 1),
        "step_seconds": round(median(steps["wall"]), 4),
        "step_cpu_seconds": round(median(steps["cpu"]), 4),
        "step_gflop": round(operations / 1e9, 1),
    } | sizes


def _seconds(work: Work, rounds: int) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(rounds):
        work()
    return {"cpu": (time.process_time() - cpu) / rounds, "wall": (time.perf_counter() - wall) / rounds}


def main() -> None:
    given = common.parser(__doc__.splitlines()[0]).parse_args()
    common.prepare_process()
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    result: dict[str, Any] = {"machine": common.machine()}
    for precision in TYPES:
        result[precision] = measure(precision, 1 if given.quick else given.repeats, given.quick)
        result[f"share_{precision}"] = result[precision]["share"]
        result[f"matrix_gflops_{precision}"] = result[precision]["matrix_gflops"]
        result[f"step_gflops_{precision}"] = result[precision]["step_gflops"]
    common.show(result, given.json)


if __name__ == "__main__":
    main()
