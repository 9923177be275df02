"""How text becomes words before WordPiece: BERT's own rules, what vocabularies made here add to them, and what may
stand in a tokenizer's file."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

MODIFIERS = "[\U0001f3fb-\U0001f3ff\ufe0e\ufe0f\u200d]"
"""What only varies or joins the emoji beside it: tones of skin, selectors of variants, the joiner."""
SYMBOLS = r"[\p{So}" + "\U0001f000-\U0001faff]"
"""Each is a word of its own; the range has emoji that are younger than the library's Unicode."""
FULL_WIDTH = {chr(ord(plain) + 0xFEE0): plain for plain in string.digits + string.ascii_letters}
DOTTED = "\u0130"
"""İ, whose small form by Unicode is an i and a second dot, which no Turkish text has."""
STROKE = "\u0338"
"""The one character that NFC joins to some of ALONE: with it `=` becomes `≠`."""
ALONE = re.escape(string.punctuation) + "，。、；：？！（）《》“”‘’「」『』—…·" + "\u3400-\u4dbf\u4e00-\u9fff"
"""Characters, as in a regular expression's set, that BERT's rules cut off on both sides: punctuation, Chinese ones.
There are others, but these are most of a text."""
WORD = re.compile(f"[^ \n{ALONE}]+|[^ ]")
"""A run of other characters, or one of ALONE, or a line end."""
LONGEST_WORD = 200
"""Characters; the time for a word grows with their square. BERT's own is 100 or 200."""


def own_normalizer(lowercase: bool) -> normalizers.Normalizer:
    """BERT's, but accents stay: with them BERT takes the vowel signs of Hindi and Thai, the tones of Vietnamese, and
    makes か of が. Before it emoji lose their modifiers, and full-width digits and letters become plain ones."""
    folded = [normalizers.Replace(wide, plain) for wide, plain in FULL_WIDTH.items()]
    dotted = [normalizers.Replace(DOTTED, "i")] if lowercase else []
    bert = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=False)
    modifiers = normalizers.Replace(Regex(MODIFIERS), "")
    return normalizers.Sequence([normalizers.NFC(), modifiers, *folded, *dotted, bert])


def own_pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """BERT's; before it each symbol is cut off."""
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SYMBOLS), "isolated"), pre_tokenizers.BertPreTokenizer()]
    )


def words_stand_alone(tokenizer: Tokenizer) -> bool:
    """Whether the pieces of a text without added tokens and STROKE are those of its parts, cut at spaces and around
    ALONE."""
    found = _described(tokenizer)
    bert = [part for part in _parts(found, "normalizer", "normalizers") if part["type"] == "BertNormalizer"]
    is_bert = len(bert) == 1 and bert[0]["handle_chinese_chars"] and not wrong_part(found)
    return is_bert and not any(token.normalized for token in tokenizer.get_added_tokens_decoder().values())


def wrong_part(found: Mapping[str, Any]) -> str | None:
    """The first part of a tokenizer's JSON that is not as BERT has it, or as vocabularies made here have it, in words.

    Anything else is refused: a pattern of a stranger may take for ever, or make gigabytes of a sentence.
    """
    own = _described(_OWN)
    for name, inside, bert in (
        ("normalizer", "normalizers", "BertNormalizer"),
        ("pre_tokenizer", "pretokenizers", "BertPreTokenizer"),
    ):
        parts, known = _parts(found, name, inside), _parts(own, name, inside)[:-1]
        others = [part for part in parts if part not in known and part.get("type") != bert]
        if others or len(parts) > len(known) + 1:
            return f"its {name} has {(others[0].get('type') if others else len(parts))!s:.40}, not only {bert}"
    if not _parts(found, "pre_tokenizer", "pretokenizers"):
        return "it has no pre_tokenizer, where BERT has BertPreTokenizer"
    model = found.get("model") or {}
    if model.get("type", "WordPiece") != "WordPiece":
        return f"its model is {model['type']!s:.40}, not WordPiece"
    if int(model.get("max_input_chars_per_word", 100)) > LONGEST_WORD:
        return f"its words may have more than {LONGEST_WORD} characters"
    for name, kinds in (("post_processor", ("TemplateProcessing", "BertProcessing")), ("decoder", ("WordPiece",))):
        if (part := found.get(name)) and part.get("type") not in kinds:
            return f"its {name} is {part.get('type')!s:.40}, not {' or '.join(kinds)}"
    return None


def _parts(found: Mapping[str, Any], name: str, inside: str) -> list[dict[str, Any]]:
    part = found.get(name)
    if not part:
        return []
    return list(part[inside]) if part.get("type") == "Sequence" else [part]


def _described(tokenizer: Tokenizer) -> dict[str, Any]:
    """Its JSON, without the vocabulary."""
    bare = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    if tokenizer.normalizer is not None:
        bare.normalizer = tokenizer.normalizer
    if tokenizer.pre_tokenizer is not None:
        bare.pre_tokenizer = tokenizer.pre_tokenizer
    return dict(json.loads(bare.to_str()))


_OWN = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
_OWN.normalizer, _OWN.pre_tokenizer = own_normalizer(lowercase=True), own_pre_tokenizer()
