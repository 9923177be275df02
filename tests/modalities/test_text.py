"""Text as training varies it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, BertTokenizerFast

from fusebert.data.columns import guess_column
from fusebert.errors import ModelError
from fusebert.modalities.text.processor import Config, Processor, _cut_longest, matches
from fusebert.modalities.text.tokenizer import encode, read_tokenizer, train_tokenizer, write_tokenizer
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


def test_letters_that_a_vocabulary_lacks_are_named() -> None:
    tokenizer = train_tokenizer(["a red circle", "the blue square"] * 9, 200, lowercase=True)
    rows = [Sample(Path("t.csv"), n, {"text": "红红色 a red zebra"}, None) for n in range(9)]
    (said,) = Processor(Config(), ["text"], tokenizer, pretrained=True).doubts(rows)
    assert "is [UNK] (most often 红 色" in said


@pytest.mark.parametrize("pretrained", [True, False])
def test_texts_that_are_cut_are_doubted(pretrained: bool) -> None:
    tokenizer = train_tokenizer(["red circle", "好"] * 9, 200, lowercase=True)
    for words, most, wanted in (("red circle " * 10, 15, "21"), ("好" * 30_000, 128, "30001")):
        texts = ["red"] * 40 + [words] * 60
        rows = [Sample(Path("t.csv"), n, {"text": text, "x": None}, None) for n, text in enumerate(texts)]
        text = Processor(Config(max_tokens=most), ["text", "x"], tokenizer, pretrained)
        (said,) = text.doubts(rows)
        assert f"60% of the rows lose the end of their text, which has more tokens than text.max_tokens={most}" in said
        assert f"{wanted} would hold 95% of them" in said
        assert text.doubts(rows[:42]) == []


EMOJI = [
    "😊😊👍🏻好用❤️",
    "😊ＶＩＰ１２３，真的吗？",
    "🥰🫠👍 ★★★ 20°C",
    "the cat sat on the mat",
    "👨\u200d👩\u200d👧 vip",
]


@pytest.mark.parametrize(
    ("one", "other"),
    [("की", "कि"), ("ที่", "ที"), ("が", "か"), ("パン", "ハン"), ("mà", "mả"), ("schön", "schon"), ("ё", "е")],
)
@pytest.mark.parametrize("lowercase", [True, False])
def test_signs_that_make_other_words_stay(one: str, other: str, lowercase: bool) -> None:
    tokenizer = train_tokenizer([f"{one} {other}"] * 3, 100, lowercase)
    assert tokenizer.encode(one).tokens == ["[CLS]", one, "[SEP]"]
    assert encode(tokenizer, unicodedata.normalize("NFD", one), 8) == encode(tokenizer, one, 8)
    assert encode(tokenizer, one, 8) != encode(tokenizer, other, 8)


def test_capitals_with_and_without_a_dot_are_small() -> None:
    tokenizer = train_tokenizer(["istanbul ılık ürün"] * 3, 100, lowercase=True)
    assert encode(tokenizer, "İSTANBUL ÜRÜN", 8) == encode(tokenizer, "istanbul ürün", 8)


@pytest.mark.parametrize("lowercase", [True, False])
def test_emoji_are_words_and_wide_letters_are_plain(lowercase: bool, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(EMOJI * 5, 300, lowercase)
    write_tokenizer(tokenizer, tmp_path)

    def pieces(text: str) -> list[str]:
        return tokenizer.encode(text, add_special_tokens=False).tokens

    assert pieces("😊👍🏿👍😊") == ["😊", "👍", "👍", "😊"]
    assert pieces("❤️❤🫠🥰") == ["❤", "❤", "🫠", "🥰"]
    assert pieces("👨\u200d👩") == ["👨", "👩"]
    assert pieces("ＶＩＰ１２３，？") == [*pieces("VIP123"), "，", "？"]
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    others = [AutoTokenizer.from_pretrained(tmp_path)]
    others += [BertTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), do_lower_case=lowercase)]
    for text in [*EMOJI, "ＶＩＰ vip 😊好", "A 👍🏿👍", "[SEP] here"]:
        assert read_tokenizer(tmp_path).encode(text, add_special_tokens=False).tokens == pieces(text)
        if "[SEP]" not in text:  # which transformers takes for a token
            assert [other.tokenize(text) for other in others] == [pieces(text)] * 2
    assert others[0].convert_ids_to_tokens(others[0]("the cat")["input_ids"]) == ["[CLS]", "the", "cat", "[SEP]"]


def test_english_is_spelled_as_by_berts_own_rules() -> None:
    said = ["The cat's 3.5% -- e.g. $5 ^_^ <b>", *(chr(code) * 2 for code in range(33, 127))]
    own = train_tokenizer(said * 3, 300, lowercase=True)
    plain = Tokenizer(own.model)
    plain.normalizer, plain.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    for text in said:
        assert own.encode(text, add_special_tokens=False).tokens == plain.encode(text).tokens


def _folder(folder: Path, **parts: object) -> Path:
    """As BERT's tokenizer.json is, but for some parts."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    tokenizer = Tokenizer(models.WordPiece({piece: number for number, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    return folder


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"normalizer": normalizers.Replace(Regex("."), "aa aa")}, "its normalizer has Replace"),
        (
            {"normalizer": normalizers.Sequence([normalizers.BertNormalizer(), normalizers.Replace(Regex("a+"), "")])},
            "its normalizer has Replace",
        ),
        ({"normalizer": normalizers.Sequence([normalizers.BertNormalizer()] * 99)}, "its normalizer has 99"),
        ({"pre_tokenizer": pre_tokenizers.Split(Regex("(a+)+$"), "isolated")}, "its pre_tokenizer has Split"),
        ({"decoder": decoders.Replace("a", "b")}, "its decoder is Replace"),
        ({"model": models.BPE()}, "its model is BPE"),
    ],
)
def test_a_tokenizer_that_is_not_berts_is_refused(parts: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"tokenizer.json is no tokenizer of a BERT: {said}"):
        read_tokenizer(_folder(tmp_path, **parts))


