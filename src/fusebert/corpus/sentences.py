"""Text clean-up and sentences, for English, Chinese, and any other language by the rules of sentencex."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import sentencex

INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069"
    "\ufeff\ufff9-\ufffd\ud800-\udfff]"
)
"""Control and formatting characters, lone surrogates, and the mark of a failed decoding. Joiners stay: Persian and
emoji are spelled with them."""
CHINESE_END = re.compile("(?<=[。！？；])(?![。！？；”’」』）》】])")
HAN, KANA = re.compile("[\u4e00-\u9fff]"), re.compile("[\u3040-\u30ff]")
LANGUAGE_CHARACTERS = 2000
HAN_SHARE = 0.2
LONGEST = 2048
"""Characters of a line that sentencex sees at once: its time grows with their square."""


def clean(text: str) -> str:
    """NFC, without invisible characters; lines end in \\n, hold no outer spaces, and every run of inner ones is one."""
    lines = "\n".join(unicodedata.normalize("NFC", text).splitlines())
    return "\n".join(" ".join(line.split()) for line in INVISIBLE.sub("", lines).split("\n"))


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
        for part in CHINESE_END.split(line) if language in ("zh", "ja") else [line]:
            for piece in _pieces(part):
                found += [sentence.strip() for sentence in sentencex.segment(language, piece) if sentence.strip()]
    return found


def _pieces(line: str) -> Iterator[str]:
    """A long line in parts that end where a word does, if one ends at all."""
    start = 0
    while len(line) - start > LONGEST:
        end = line.rfind(" ", start, start + LONGEST) + 1 or start + LONGEST
        yield line[start:end]
        start = end
    if start < len(line):
        yield line[start:]
