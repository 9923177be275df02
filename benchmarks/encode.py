"""Texts to mean-pooled unit vectors, tokenisation included: fusebert beside transformers and sentence-transformers.

All sides use one checkpoint, cut texts at the same length, and give float32 vectors. transformers takes batches of 32
in the order given; sentence-transformers sorts by length itself. Each repeat takes an equal part of the texts, all
sides the same one. `ratio_*` is their seconds / ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, BertModel

import common
from fusebert.evaluation.encode import Encoder

TEXTS, QUICK_TEXTS, WARM_UP_TEXTS = 10_000, 64, 64
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
SUFFIXES = {"transformers": "_transformers", "sentence_transformers": "_sentence_transformers"}

Encode = Callable[[Sequence[str]], np.ndarray]


def with_transformers(folder: Path, precision: str) -> Encode:
    """As the checkpoint's own model card does it, in batches of 32."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dtype = PRECISIONS[precision]
    model = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa", dtype=dtype).eval()

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> np.ndarray:
        found = []
        for start in range(0, len(texts), common.BATCH_ROWS):
            some = list(texts[start : start + common.BATCH_ROWS])
            batch = tokenizer(some, padding=True, truncation=True, max_length=common.MAX_TOKENS, return_tensors="pt")
            hidden = model(**batch).last_hidden_state.float()
            real = batch["attention_mask"][:, :, None].float()
            found.append(F.normalize((hidden * real).sum(dim=1) / real.sum(dim=1), dim=1))
        return torch.cat(found).numpy()

    return encode


def with_sentence_transformers(folder: Path, precision: str) -> Encode:
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": PRECISIONS[precision]})
    model.max_seq_length = common.MAX_TOKENS

    def encode(texts: Sequence[str]) -> np.ndarray:
        found = model.encode(
            list(texts), batch_size=common.BATCH_ROWS, show_progress_bar=False, normalize_embeddings=True
        )
        return np.asarray(found, dtype=np.float32)

    return encode


def least_cosine(vectors: dict[str, np.ndarray]) -> float:
    """The smallest cosine between our vector of a text and another side's."""
    unit = {name: found / np.linalg.norm(found, axis=1, keepdims=True) for name, found in vectors.items()}
    ours = unit.pop("fusebert")
    return round(float(min((ours * theirs).sum(axis=1).min() for theirs in unit.values())), 6)


def main() -> None:
    options = common.text_parser(__doc__.splitlines()[0])
    options.add_argument("--texts", type=int, help=f"how many (default {TEXTS})")
    options.add_argument("--precision", choices=tuple(PRECISIONS), help="only this one")
    given = options.parse_args()
    folder = common.trunk_folder()
    common.prepare_process()
    texts = common.load_texts(given.texts or (QUICK_TEXTS if given.quick else TEXTS), given.paragraph_share).texts
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=common.MAX_TOKENS)["input_ids"]]
    result: dict[str, Any] = {
        "machine": common.machine(),
        "texts": len(texts),
        "tokens": sum(lengths),
        "fill": common.fill(lengths, given.paragraph_share),
    }
    jobs = [texts[repeat :: given.repeats] for repeat in range(given.repeats)]
    for precision in [given.precision] if given.precision else PRECISIONS:
        common.note(precision)
        encoders: dict[str, Encode] = {
            "fusebert": Encoder(str(folder), max_tokens=common.MAX_TOKENS, precision=precision).encode,
            "transformers": with_transformers(folder, precision),
            "sentence_transformers": with_sentence_transformers(folder, precision),
        }
        vectors: dict[str, list[np.ndarray]] = {name: [] for name in encoders}

        def keep(name: str, encode: Encode, kept: dict[str, list[np.ndarray]] = vectors) -> Callable[[list[str]], None]:
            def run(texts: list[str]) -> None:
                kept[name].append(encode(texts))

            return run

        sides = {name: keep(name, encode) for name, encode in encoders.items()}
        times = common.alternate(sides, texts[:WARM_UP_TEXTS], jobs)
        result[precision] = common.compare(times, "fusebert", SUFFIXES) | {
            "min_cosine": least_cosine({name: np.concatenate(found) for name, found in vectors.items()})
        }
    shown = result["fp32" if "fp32" in result else given.precision]
    result |= {name: value for name, value in shown.items() if name.startswith(("ratio_", "min_"))}
    common.show(result, given.json)


if __name__ == "__main__":
    main()
