"""The tokenized corpus is what the tokenizer itself gives, whichever way a sentence takes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from fusebert.corpus.tokens import _Encoder
from fusebert.modalities.text.processor import train_tokenizer

SAID = [
    "The cat sat on the mat.",
    "A [MASK] and a [mask] and [SEP]arate",
    "tab\there and\u00a0there",
    "Ünï cödé",
    "中文 with English",
    "",
    "   spaces   ",
    "x\x07y",
    "don't stop -- 3.5%",
]


@pytest.fixture(scope="module", params=[True, False])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer([*SAID * 3, *(chr(code) for code in range(33, 127))], 300, request.param)


def same(tokenizer: Tokenizer, texts: list[str]) -> None:
    wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert [one.ids for one in _Encoder(tokenizer)(texts)] == wanted


def test_known_sentences(tokenizer: Tokenizer) -> None:
    same(tokenizer, SAID)
    plain = [text for text in SAID if _Encoder(tokenizer)._is_plain(text)]
    assert plain == [SAID[0], "", "   spaces   ", SAID[-1]]


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text(st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"]), max_size=30), max_size=5))
def test_any_sentences(texts: list[str]) -> None:
    for lowercase in (True, False):
        same(train_tokenizer([*SAID, *(chr(code) for code in range(33, 127))], 200, lowercase), texts)
