"""A trained model over any number of rows, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import numpy as np
import torch

from fusebert.data.collate import Collator
from fusebert.data.sampler import sorted_batches
from fusebert.errors import DivergedError, RowError
from fusebert.model.modeling import FusebertModel
from fusebert.spill import Spill
from fusebert.types import Example, Sample

WINDOW_ROWS, WINDOW_BYTES = 2048, 256 * 2**20
"""Rows are sorted by length within a window of at most this many or this size: memory does not grow with the table."""
WINDOW_OUTPUTS = 2**23
"""Logits of a window at most, so that a large catalogue makes small windows."""
TOKENS_PER_BATCH = 3072
LIST_BYTES = 32
"""Of a number in a list."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`; nothing waits for the copies."""
    return {name: _move(value, device) for name, value in batch.items()}


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    return to_device(value, device) if isinstance(value, Mapping) else value


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Matrix products in bf16 where `precision` says so, and only there, whatever the program around has set."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def multiplies_bf16(device: str) -> bool:
    """Whether cpu or cuda, as it is here, multiplies bf16 itself, and so faster than fp32."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    # without tiles (AMX) an Intel core multiplies bf16 at half the rate of fp32, an AMD core at a higher one
    return bool(found.get("amx_bf16") or (found.get("avx512_bf16") and "AMD" in str(found.get("cpu_name", ""))))


@torch.inference_mode()
def infer(model: FusebertModel, examples: Sequence[Example], collator: Collator, precision: str = "fp32") -> np.ndarray:
    """Logits float32[rows, outputs] of the examples, in their order; batches are cut by tokens.

    Of examples with targets and a head that offers `statistics`, these instead, float32[rows, K]: its logits would be
    too many to keep.
    """
    model.eval()
    out: list[np.ndarray] = []
    batches = sorted_batches(np.array([example.length for example in examples]), TOKENS_PER_BATCH)
    for rows in batches:
        batch = to_device(collator([examples[row] for row in rows]), model.device)
        with autocast(model.device, precision):
            if "labels" in batch and hasattr(model.head, "statistics"):
                found = model.statistics(**batch)
            else:
                batch.pop("labels", None)
                found = model(**batch)["logits"]
        out.append(found.float().cpu().numpy())
    order = np.concatenate([np.array(rows) for rows in batches])
    logits = np.concatenate(out)
    if not np.isfinite(logits).all():
        raise DivergedError("the model's outputs are not numbers: its training has diverged; lower its learning rate")
    result = np.empty_like(logits)
    result[order] = logits
    return result


def in_order(
    rows: Iterable[Sample | RowError],
    prepare: Callable[[Sample | RowError], Example | RowError],
    compute: Callable[[list[Example]], Iterable[Result]],
    outputs: int = 1,
) -> Iterator[tuple[Sample | RowError, Result | RowError]]:
    """Each row with what is computed of it, or with what is wrong with it; in order and in constant memory.

    Args:
        compute: one result for each example; is not asked about none.
        outputs: logits of a row.
    """
    pairs = ((row, prepare(row)) for row in rows)
    for window in windows(
        pairs, lambda pair: example_bytes(pair[1]) + value_bytes(getattr(pair[0], "values", None)), outputs
    ):
        good = [example for _, example in window if isinstance(example, Example)]
        results = iter(compute(good) if good else ())
        for row, example in window:
            yield row, example if isinstance(example, RowError) else next(results)


def windows(items: Iterable[Item], bytes_of: Callable[[Item], int], outputs: int = 1) -> Iterator[list[Item]]:
    """Runs of at most WINDOW_ROWS items, WINDOW_OUTPUTS logits and about WINDOW_BYTES.

    Args:
        outputs: logits of an item.
    """
    most = min(WINDOW_ROWS, max(1, WINDOW_OUTPUTS // outputs))
    window: list[Item] = []
    size = 0
    for item in items:
        window.append(item)
        size += bytes_of(item)
        if len(window) == most or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window


def example_bytes(example: Example | RowError) -> int:
    return sum(array.nbytes for array in example.arrays()) if isinstance(example, Example) else 0


def value_bytes(value: Any) -> int:
    """About what a row's values take, whose texts and media may stand in the row itself."""
    if isinstance(value, bytes | str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(value_bytes, value.values()))
    if isinstance(value, list | tuple):
        numbers = bool(value) and isinstance(value[0], int | float)  # a decoded sound has a million
        return LIST_BYTES * len(value) + (0 if numbers else sum(map(value_bytes, value)))
    return int(getattr(value, "nbytes", 0))


def outputs_per_row(model: FusebertModel) -> int:
    """Logits of a row, also where the head makes statistics of them."""
    return int(model.config.task.get("outputs", 1))


def score(
    model: FusebertModel, task: Any, examples: Iterable[Example], collator: Collator, precision: str
) -> dict[str, Any]:
    """`rows`, `metrics` and the task's tables over examples that have targets, by which the task decides how to answer
    where it has a choice."""
    logits, targets = infer_all(model, examples, collator, precision)
    if hasattr(task, "decide"):
        task.decide(logits, targets)
    return {"rows": len(targets), **task.evaluate(logits, targets)}


def infer_all(
    model: FusebertModel, examples: Iterable[Example], collator: Collator, precision: str
) -> tuple[np.ndarray, np.ndarray]:
    """What `infer` gives for any number of examples, and their targets, on disk; no targets beside statistics."""
    logits, targets = Spill(), Spill()
    for window in windows(examples, example_bytes, outputs_per_row(model)):
        logits.append(infer(model, window, collator, precision))
        counted = hasattr(model.head, "statistics")
        targets.append(np.zeros(len(window)) if counted else np.stack([example.target for example in window]))
    return logits.array(), targets.array()
