"""What a step on a device needs: nothing in it waits for a number, and compiled layers compute the same.

Run on a CPU: the operations that would wait are refused there too, and flash attention is checked by its shapes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fusebert.data.collate import Collator
from fusebert.errors import UsageError
from fusebert.evaluation.inference import autocast
from fusebert.model import packed
from fusebert.model.cpu import linear
from fusebert.model.cross_entropy import cross_entropy_sum
from fusebert.model.fusion import CrossAttention, Padding
from fusebert.model.packed import attention, attention_of_reads, padded_attention
from fusebert.model.trunk import Trunk, TrunkConfig
from fusebert.tasks.pretraining import head
from fusebert.tasks.pretraining.head import filled
from fusebert.tasks.pretraining.task import Task
from fusebert.training.build import build_model, pick_device, pick_precision
from fusebert.training.checkpoint import State
from fusebert.training.compilation import compile_for_training, undo_compilation
from fusebert.training.pretrain_corpus import prepare_rows, read_corpus
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.progress import Silence
from fusebert.training.run import join, train
from fusebert.training.trainer import Trainer
from fusebert.types import Layout, Reads
from tests.corpus.conftest import corpus, documents  # noqa: F401
from tests.training.test_ranks import PRETRAINING

WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "_unique2", "equal", "is_nonzero"}


class Refusing(TorchDispatchMode):
    """Raises at operations whose result, or its shape, the host must wait for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name.startswith("index") and any(
            one is not None and one.dtype == torch.bool
            for given in args
            if isinstance(given, list | tuple)
            for one in given
            if one is None or isinstance(one, torch.Tensor)
        )
        if name in WAITING or by_mask:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def made(corpus: Path) -> tuple[Any, Any, dict[str, Any]]:  # noqa: F811
    """A recipe, a model, and a batch of pairs."""
    recipe = pretraining_recipe(PRETRAINING | {"data.train": str(corpus)})
    prepared = prepare_rows(recipe, read_corpus(recipe, None), None)
    torch.manual_seed(0)
    model = build_model(recipe, prepared, Silence()).train()
    rows = prepared.splits["train"]
    return recipe, model, Collator(prepared.processors, prepared.task.collate)([rows[n] for n in range(12)])


def test_a_step_waits_for_nothing(
    made: tuple[Any, Any, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer's own step, on two batches taken together."""
    recipe, model, batch = made
    state, accelerator = State(steps=9, precision="fp32", data_hash=""), Accelerator(cpu=True)
    collator = Collator({}, Task.collate)
    trainer = Trainer(
        model, Task(recipe.task_config()), collator, recipe.training, tmp_path, Silence(), accelerator, state
    )
    before, counted = model.head.dense.weight.detach().clone(), trainer._counts(batch, [0])
    trainer._counts = lambda *_: counted  # type: ignore[method-assign]  # read from labels that are still on the host
    monkeypatch.setattr(
        head, "linear_cross_entropy_sum", lambda *given: cross_entropy_sum(linear(*given[:3]), given[3])
    )  # as on a GPU
    monkeypatch.setattr(packed, "_grouped_reads", _without_lengths)
    with Refusing():
        trainer._step([(batch, list(range(12)))] * 2)
        with pytest.raises(AssertionError, match="waits"):
            float(trainer.recent_loss)
        with pytest.raises(AssertionError, match="waits"):
            trainer.recent_loss.expand(3)[torch.tensor([True, False, True])]
    assert (state.step, state.batch, state.loss_rows) == (1, 2, 24)
    assert not torch.equal(model.head.dense.weight, before)


@torch.no_grad()
def test_flash_attention_waits_for_nothing() -> None:
    """On tensors without values, where an operation that needs one fails."""
    with FakeTensorMode():
        qkv = torch.empty(10, 3, 2, 64, device="cuda", dtype=torch.bfloat16)
        starts = torch.empty(3, device="cuda", dtype=torch.int32)
        layout, reads = Layout(starts, (4, 6)), Reads(torch.empty(3, device="cuda", dtype=torch.long), starts)
        found = attention(qkv, layout)
        query, key_value = (
            torch.empty(*shape, device="cuda", dtype=torch.bfloat16) for shape in ((3, 2, 64), (10, 2, 2, 64))
        )
        some = attention_of_reads(query, key_value, reads, layout)
    assert (found.shape, some.shape) == ((10, 128), (3, 128))
    assert (some.device.type, some.dtype) == (found.device.type, found.dtype) == ("cuda", torch.bfloat16)


def _without_lengths(
    query: torch.Tensor, key_value: torch.Tensor, reads: Reads, layout: Layout, _: float
) -> torch.Tensor:
    """The CPU's needs numbers on the host; flash attention does not."""
    asking = torch.zeros_like(key_value[:, 0]).index_copy(0, reads.places, query)
    return padded_attention(torch.cat([asking[:, None], key_value], dim=1), layout).index_select(0, reads.places)


def test_padded_attention_waits_for_nothing() -> None:
    qkv = torch.randn(10, 3, 2, 64, requires_grad=True)
    with Refusing():
        found = padded_attention(qkv, Layout(torch.tensor([0, 4, 10], dtype=torch.int32), (4, 6)), dropout=0.1)
        found.sum().backward()
    assert found.shape == (10, 128)


def test_attention_to_what_stands_beside_waits_for_nothing() -> None:
    layer = CrossAttention(TrunkConfig.of_size("tiny", 9))
    ours, theirs = (Padding(np.array(lengths), torch.device("cpu")) for lengths in ([4, 6], [0, 3]))
    with Refusing():
        found = layer(torch.randn(10, 128), ours, torch.randn(3, 128), theirs)
        found.sum().backward()
    assert found.shape == (10, 128)


def test_each_process_needs_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert pick_device("auto") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert pick_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="4 processes were started here, but torch finds 2 CUDA devices"):
        pick_device("auto")


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # torch's compiler meets its own warnings
@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 3e-2)])
def test_compiled_training_computes_the_same(
    made: tuple[Any, Any, dict[str, Any]], precision: str, near: float
) -> None:
    _, model, batch = made

    def outcome() -> list[torch.Tensor]:
        model.zero_grad()
        with autocast(torch.device("cpu"), precision):
            loss = model(**batch)["loss"]
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    def compiled() -> int:
        return int(counters["stats"]["unique_graphs"])

    plain, names, before = outcome(), list(model.state_dict()), compiled()
    compile_for_training(model)
    for ours, theirs in zip(outcome(), plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=near, atol=near)
    assert list(model.state_dict()) == names
    before, then = compiled(), before
    assert before > then
    undo_compilation(model)
    for ours, theirs in zip(outcome(), plain, strict=True):
        assert torch.equal(ours, theirs)
    assert compiled() == before


