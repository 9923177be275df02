"""Text clean-up and sentences, for English, Chinese, and any other language by the rules of sentencex."""

from __future__ import annotations

import re
import unicodedata

import sentencex

INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069"
    "\ufeff\ufff9-\ufffd\ud800-\udfff]"
)
"""Control and formatting characters, lone surrogates, and the mark of a failed decoding. Joiners stay: Persian and
emoji are spelled with them."""
SPACES = re.compile(r"[^\S\n]+")
LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029\x85]")
CHINESE_END = re.compile("(?<=[。！？；])(?![。！？；”’」』）》】])")
HAN, KANA = re.compile("[\u4e00-\u9fff]"), re.compile("[\u3040-\u30ff]")
LANGUAGE_CHARACTERS = 2000
HAN_SHARE = 0.2


def clean(text: str) -> str:
    """NFC, without invisible characters, every run of spaces one space, lines kept."""
    text = LINE_ENDS.sub("\n", unicodedata.normalize("NFC", text))
    return SPACES.sub(" ", INVISIBLE.sub("", text))


def language_of(text: str) -> str:
    """`zh`, `ja` or `en`, by script; English rules serve other alphabets well enough when nothing better is said."""
    start = text[:LANGUAGE_CHARACTERS]
    if len(KANA.findall(start)) > 0.05 * len(start):
        return "ja"
    return "zh" if len(HAN.findall(start)) > HAN_SHARE * len(start) else "en"


def split(text: str, language: str) -> list[str]:
    """Sentences of clean text, without outer spaces; a line end always ends one.

    Args:
        language: an ISO 639 code that sentencex knows; for Chinese each full stop ends a sentence, also before digits,
            where sentencex sees none.
    """
    found = []
    for line in text.split("\n"):
        for sentence in sentencex.segment(language, line) if line.strip() else []:
            parts = CHINESE_END.split(sentence) if language in ("zh", "ja") else [sentence]
            found += [part.strip() for part in parts if part.strip()]
    return found
