"""The tokenized corpus is what the tokenizer itself gives, whichever way a sentence takes."""

from __future__ import annotations

import marshal
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers

from fusebert.corpus import encoding
from fusebert.corpus.encoding import SentenceEncoder
from fusebert.corpus.tokens import Tokens, _write, continuations, inside_chinese, tokenize_corpus
from fusebert.corpus.vocabulary import corpus_tokenizer
from fusebert.errors import DataError
from fusebert.modalities.text.rules import ALONE
from fusebert.modalities.text.tokenizer import _count_words, train_tokenizer, vocabulary_size
from fusebert.tasks.pretraining.masking import Masking

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
    "😊😊👍🏻 ＶＩＰ vip",
]


@pytest.fixture(scope="module", params=[True, False])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer([*SAID * 3, *(chr(code) for code in range(33, 127))], 300, request.param)


def same(tokenizer: Tokenizer, texts: list[str]) -> None:
    wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    encode = SentenceEncoder(tokenizer)
    for _ in range(2):  # the second time all words are known
        pieces, lengths = encode(texts)
        assert lengths.tolist() == [len(ids) for ids in wanted]
        assert pieces.tolist() == list(chain.from_iterable(wanted))


def test_known_sentences(tokenizer: Tokenizer) -> None:
    for said in ([text for text in SAID if "[" not in text], SAID, [*SAID, "two\nlines"], [""], []):
        same(tokenizer, said)


def test_each_word_is_encoded_once(tokenizer: Tokenizer) -> None:
    encode = SentenceEncoder(tokenizer)
    asked: list[str] = []
    encode._encode = lambda texts: asked.extend(texts) or tokenizer.encode_batch(texts, add_special_tokens=False)  # type: ignore[assignment,func-returns-value]
    encode(["The cat, the cat.", "中文，中文 mat"])
    encode(["the mat", "dog"])
    assert asked == ["The", "cat", ",", "the", ".", "中", "文", "，", "mat", "dog"]


def test_words_are_forgotten_where_there_are_too_many(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MOST_KNOWN", 2000)
    encode = SentenceEncoder(tokenizer)
    for start in range(0, 2000, 10):
        texts = [f"number {number} the cat" for number in range(start, start + 10)]
        pieces, _ = encode(texts)
        wanted = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        assert pieces.tolist() == list(chain.from_iterable(wanted))
        assert len(encode.numbers) == len(encode.lengths) < 40


@pytest.mark.parametrize("change", ["Chinese characters are not cut off", "an added token is looked for in lower case"])
def test_other_rules_are_kept(tokenizer: Tokenizer, change: str) -> None:
    tokenizer = Tokenizer.from_str(tokenizer.to_str())
    if change.startswith("Chinese"):
        tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    else:
        tokenizer.add_tokens([AddedToken("the cat", normalized=True)])
    assert not SentenceEncoder(tokenizer).knows_words
    same(tokenizer, SAID)


@pytest.mark.parametrize(
    "beside",
    ["a", "A1", "é", "e\u0301", "\u0301", "\u0338", "\ufe0f\u0338", "中", "〇", "か\u3099", "한", "x\x07", "\u200d"],
)
def test_what_is_cut_off_stands_alone_beside_anything(tokenizer: Tokenizer, beside: str) -> None:
    alone = re.compile(f"[{ALONE}]")
    cut = [character for character in map(chr, [*range(33, 0xFFFF, 1)]) if alone.match(character)]
    cut = [*cut[:60], *cut[60::500], "—", "”", "》", "，", "\u3400", "\u9fff"]
    same(tokenizer, [f"{beside}{character}{beside} {character}{character}" for character in cut])


LETTERS = st.characters(exclude_categories=["Cs"])
NEAR = st.sampled_from(
    "aZé1 \u00a0\u3000\t\x1c\x07\u0301\u0338\u0327\u200d\ufe0f，。“”·…—中文㐀〇か\u3099한\u1100\u1161ΣσςİßＡ１😊🏻"
    "'.[](-$^`|~\ufb01"
)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(NEAR | LETTERS, max_size=30), max_size=5))
def test_any_sentences(texts: list[str]) -> None:
    for lowercase in (True, False):
        same(_learnt(lowercase), texts)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(NEAR | LETTERS, max_size=30), max_size=5))