def test_other_tokenizer_files_are_one_sentence(tmp_path: Path) -> None:
    assert read_tokenizer(_folder(tmp_path)).encode("A").tokens == ["a"]
    found = json.loads((tmp_path / "tokenizer.json").read_text())
    found["model"]["max_input_chars_per_word"] = 10**6
    for text, said in (
        (json.dumps(found), "may have more than 200 characters"),
        ("[]", "cannot be read"),
        ('{"normalizer": 3}', "cannot be read"),
        (" " * (2**26 + 1), "has more than 64 MiB"),
    ):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ModelError, match=said):
            read_tokenizer(tmp_path)


def test_the_vocabulary_of_a_published_bert_keeps_its_rules(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n好\n😊\n##😊\n", encoding="utf-8")
    tokens = read_tokenizer(tmp_path).encode("好😊😊").tokens
    assert tokens == BertTokenizerFast(str(tmp_path / "vocab.txt")).tokenize("好😊😊") == ["好", "😊", "##😊"]


def _older(folder: Path, **said: object) -> None:
    """A published BERT's folder with vocab.txt alone."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "schön", "schon", "Schön", "東", "京", "東京"]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **said}))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
    ],
)
def test_a_published_vocabulary_is_read_as_transformers_reads_it(said: dict[str, object], tmp_path: Path) -> None:
    _older(tmp_path, **said)
    theirs = BertTokenizerFast.from_pretrained(tmp_path)
    for text in ("Schön schön schon", "SCHÖN", "東京"):
        assert encode(read_tokenizer(tmp_path), text, 8) == theirs.encode(text, add_special_tokens=False)


def test_a_vocabulary_of_words_that_another_program_cuts_is_refused(tmp_path: Path) -> None:
    _older(tmp_path, word_tokenizer_type="mecab")
    with pytest.raises(ModelError, match="word_tokenizer_type mecab, which fusebert has not"):
        read_tokenizer(tmp_path)


def test_names_of_files_are_no_texts() -> None:
    rows = [Sample(Path("t"), n, {"image": f"图片/第{n}张 红色的圆.jpg"}, None) for n in range(60)]
    assert not guess_column("image", rows).ambiguous
    assert matches(["the file a.png shows a cat", "what is b.wav"]) is not None


def test_one_longer_name_among_short_ones_is_a_name() -> None:
    names = ["北京市", "广东省", "黑龙江省", "内蒙古自治区", "新疆维吾尔自治区"]
    rows = [Sample(Path("t"), n, {"city": names[n % 5], "said": "这个商品质量很好吗"}, None) for n in range(200)]
    city, said = (guess_column(name, rows) for name in ("city", "said"))
    assert (city.kind, city.ambiguous) == ("table", False)
    assert said.kind == "text"
