"""Text as training varies it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fusebert.modalities.text.processor import Config, Processor, _cut_longest, encode, train_tokenizer
from fusebert.types import Sample


def processor(samples: Sequence[Sample], share: float) -> Processor:
    return Processor.fit(Config(word_dropout=share), ["question", "caption"], samples, None)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_training_masks_its_share_of_pieces(samples: list[Sample], share: float, random: np.random.Generator) -> None:
    text = processor(samples, share)
    rows = [found for sample in samples if (found := text.load(sample)) is not None]
    given = np.concatenate([row["input_ids"] for row in rows])
    seen = np.concatenate([text.vary(row, random)["input_ids"] for row in rows])
    masked = seen == text.special["[MASK]"]
    assert (seen == given)[~masked].all()
    assert not (masked & (given == text.special["[SEP]"])).any()
    assert masked.sum() / (given != text.special["[SEP]"]).sum() == pytest.approx(share, abs=0.03)


def test_what_is_varied_is_a_copy(samples: list[Sample], random: np.random.Generator) -> None:
    text = processor(samples, 0.9)
    row = text.load(samples[0])
    assert row is not None
    before = row["input_ids"].copy()
    text.vary(row, random)
    assert (row["input_ids"] == before).all()


def test_the_share_is_kept_and_bounded(samples: list[Sample], tmp_path: Path) -> None:
    text = processor(samples, 0.3)
    text.save(tmp_path)
    assert Processor.load_from(tmp_path).config.word_dropout == 0.3
    with pytest.raises(ValueError, match="word_dropout"):
        Config(word_dropout=1.0)


@pytest.mark.parametrize("lengths", [(900, 900), (5, 900, 40), (901, 900, 899), (0, 3), (126,)])
def test_long_parts_are_cut_as_one_id_after_the_other(lengths: tuple[int, ...]) -> None:
    for budget in (0, 1, 125, 126):
        wanted = list(lengths)
        while sum(wanted) > budget:
            wanted[wanted.index(max(wanted))] -= 1
        parts = [list(range(length)) for length in lengths]
        _cut_longest(parts, budget)
        assert [len(part) for part in parts] == wanted


def test_blanks_are_not_what_a_long_text_is_cut_to() -> None:
    tokenizer = train_tokenizer(["hello world"] * 9, 60, lowercase=True)
    spread = " " * 5000 + "hello" + " " * 5000 + "world"
    assert encode(tokenizer, spread, 8) == encode(tokenizer, "hello world", 8)


def test_the_vocabulary_is_of_what_rows_are_read_of() -> None:
    texts = ["near words " * 40 + "  far away" * 100_000, "near words"]
    rows = [Sample(Path("t.csv"), number, {"text": text}, None) for number, text in enumerate(texts)]
    found = Processor.fit(Config(max_tokens=8, vocabulary_size=100), ["text"], rows, None).tokenizer.get_vocab()
    assert {"near", "words"} <= found.keys()
    assert "away" not in found
    wanted = train_tokenizer([texts[0][:256], texts[1]], 100, lowercase=True).get_vocab()
    assert found == wanted


def test_a_vocabulary_of_another_language_is_doubted() -> None:
    tokenizer = train_tokenizer(["a red circle", "the blue square"] * 9, 200, lowercase=True)
    rows = [
        Sample(Path("t.csv"), number, {"text": text}, None) for number, text in enumerate(["红色的圆", "a red circle"])
    ]
    (said,) = Processor(Config(), ["text"], tokenizer, pretrained=True).doubts(rows)
    assert "of the text is [UNK]" in said
    assert not Processor(Config(), ["text"], tokenizer, pretrained=True).doubts(rows[1:])
    assert not Processor(Config(), ["text"], tokenizer).doubts(rows)  # no other would do better
