"""Text -> WordPiece ids, as BERT reads them: `x1..xn [SEP]`, one part a column. The row's [CLS] is the model's."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field
from tokenizers import Encoding, Tokenizer

from fusebert.errors import InputError, UsageError
from fusebert.modalities.base import Collated, present
from fusebert.modalities.files import MEDIA_SUFFIXES
from fusebert.modalities.text.tokenizer import (
    cut,
    encode,
    encoding,
    read_tokenizer,
    special_tokens,
    train_tokenizer,
    vocabulary_size,
    write_tokenizer,
)
from fusebert.modalities.values import are_few, as_date, as_list, looks_like_number
from fusebert.section import Section
from fusebert.storage import read_json, write_json
from fusebert.types import Evidence, Features, Sample

MAX_TEXT_CHARACTERS = 200_000
MANY_UNKNOWN, DOUBTED_ROWS = 0.02, 1000
"""Share of [UNK] among the pieces of so many training rows that is said."""
MANY_CUT, ENOUGH = 0.1, 0.95
"""Share of rows that lose text which is said, and share of rows that the setting which is then named holds."""
UNKNOWN_NAMED = 5
MEAN_NAME, LONGEST_NAME = 5, 8
"""Characters of Chinese names of a few things, on average and at most."""
UNSPACED = 15
"""Characters; longer ones that are no words, such as Thai sentences, are texts of a script without spaces."""
JSON_LIST = re.compile(r'\s*\[\s*[{"]')
"""How a list in JSON begins, which is rather a history than words."""


class Config(Section):
    """How text is read."""

    max_tokens: int = Field(
        128, ge=2, le=8192, description="tokens of text a row may have; the longest column is cut first"
    )
    vocabulary_size: int = Field(
        8000, ge=64, le=1_000_000, description="size of a vocabulary made from the training rows"
    )
    lowercase: bool = Field(True, description="for a vocabulary made here; a pretrained one brings its own rule")
    word_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of pieces that are masked in training, so that no single word says all"
    )


class Processor:
    """Tokenizes the text columns of a row into one stream with token types (0 for the first column, 1 for the rest)."""

    def __init__(self, config: Config, columns: Sequence[str], tokenizer: Tokenizer, pretrained: bool = False) -> None:
        self.config, self.columns, self.tokenizer = config, tuple(columns), tokenizer
        self.pretrained = pretrained

    @classmethod
    def fit(cls, config: Config, columns: Sequence[str], samples: Iterable[Sample], pretrained: Path | None) -> Self:
        if len(columns) >= config.max_tokens:
            raise UsageError(f"text.max_tokens={config.max_tokens} leaves no room for words of {len(columns)} columns")
        if pretrained is not None:
            return cls(config, columns, read_tokenizer(pretrained), pretrained=True)
        values = (value for sample in samples for _, value in present(sample.values, columns))
        texts = (cut(text, config.max_tokens) for text in _readable(values))
        return cls(config, columns, train_tokenizer(texts, config.vocabulary_size, config.lowercase))

    @cached_property
    def special(self) -> dict[str, int]:
        """Ids of BERT's special tokens, by token."""
        return special_tokens(self.tokenizer)

    @property
    def vocabulary_size(self) -> int:
        return vocabulary_size(self.tokenizer)

    def load(self, sample: Sample) -> Features | None:
        """`input_ids`, `token_type_ids`, `position_ids`: int64[T] each; positions start at 1, after [CLS]."""
        parts = texts_of(sample.values, self.columns)
        if not parts:
            return None
        ids = [self._encode(text) for _, text in parts]
        _cut_longest(ids, self.config.max_tokens - len(ids))
        separator = self.special["[SEP]"]
        input_ids = np.concatenate([np.array([*part, separator], dtype=np.int64) for part in ids])
        types = [np.full(len(part) + 1, min(place, 1)) for part, (place, _) in zip(ids, parts, strict=True)]
        return {
            "input_ids": input_ids,
            "token_type_ids": np.concatenate(types),
            "position_ids": np.arange(1, len(input_ids) + 1),
        }

    def doubts(self, samples: Sequence[Sample]) -> list[str]:
        """In words: many training rows lose text, or have much that the trunk's vocabulary cannot spell."""
        unknown, pieces, most = Counter[str](), 0, self.config.max_tokens
        lengths: list[float] = []
        for sample in samples[:DOUBTED_ROWS]:
            needed = 0.0
            for text in _readable(value for _, value in present(sample.values, self.columns)):
                with suppress(InputError):  # the row is reported by the check of every row
                    start = cut(text, most)  # the rest is reckoned to have as many tokens a character
                    found = encoding(self.tokenizer, start, most)
                    unknown.update(_unknown(found, start, self.special["[UNK]"]))
                    pieces += len(found.ids)
                    needed += 1 + len(found.ids) * max(1, len(text) / max(1, len(start)))
            lengths += [needed] if needed else []
        return [*self._cut_off(lengths), *self._unspelled(unknown, unknown.total() / max(1, pieces))]

    def _cut_off(self, lengths: Sequence[float]) -> list[str]:
        most = self.config.max_tokens
        longer = sum(length > most for length in lengths)
        if longer <= MANY_CUT * len(lengths):
            return []
        enough, half = math.ceil(np.quantile(lengths, ENOUGH)), np.median(lengths)
        limit = ", if the trunk has so many positions" if self.pretrained else ""
        return [
            f"{longer / len(lengths):.0%} of the rows lose the end of their text, which has more tokens than "
            f"text.max_tokens={most} (the median is {half:.0f}); {enough} would hold {ENOUGH:.0%} of them{limit}"
        ]

    def _unspelled(self, unknown: Counter[str], share: float) -> list[str]:
        if not self.pretrained or share <= MANY_UNKNOWN:
            return []
        letters = Counter[str]()
        for word, count in unknown.items():
            letters.update(dict.fromkeys(word, count))
        unspelled = [one for one, _ in letters.most_common() if not self._spells(one)][:UNKNOWN_NAMED]
        named = f" (most often {' '.join(unspelled)})" if unspelled else ""
        said = "the trunk's vocabulary is of another language; choose another trunk"
        return [f"{share:.0%} of the text is [UNK]{named}: {said}"]

    def _spells(self, letter: str) -> bool:
        pieces = self.tokenizer.normalizer.normalize_str(letter).strip() if self.tokenizer.normalizer else letter
        return all(self.tokenizer.token_to_id(one) is not None for one in pieces)

    def _encode(self, text: str) -> list[int]:
        if len(text) > MAX_TEXT_CHARACTERS:
            raise InputError(f"the text has {len(text):,} characters; at most {MAX_TEXT_CHARACTERS:,} are read")
        return encode(self.tokenizer, text, self.config.max_tokens)

    def content(self, value: Any, root: Path | None) -> str:  # noqa: ARG002
        """What tells a text from others: those that differ in spaces only, or in case where it does not count, have the
        same pieces."""
        text, normalizer = plain_text(value)[:MAX_TEXT_CHARACTERS], self.tokenizer.normalizer
        return " ".join((text if normalizer is None else normalizer.normalize_str(text)).split())

    @property
    def varies(self) -> bool:
        """Whether training hides pieces."""
        return self.config.word_dropout > 0

    def vary(self, features: Features, random: np.random.Generator) -> Features:
        """Some pieces hidden behind [MASK] (word dropout, Iyyer et al. 2015)."""
        ids = features["input_ids"]
        hidden = (random.random(len(ids)) < self.config.word_dropout) & (ids != self.special["[SEP]"])
        return {**features, "input_ids": np.where(hidden, self.special["[MASK]"], ids)}

    def length(self, features: Features) -> int:
        return len(features["input_ids"])

    def collate(self, rows: Sequence[Features]) -> Collated:
        names = ("input_ids", "token_type_ids", "position_ids")
        return {name: np.concatenate([row[name] for row in rows]) for name in names}

    def save(self, folder: Path) -> None:
        write_json(folder / "processors" / "text.json", {"columns": self.columns, "config": self.config.model_dump()})
        self.save_tokenizer(folder)

    def save_tokenizer(self, folder: Path, longest: int | None = None) -> None:
        """Write `tokenizer.json`, as BERT folders hold it, and what transformers has to know of it."""
        write_tokenizer(self.tokenizer, folder, longest)

    @classmethod
    def load_from(cls, folder: Path) -> Self:
        saved = read_json(folder / "processors" / "text.json")
        return cls(Config(**saved["config"]), saved["columns"], read_tokenizer(folder))