def test_words_are_counted_as_whole_texts_have_them(texts: list[str]) -> None:
    for lowercase in (True, False):
        rules = _learnt(lowercase)
        normal = (rules.normalizer.normalize_str(text) for text in texts)
        words = Counter(word for text in normal for word, _ in rules.pre_tokenizer.pre_tokenize_str(text))
        assert _count_words(texts, rules) == words


@cache
def _learnt(lowercase: bool) -> Tokenizer:
    return train_tokenizer([*SAID, *(chr(code) for code in range(33, 127))], 200, lowercase)


def test_sentences_without_pieces_are_left_out(tmp_path: Path) -> None:
    tokenizer = train_tokenizer([*SAID * 3, *(chr(code) for code in range(33, 127))], 300, lowercase=True)
    said = [["\ufe0f", "a cat", "\u200d \ufe0e"], ["\u200d"], ["a mat", "the"]]
    _write(tmp_path, iter([{"sentences": sentences} for sentences in said]), tokenizer, chinese_words=False)
    found = Tokens.read(tmp_path)
    lengths = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in ("a cat", "a mat", "the")]
    assert np.diff(found.sentences).tolist() == lengths
    assert found.documents.tolist() == [0, 1, 3]
    assert found.sentences[-1] == len(found.ids) == len(found.inside)


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damage_to_what_was_tokenized_is_seen(corpus: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(corpus, tmp_path / "corpus")
    tokenizer = corpus_tokenizer(tmp_path / "corpus")
    tokenize_corpus(tmp_path / "corpus", "train", tokenizer)
    (ids,) = (tmp_path / "corpus").glob("tokens-*/train/ids.npy")
    data = bytearray(ids.read_bytes())
    data[-1] ^= 64
    ids.write_bytes(data[:1000] if damage == "cut" else data)
    with pytest.raises(DataError, match=r"ids\.npy has changed.*remove it, and it is made again"):
        tokenize_corpus(tmp_path / "corpus", "train", tokenizer)
    shutil.rmtree(ids.parent)
    tokenize_corpus(tmp_path / "corpus", "train", tokenizer)


@pytest.mark.parametrize("report", ["{}", "[]", '{"counts": 3, "languages": {}, "shards": {}}'])
def test_a_damaged_report_is_one_sentence(corpus: Path, tmp_path: Path, report: str) -> None:
    (tmp_path / "corpus.json").write_text(report)
    with pytest.raises(DataError, match=r"corpus\.json is damaged"):
        tokenize_corpus(tmp_path, "train", corpus_tokenizer(corpus))


def test_chinese_words_are_those_of_the_dictionary(tmp_path: Path) -> None:
    """Not those of a cache that anybody may have left in the folder for temporary files."""
    (tmp_path / "jieba.cache").write_bytes(marshal.dumps(({"中国": 9, "人民大学": 9}, 18)))
    os.utime(tmp_path / "jieba.cache", (4e9, 4e9))
    program = "from fusebert.corpus.tokens import _jieba; print(*_jieba().cut('中国人民大学'))"
    given = {"env": os.environ | {"TMPDIR": str(tmp_path)}, "capture_output": True, "text": True}
    assert subprocess.run([sys.executable, "-c", program], **given).stdout == "中国人民大学\n"


def test_a_piece_inside_a_chinese_word_continues_it() -> None:
    tokenizer = train_tokenizer(["中国人民大学的学生"] * 3, 100, True)
    assert inside_chinese(tokenizer, "中国人民大学的").tolist() == [False, True, True, True, True, True, False]


def test_a_vocabulary_may_leave_out_numbers() -> None:
    """One piece stands twice in the file, so there are fewer pieces than lines."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]
    tokenizer = Tokenizer(models.WordPiece({piece: number + (number > 4) for number, piece in enumerate(pieces)}))
    assert vocabulary_size(tokenizer) == 8
    assert continuations(tokenizer).tolist() == [False] * 7 + [True]
    assert Masking.of(tokenizer, 0.15, whole_words=False).ordinary.tolist() == [6, 7]