def test_outputs_that_fill_the_product_change_nothing() -> None:
    hidden, words, bias = torch.randn(6, 8), torch.randn(1001, 8), torch.randn(1001)
    pieces = torch.tensor([0, 7, 1000, 3, 3, 9])
    found = []
    for more in (lambda *given: given, filled):
        weights = [one.clone().requires_grad_() for one in (hidden, words, bias)]
        loss = cross_entropy_sum(F.linear(weights[0], *more(*weights[1:])), pieces)
        loss.backward()
        found.append([loss.detach(), *(one.grad for one in weights)])
    assert filled(words, bias)[0].shape == (1024, 8)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_stream_between_layers_is_as_precise_as_the_products() -> None:
    trunk, layout = Trunk(TrunkConfig.of_size("tiny", 10)), Layout(torch.tensor([0, 4, 10], dtype=torch.int32), (4, 6))
    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(torch.device("cpu"), precision):
            found = trunk(torch.randn(10, 128), layout)
        assert {found.last_hidden_state.dtype, found.pooler_output.dtype} == {kind}


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bf16"),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, "fp32"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, "bf16"),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_bf16_where_the_processor_multiplies_it_faster(
    capabilities: dict[str, Any], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert pick_precision("auto", "cpu", hidden_size=256) == precision


def test_a_batch_that_does_not_fit_is_said(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Trainer, "_step", full)
    with pytest.raises(UsageError, match=r"too small for batches of 2,048 tokens.*training\.tokens_per_batch"):
        train(tiny, tmp_path / "run")


def test_a_second_training_may_take_another_device() -> None:
    """As a notebook's does; the state that accelerate keeps of the first would win without a word."""
    assert join("cpu")
    PartialState().device = torch.device("cuda")  # as if the first had taken it
    assert join("cpu")
    assert PartialState().device.type == "cpu"


@pytest.mark.parametrize("trackers", [["wandb"], ["tensorboard", "wandb"]])
def test_a_tracker_that_cannot_begin_is_one_sentence_and_writes_no_run(
    trackers: list[str], tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb where nobody has logged in, also after another has begun."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for resume in (False, True, False):
        with pytest.raises(UsageError, match=r"'wandb'\]: one of them cannot begin in .* \(.*; log in to it"):
            train(tiny | {"training.trackers": trackers}, tmp_path / "model", resume=resume)
    assert not (tmp_path / "model" / "recipe.yaml").exists()
    train(tiny | {"training.epochs": 1}, tmp_path / "model")