def _unknown(found: Encoding, text: str, unknown: int) -> list[str]:
    """The words of a text that are [UNK]."""
    spans = zip(found.ids, found.offsets, strict=True)
    return [text[start:end] for number, (start, end) in spans if number == unknown]


def plain_text(value: Any) -> str:
    """A text, or texts such as the turns of a dialogue, also in JSON, one after another. Raises InputError."""
    parts = as_list(value)
    if parts is None or (isinstance(value, str) and not all(isinstance(part, str) for part in parts)):
        parts = [value]
    for part in parts:
        if not isinstance(part, str | int | float | bool):
            raise InputError(f"text expected, found {type(part).__name__}")
    return "\n".join(map(str, parts))


def texts_of(values: Mapping[str, Any], columns: Sequence[str]) -> list[tuple[int, str]]:
    """(place among `columns`, text) of those columns that hold words; a list may hold none. Raises InputError."""
    texts = [(place, plain_text(value)) for place, value in present(values, columns)]
    return [(place, text) for place, text in texts if text.strip()]


def _readable(values: Iterable[Any]) -> Iterator[str]:
    """The texts among values; rows with others are reported by the check of every row."""
    for value in values:
        with suppress(InputError):
            yield plain_text(value)[:MAX_TEXT_CHARACTERS]


