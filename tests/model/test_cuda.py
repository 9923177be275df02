"""What a GPU computes, against the CPU and the padded twin; `make test-cuda`. Skipped where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters

from fusebert.model.cpu import linear
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.model.packed import attention, attention_of_reads, padded_attention
from fusebert.model.pretrained import read_config, read_weights
from fusebert.model.trunk import Trunk, TrunkConfig
from fusebert.training.pretrain import pretrain
from fusebert.training.run import train
from fusebert.training.trainer import Trainer
from fusebert.types import Encoded, Layout, Reads, Sample
from tests.contracts.conftest import samples  # noqa: F401
from tests.contracts.test_modalities import logits
from tests.contracts.test_subsets import processors, rows_of_every_subset  # noqa: F401
from tests.corpus.conftest import corpus, documents  # noqa: F401
from tests.model.test_fusion import FUSIONS, model_with
from tests.training.test_ranks import PRETRAINING

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device (or hidden: make test-cuda)"),
    pytest.mark.filterwarnings("ignore"),  # torch's compiler meets its own warnings
]
LENGTHS = (1, 3, 17, 64, 64, 130)


def layout() -> Layout:
    lengths = torch.tensor(LENGTHS)
    cu_seqlens = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)]).to("cuda", torch.int32)
    return Layout(cu_seqlens, LENGTHS)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_packed_attention_and_its_gradient_equal_the_padded_twin(dtype: torch.dtype, causal: bool) -> None:
    torch.manual_seed(0)
    source = torch.randn(sum(LENGTHS), 3, 4, 64, device="cuda")
    weights = torch.randn(sum(LENGTHS), 256, device="cuda")
    found = []
    for function, kind in ((attention, dtype), (padded_attention, torch.float32)):
        qkv = source.clone().requires_grad_()
        out = function(qkv.to(kind), replace(layout(), causal=causal)).float()
        (out * weights).sum().backward()
        found.append((out, qkv.grad))
    exact = 1e-5 if dtype == torch.float32 else 3e-2
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=exact * max(1.0, float(theirs.abs().max())))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attention_of_some_tokens_and_its_gradient_equal_those_of_all(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    counts = torch.tensor([1 + length // 5 for length in LENGTHS])
    places = torch.cat([start + torch.arange(k) * 5 for start, k in zip(layout().cu_seqlens.tolist(), counts)])  # noqa: B905
    places = places.clamp(max=sum(LENGTHS) - 1).to("cuda")
    reads = Reads(places, F.pad(counts.cumsum(0), (1, 0)).to("cuda", torch.int32))
    source = torch.randn(sum(LENGTHS), 3, 4, 64, device="cuda")
    weights = torch.randn(len(places), 256, device="cuda")
    ours, theirs = source.clone().requires_grad_(), source.clone().requires_grad_()
    packed = ours.to(dtype)
    found = attention_of_reads(packed[places, 0], packed[:, 1:], reads, layout()).float()
    wanted = padded_attention(theirs, layout())[places]
    for one in (found, wanted):
        (one * weights).sum().backward()
    for answer, expected in ((found, wanted), (ours.grad, theirs.grad)):
        torch.testing.assert_close(answer, expected, rtol=0, atol=3e-2 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("fusion", ["one_stream", "two_stream", "concat"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_trains_there_and_answers_as_on_a_cpu(
    fusion: str, precision: str, tiny: dict[str, Any], tmp_path: Path
) -> None:
    from fusebert.evaluation.trained_model import load

    settings = {"training.device": "cuda", "training.precision": precision, "model.fusion": fusion}
    trained = train(tiny | settings, tmp_path / "model")
    assert trained.model.device.type == "cuda"
    row = {"question": "what shape is it?"}
    there, here = (load(tmp_path / "model", device).predict(row).probability for device in ("cuda", "cpu"))
    assert there == pytest.approx(here, abs=1e-3 if precision == "fp32" else 2e-2)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_subset_of_modalities_is_answered_as_on_a_cpu(
    fusion: str,
    processors: dict[str, Any],  # noqa: F811
    samples: list[Sample],  # noqa: F811
) -> None:
    model, rows = model_with(processors, fusion), rows_of_every_subset(samples[0])
    here = logits(model, processors, rows)
    there = logits(model.to("cuda"), processors, rows)  # type: ignore[arg-type]
    torch.testing.assert_close(there, here, rtol=0, atol=2e-3)


def test_pre_training_is_compiled_resumes_and_loads_on_a_cpu(corpus: Path, tmp_path: Path) -> None:  # noqa: F811
    settings = PRETRAINING | {"data.train": str(corpus), "training.device": "cuda", "training.checkpoint_steps": 1}
    whole = pretrain(settings, tmp_path / "whole")["evaluations"]["held_out"]["metrics"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, tmp_path / "broken")
    resumed = pretrain(settings, tmp_path / "broken", resume=True)["evaluations"]["held_out"]["metrics"]
    assert resumed["mlm_loss"] == pytest.approx(whole["mlm_loss"], abs=1e-3)
    assert counters["stats"]["unique_graphs"] >= 3
    config = read_config(tmp_path / "whole")
    assert not read_weights(Trunk(config), tmp_path / "whole")


def test_outputs_that_fill_the_product_are_never_guessed() -> None:
    config = TrunkConfig.of_size("tiny", 1001).model_dump()
    model = FusebertModel(FusebertConfig(trunk=config, task={"name": "pretraining", "next_sentence": True}))
    hidden = torch.randn(5, 128)
    encoded = Encoded(hidden, hidden, layout())
    here = linear(*model.head.readout(encoded))
    there = linear(*model.to("cuda").head.readout(replace(encoded, last_hidden_state=hidden.cuda())))
    assert there.shape == (5, 1024)
    torch.testing.assert_close(there[:, :1001].cpu(), here, rtol=0, atol=1e-3)
    assert (there[:, 1001:] == -torch.inf).all()


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt
