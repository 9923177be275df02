"""Text clean-up and sentences, for English, Chinese, and any other language by the rules of sentencex."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

from fusebert.corpus.languages import OTHER
from fusebert.errors import UsageError, how_to_install

INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069"
    "\ufeff\ufff9-\ufffd\ud800-\udfff]"
)
"""Control and formatting characters, lone surrogates, and the mark of a failed decoding. Joiners stay: Persian and
emoji are spelled with them."""
CHINESE_END = re.compile("(?<=[。！？；])(?![。！？；”’」』）》】])")
HAN, KANA = re.compile("[\u4e00-\u9fff]"), re.compile("[\u3040-\u30ff]")
NOT_LATIN = re.compile("[\u0370-\u1cff\u1f00-\u1fff\uac00-\ud7a3\ufb50-\ufdff\ufe70-\ufefc]")
SCRIPTS = {
    "ru": re.compile("[\u0400-\u052f]"),
    "el": re.compile("[\u0370-\u03ff\u1f00-\u1fff]"),
    "hy": re.compile("[\u0530-\u058f]"),
    "ml": re.compile("[\u0d00-\u0d7f]"),
}
"""Those whose languages sentencex cuts by other rules than English: by these, А. С. Пушкин would be three sentences."""
LANGUAGE_CHARACTERS = 2000
HAN_SHARE, SCRIPT_SHARE = 0.2, 0.4
LONGEST = 2048
"""Characters of a line that sentencex sees at once: its time grows with their square. A longer sentence is cut."""
MOST_MARKS = 30
"""Combining characters in a row (Unicode's Stream-Safe Text Format, UAX 15): the time to order them grows with the
square of their number."""
MAYBE_MARKS = re.compile(f"[^\0-\u02ff\u3040-\u3098\u309b-\u9fff\uac00-\ud7a3]{{{MOST_MARKS + 1}}}")
"""None of the characters that most texts are made of combines; to look for those that do takes ten times as long."""


def clean(text: str) -> str:
    """NFC, without invisible characters; lines end in \\n, hold no outer spaces, and every run of inner ones is one."""
    visible = INVISIBLE.sub("", "\n".join(text.splitlines()))
    if MAYBE_MARKS.search(visible):
        visible = _more_marks().sub(r"\1", visible)
    normal = unicodedata.normalize("NFC", visible)
    return "\n".join(" ".join(line.split()) for line in normal.split("\n"))


@cache
def _more_marks() -> re.Pattern[str]:
    """MOST_MARKS combining characters, and those after them."""
    planes = map(chr, range(0x300, 0x20000))
    marks = "".join(mark for mark in planes if unicodedata.combining(unicodedata.normalize("NFD", mark)[0]))
    return re.compile(f"([{marks}]{{{MOST_MARKS}}})[{marks}]+")


def language_of(text: str) -> str:
    """By script: `zh`, `ja`, or one of SCRIPTS, which stands for all languages of that script; `en` for those in Latin
    letters, and `other` for the rest. English rules serve both well enough when nothing better is said."""
    start = text[:LANGUAGE_CHARACTERS]
    if len(KANA.findall(start)) > 0.05 * len(start):
        return "ja"
    if len(HAN.findall(start)) > HAN_SHARE * len(start):
        return "zh"
    letters = "".join(NOT_LATIN.findall(start))
    if len(letters) <= SCRIPT_SHARE * len(start):
        return "en"
    return next((code for code, script in SCRIPTS.items() if 2 * len(script.findall(letters)) > len(letters)), OTHER)


def split(text: str, language: str) -> list[str]:
    """Sentences of clean text, without outer spaces; a line end always ends one.

    Args:
        language: as `languages.py` has it; for Chinese each full stop ends a sentence, also before digits,
            where sentencex sees none.
    """
    found = []
    for line in text.split("\n"):
        for part in CHINESE_END.split(line) if language in ("zh", "ja") else [line]:
            found += [sentence.strip() for sentence in _segment(part, language) if sentence.strip()]
    return found


def _segment(line: str, language: str) -> Iterator[str]:
    """Sentences of one line. A long one is seen through a window that ends where a word does, and whose last sentence
    may go on behind it; so the next window begins with that one, unless it fills the window."""
    start = 0
    while len(line) - start > LONGEST:
        end = line.rfind(" ", start, start + LONGEST) + 1 or start + LONGEST
        *whole, last = load_sentencex().segment(language, line[start:end])
        yield from whole or [last]
        start = end - len(last) if whole else end
    yield from load_sentencex().segment(language, line[start:])


@cache
def load_sentencex() -> Any:
    """The library; raises UsageError where it is not installed."""
    try:
        import sentencex
    except ImportError:
        raise UsageError(f"sentences are found by sentencex; {how_to_install('corpus')}") from None
    return sentencex