def matches(values: Sequence[Any]) -> Evidence | None:
    """A column of strings with words in them, which are not names of files."""
    texts = [value for value in values if isinstance(value, str)]
    if 2 * len(texts) <= len(values) or 2 * sum(text.lower().endswith(MEDIA_SUFFIXES) for text in texts) > len(texts):
        return None
    share = sum(any(c.isalpha() for c in text) for text in texts) / len(texts)
    if share < 0.5:
        return None
    in_json = sum(JSON_LIST.match(text) is not None for text in texts) / len(texts)
    confidence = (0.9 - 0.4 * in_json) * len(texts) / len(values)
    words = sum(len(text.split()) for text in texts) / len(texts)
    han = sum(any("\u4e00" <= c <= "\u9fff" for c in text) for text in texts) / len(texts)
    different = len(set(texts))
    counted = sum(looks_like_number(text) or as_date(text) is not None for text in texts) if han >= 0.3 else 0
    if 2 * counted > len(texts):  # 1.1万, 2024年5月31日
        return Evidence("numbers with words behind them", 0.2)
    named = _are_short(texts) if han >= 0.3 else words <= 2.5  # New York, 北京
    if named and are_few(different, len(texts)) and (words >= 2 or han >= 0.3):
        return Evidence(f"{different} different short strings", 0.45)
    if words >= 2 or han >= 0.3:
        chinese = f", {han:.0%} with Chinese" if han else ""
        return Evidence(f"strings of {words:.1f} words on average{chinese}", confidence)
    if sum(map(len, texts)) > UNSPACED * len(texts) and not all(map(str.isascii, texts)):
        return Evidence("strings of a script without spaces", confidence)
    share = different / len(texts)
    return Evidence(f"single words, {share:.0%} of them different", 0.45 if share < 0.9 else 0.2)


def _are_short(texts: Sequence[str]) -> bool:
    """Whether Chinese ones are as short as names are."""
    return sum(map(len, texts)) <= MEAN_NAME * len(texts) and max(map(len, texts)) <= LONGEST_NAME


def _cut_longest(parts: list[list[int]], budget: int) -> None:
    """Shorten the longest part until all parts together hold at most `budget` ids (BERT's own pair rule)."""
    for part in parts:
        del part[max(0, budget) :]  # at once: else two long parts would lose one id after the other
    excess = sum(map(len, parts)) - budget
    while excess > 0:
        longest = max(parts, key=len)
        others = max((len(part) for part in parts if part is not longest), default=0)
        cut = min(excess, max(1, len(longest) - others))
        del longest[len(longest) - cut :]
        excess -= cut
