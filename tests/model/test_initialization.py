"""A trunk that starts from nothing for pre-training sees its neighbours from the first step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fusebert.data.collate import Collator
from fusebert.evaluation.inference import score
from fusebert.model.initialization import NEIGHBOUR_LAYERS, mark_rare_words, turn_heads_to_neighbours
from fusebert.model.trunk import Trunk, TrunkConfig
from fusebert.training.build import build_model
from fusebert.training.pretrain import start
from fusebert.training.pretrain_corpus import prepare_rows, read_corpus
from fusebert.training.pretrain_recipe import pretraining_recipe
from fusebert.training.progress import Silence
from tests.corpus.conftest import corpus, documents  # noqa: F401


@pytest.mark.parametrize("size", ["tiny", "mini", "base"])
def test_heads_look_at_their_neighbours(size: str) -> None:
    torch.manual_seed(0)
    config = TrunkConfig.of_size(size, 500).model_copy(
        update={"num_hidden_layers": NEIGHBOUR_LAYERS, "hidden_dropout_prob": 0.0}
    )
    trunk = Trunk(config)
    for weight in trunk.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=config.initializer_range)
    turn_heads_to_neighbours(trunk)
    ids, places = torch.randint(500, (100,)), torch.arange(100)
    hidden = trunk.embeddings(ids, torch.zeros(100, dtype=torch.long), places)
    attention = trunk.encoder.layer[0].attention.self
    heads = config.num_attention_heads
    query, key = (part(hidden).unflatten(1, (heads, 64)).transpose(0, 1) for part in (attention.query, attention.key))
    weights = (query @ key.transpose(1, 2) / 8).softmax(dim=-1)
    for head, distance in zip(range(heads), (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6), strict=False):
        looked_at = weights[head, 10:90].argmax(dim=-1)
        share = (looked_at == torch.arange(10, 90) + distance).float().mean()
        assert share > 0.5, (head, distance, float(share))


def test_one_direction_says_how_rare_a_word_is() -> None:
    """And says so in the words only: in the logits, one number shifts all scores from common to rare."""
    torch.manual_seed(0)
    trunk = Trunk(TrunkConfig.of_size("tiny", 400))
    for weight in trunk.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    counts = (1e6 / torch.arange(1, 401) ** 1.1).long()
    counts[:5] = 0
    mark_rare_words(trunk, counts)
    words = trunk.embeddings.word_embeddings.weight.detach()
    rarest, commonest = words[300:].mean(0), words[5:15].mean(0)
    rare = torch.nn.functional.normalize(rarest - commonest, dim=0)
    scores = words @ rare
    ranks = [torch.argsort(torch.argsort(values)).float() for values in (scores[5:], -counts[5:].float())]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.9
    assert scores[:5].mean() < scores[5:].median()  # what does not occur, such as [MASK], is not rare
    others = trunk.embeddings.position_embeddings.weight.detach() @ rare
    assert others.std() < 0.5 * scores.std()


@pytest.mark.parametrize("size", ["tiny", "mini"])
def test_the_first_guess_is_that_of_the_frequencies(corpus: Path, size: str) -> None:  # noqa: F811
    """But for the half nat that scores of variance one cost: the words' embeddings are read at their own size."""
    settings = {"model.trunk": size, "task.next_sentence": "off", "task.whole_words": False}
    recipe = pretraining_recipe(settings | {"data.train": str(corpus)})
    read = read_corpus(recipe, None)
    prepared = prepare_rows(recipe, read, None)
    torch.manual_seed(0)
    model = build_model(recipe, prepared, Silence())
    collator = Collator(prepared.processors, prepared.task.collate)

    def loss() -> float:
        found = score(model, prepared.task, iter(prepared.splits["validation"]), collator, "fp32")["metrics"]
        return float(found["mlm_loss"])

    assert loss() > read.unigram_entropy + 1.5
    start(model, read.counts, None)
    assert loss() - 0.5 == pytest.approx(read.unigram_entropy, abs=0.15)
