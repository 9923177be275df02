"""A plan for a given time keeps its time, keeps what the user chose, and says what it expects."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import BertForPreTraining

from fusebert.corpus.tokens import Tokens, borders
from fusebert.errors import UsageError
from fusebert.training.budget import LENGTH, LONG_LENGTH, expected_loss, layer_parameters, pick_batch, pick_length
from fusebert.training.pretrain import pretrain
from tests.corpus.conftest import *  # noqa: F403 - the corpus fixture

SECONDS = 12.0


def test_more_of_anything_is_expected_to_help() -> None:
    tiny, mini = layer_parameters("tiny"), layer_parameters("mini")
    losses = [expected_loss(7.0, tiny, tokens, 10**9) for tokens in (10**6, 10**7, 10**8)]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] <= 7.0
    assert losses[-1] > 1.0
    assert expected_loss(7.0, mini, 10**8, 10**9) < losses[-1]
    assert expected_loss(7.0, tiny, 10**8, 10**6) > losses[-1]  # a hundred times the same million


@pytest.mark.parametrize(
    ("documents", "tokens", "length"),
    [([20] * 50, 1e6, 32), ([50] * 50, 1e6, 64), ([900] * 50, 1e6, LENGTH), ([900] * 50, 1e9, LONG_LENGTH)],
)
def test_rows_are_as_long_as_documents_and_time_allow(documents: list[int], tokens: float, length: int) -> None:
    sentences = borders(documents)
    total = int(sentences[-1])
    corpus = Tokens(
        np.zeros(total, np.int32), np.zeros(total, np.bool_), sentences, np.arange(len(documents) + 1, dtype=np.int64)
    )
    assert pick_length(corpus, tokens) == length


def test_batches_grow_with_the_tokens() -> None:
    assert [pick_batch(tokens) for tokens in (0, 1e6, 1e7, 1e9)] == [1024, 1024, 2048, 32_768]


def test_finishes_on_time_with_a_usable_model(corpus: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    settings = {"data.train": str(corpus), "training.trackers": [], "task.next_sentence": "off"}
    metrics = pretrain(settings, tmp_path / "bert", budget=SECONDS)
    spent = time.monotonic() - started
    assert 0.7 * SECONDS < spent < 1.25 * SECONDS
    plan = metrics["plan"]
    assert plan["seconds"] == SECONDS
    assert 0 < plan["mlm_loss"] <= metrics["unigram_entropy"]
    recipe = (tmp_path / "bert" / "recipe.yaml").read_text()
    assert "task.next_sentence: 'off'" in recipe
    assert f"model.trunk: {plan['trunk']}" in recipe
    assert json.loads((tmp_path / "bert" / "metrics.json").read_text())["plan"] == plan
    BertForPreTraining.from_pretrained(tmp_path / "bert")
    again = pretrain(settings | {"model.trunk": str(tmp_path / "bert")}, tmp_path / "more", budget=SECONDS / 2)
    assert again["plan"]["mlm_loss"] is None
    assert again["plan"]["trunk"] == str(tmp_path / "bert")


def test_too_little_time_is_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give more time"):
        pretrain({"data.train": str(corpus)}, tmp_path / "bert", budget=0.001)
