"""Columns that say nothing or too much, rare labels, and rows or people that stand on both sides of a split."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from fusebert.corpus.duplicates import Fingerprint, fingerprint, nearly
from fusebert.corpus.sentences import HAN
from fusebert.data.split import group_of
from fusebert.doctor.finding import Finding, Splits
from fusebert.errors import InputError
from fusebert.modalities.files import contents_of
from fusebert.modalities.values import as_list, content_key, is_missing, without_fraction
from fusebert.tasks.fit import readable
from fusebert.tasks.regression.task import Task as Regression
from fusebert.types import Sample, is_given

Inputs = Mapping[int, tuple[str, ...]]
"""By the `id` of a row."""

LEAST_ROWS = 20
"""Of fewer rows nothing is said that only many can show."""
RARE = 50
"""A label is rare where the most frequent one is so many times as frequent."""
ONE_SIDED = 0.95
PURE, PURE_LESS_THAN = 0.99, 0.5
"""A column gives the answer away where so great a share of rows has a value that always comes with one label, and
values are at most so many a row (else each row could be its own value)."""
LEAST_SURPRISING = 5
"""So many rows with a value would have another label than the most frequent one if the value told nothing."""
LEAKED, LEAKED_BEYOND_OTHERS = 0.5, 3.0
"""A text tells the label where such a share of rows hold their own (of those beyond the ones whose label is guessed by
its frequency: with two labels that is three quarters), so many times as often as rows of other labels hold it."""
MOSTLY_DIFFERENT = 0.9
"""Of rows of names and numbers, the share above which those that coincide are taken for copies."""
MOST_LABELS = 1000
"""Of more, each text would have to be searched for too many."""
WHOLE, MOST_GAPS = re.compile(r"-?\d+", re.ASCII), 2
"""Numbers that count the rows: whole ones, all different, in a range at most so many times their count, as some rows
may have been held out."""
PEOPLE = re.compile(
    r"(.*_)?(user|speaker|patient|subject|author|customer|client|person|student|session|visitor)(_?id)?|openid|uid|"
    r"(用户|会员|客户|患者|买家|说话人|作者)(_?id|编号|号)?|手机号|身份证号?",
    re.I,
)


def constant_columns(splits: Splits, columns: Sequence[str]) -> Iterator[Finding]:
    """Columns with the same value in every training row that has one."""
    train = next(iter(splits.values()))
    for column in columns:
        values = [content_key(row.values.get(column)) for row in train if not is_missing(row.values.get(column))]
        if len(values) >= LEAST_ROWS and len(set(values)) == 1:
            yield Finding("constant column", column, f"always {values[0]!r:.60}; it can tell nothing")


def absent_columns(splits: Splits, columns: Sequence[str]) -> Iterator[Finding]:
    """Columns of the training rows that no row of another split has, not even empty."""
    for name, found in list(splits.items())[1:]:
        there = {column for row in found for column in row.values}
        for column in [column for column in columns if found and column not in there]:
            yield Finding("absent column", column, f"no row of {name} has it, so it will be scored without")


def imbalance(splits: Splits, target: str) -> Iterator[Finding]:
    """Labels that are too rare to learn, or one that nearly all rows have."""
    train = next(iter(splits.values()))
    labels = [_labels(row, target) for row in train]
    counts = Counter(label for of_row in labels for label in of_row)
    if len(train) < LEAST_ROWS or not counts:
        return
    usual, most = counts.most_common(1)[0]
    single = {label for label, count in counts.items() if count == 1}
    rare = {label for label, count in counts.items() if count * RARE <= most} - single
    alone = "have a single training row, which cannot be learnt from and held out at once"
    for why, found in ((alone, single), (f"are {RARE} times rarer than {usual!r}", rare)):
        if found:
            rows = tuple(row for row, of_row in zip(train, labels, strict=True) if found.intersection(of_row))
            names = ", ".join(sorted(found)[:3])
            yield Finding("rare labels", target, f"{len(found)} labels {why}: {names}", rows)
    if most >= ONE_SIDED * (labelled := sum(map(bool, labels))):
        said = f"{most / labelled:.1%} of the rows have {usual!r}; accuracy will look high without any skill"
        yield Finding("one label prevails", target, said)


def far_targets(splits: Splits, target: str) -> Iterator[Finding]:
    """Numbers to predict that lie far away from all others."""
    train = next(iter(splits.values()))
    rows = [row for row in train if readable(Regression, [row.values.get(target)])]
    if far := Regression.far_targets([row.values[target] for row in rows]):
        said = f"{len(far)} targets lie far away from the others; they decide the scale and most of the loss"
        yield Finding("far target", target, said, tuple(rows[number] for number in far))


def giveaways(splits: Splits, columns: Sequence[str], target: str) -> Iterator[Finding]:
    """Columns of names or numbers whose values recur, each with one label only."""
    train = [row for row in next(iter(splits.values())) if _labels(row, target)]
    labels = [content_key(row.values.get(target)) for row in train]
    prevailing = max(Counter(labels).values(), default=0)
    if len(train) < LEAST_ROWS or prevailing > ONE_SIDED * len(train):
        return
    for column in columns:
        by_value: dict[str, Counter[str]] = defaultdict(Counter)
        for row, label in zip(train, labels, strict=True):
            if not is_missing(row.values.get(column)):
                by_value[content_key(row.values.get(column))][label] += 1
        known = sum(counts.total() for counts in by_value.values())
        pure = sum(counts.most_common(1)[0][1] for counts in by_value.values())
        surprising = known * (1 - prevailing / len(train)) >= LEAST_SURPRISING
        if known >= LEAST_ROWS and len(by_value) <= PURE_LESS_THAN * known and pure >= PURE * known and surprising:
            of = "the rows" if known == len(train) else f"the {known} rows that have one"
            said = f"its value gives {target!r} away in {pure / known:.1%} of {of}; is it known before the answer is?"
            yield Finding("gives the answer away", column, said)


def running_numbers(splits: Splits, columns: Sequence[str]) -> Iterator[Finding]:
    """Columns that count the rows."""
    train = next(iter(splits.values()))
    for column in columns:
        values = [without_fraction(row.values.get(column)) for row in train]
        numbers = {int(value) for value in values if WHOLE.fullmatch(value)}
        are_own = len(train) >= LEAST_ROWS and len(numbers) == len(train)
        if are_own and max(numbers) - min(numbers) < MOST_GAPS * len(numbers):
            said = "each row has a number of its own, nearly without gaps; if it counts the rows, leave it out"
            yield Finding("running number", column, said)


def label_leaks(splits: Splits, columns: Sequence[str], target: str) -> Iterator[Finding]:
    """Texts that hold the words of their own label far more often than texts of other labels hold them."""
    train = [row for row in next(iter(splits.values())) if isinstance(row.values.get(target), str)]
    words = [_plain(row.values[target]) for row in train]
    counts = Counter(words)
    if len(train) < LEAST_ROWS or not 2 <= len(counts) <= MOST_LABELS:
        return
    guessed = sum((count / len(train)) ** 2 for count in counts.values())
    for column in columns:
        texts = [f" {_plain(row.values.get(column))} " for row in train]
        held = [bool(label) and f" {label} " in text for label, text in zip(words, texts, strict=True)]
        own = sum(held) / len(train)
        if own < guessed + LEAKED * (1 - guessed):
            continue
        of_own = Counter(label for label, there in zip(words, held, strict=True) if there)
        others = 0.0
        for label, count in counts.items():
            elsewhere = sum(f" {label} " in text for text in texts) - of_own[label] if label else 0
            others += count / len(train) * (elsewhere + 1) / (len(train) - count + 2)  # of few rows, none says little
        if own >= LEAKED_BEYOND_OTHERS * others:
            rows = tuple(row for row, there in zip(train, held, strict=True) if there)
            said = (
                f"{own:.1%} of the texts name their own {target!r}; will they do so when the answer is not yet known?"
            )
            yield Finding("label in the text", column, said, rows)


def people_on_both_sides(splits: Splits, columns: Sequence[str]) -> Iterator[Finding]:
    """The same speaker, user or patient in the training rows and in others."""
    (_, train), *others = splits.items()
    for column in (column for column in columns if PEOPLE.fullmatch(column)):
        trained = {_name(row, column) for row in train} - {None}
        for name, rows in others:
            found = tuple(row for row in rows if _name(row, column) in trained)
            if found:
                who = len({_name(row, column) for row in found})
                said = f"{who} of those in the training rows are in {name} too; scores will say nothing of new ones"
                yield Finding("same people", column, said, found)


def _name(row: Sample, column: str) -> str | None:
    """As `data.validation_group` tells names apart; None for words such as n/a."""
    return None if is_missing(row.values.get(column)) else group_of(row, column)


def repeated_ids(splits: Splits, columns: Sequence[str]) -> Iterator[Finding]:
    """An `id` that two rows of one table share."""
    for column in (column for column in columns if column.lower() in ("id", "row_id")):
        for name, rows in splits.items():
            seen: set[str] = set()
            again = []
            for row in rows:
                if (key := _name(row, column)) is not None:
                    again += [row] if key in seen else []
                    seen.add(key)
            if again:
                yield Finding("repeated id", column, f"{len(again)} rows of {name} repeat an id", tuple(again))


def copied_texts(splits: Splits, columns: Sequence[str], text_alone: bool) -> Iterator[Finding]:
    """Rows of other splits whose texts are nearly those of a training row; of texts under two dozen words, exactly.

    Args:
        text_alone: there are no other inputs; beside others, texts that training rows share tell no row.
    """
    (_, train), *others = splits.items()
    trained = [(found, row) for row in train if (found := _fingerprint(row, columns)) is not None] if others else []
    shared = Counter(found.exact for found, _ in trained)
    exact: dict[bytes, Sample] = {}
    bands: dict[bytes, list[tuple[Fingerprint, Sample]]] = defaultdict(list)
    for found, row in trained:
        if text_alone or shared[found.exact] == 1:
            exact.setdefault(found.exact, row)
            for band in found.bands():
                bands[band].append((found, row))
    for name, rows in others:
        pairs = []
        for row in rows:
            own = _fingerprint(row, columns)
            if own is None:
                continue
            near = (twin for band in own.bands() for other, twin in bands.get(band, ()) if nearly(own, other))
            twin = exact.get(own.exact) or next(near, None)
            if twin is not None:
                pairs.append((row, twin))
        if pairs:
            row, twin = pairs[0]
            said = (
                f"{len(pairs)} rows of {name} are nearly a training row, such as row {row.row} training row "
                f"{twin.row}; scores on them say too much"
            )
            yield Finding("near-duplicate text", ", ".join(columns), said, tuple(row for row, _ in pairs))


def inputs_of(splits: Splits, columns: Sequence[str], files: Collection[str]) -> Inputs:
    """What each row shows a model in these columns.

    Args:
        files: those of the columns whose cells are files, which are told by what they hold and not by their names.
    """
    return {
        id(row): tuple(
            _held(row, column) if column in files else content_key(row.values.get(column)) for column in columns
        )
        for rows in splits.values()
        for row in rows
    }


def _held(row: Sample, column: str) -> str:
    value = row.values.get(column)
    try:
        return repr(contents_of(value, row.root))
    except InputError:  # the row is reported where it is prepared
        return content_key(value)


def copied_rows(splits: Splits, columns: Sequence[str], inputs: Inputs, table_alone: bool) -> Iterator[Finding]:
    """Rows that are another one in every input: training rows twice, and training rows that are scored.

    Args:
        table_alone: there are no inputs but names and numbers, which may well coincide: copies are copies only where
            most rows differ.
    """
    (first, train), *others = splits.items()
    originals: dict[tuple[str, ...], Sample] = {}
    repeated = []
    for row in train:
        original = originals.setdefault(inputs[id(row)], row)
        repeated += [row] if original is not row else []
    if table_alone and len(originals) <= MOSTLY_DIFFERENT * len(train):
        return
    named = ", ".join(columns)
    if repeated:
        said = f"{len(repeated)} rows of {first} repeat another in every input; a part held out at random holds copies"
        yield Finding("repeated row", named, said, tuple(repeated))
    for name, rows in others:
        copies = tuple(row for row in rows if inputs[id(row)] in originals)
        if copies:
            said = f"{len(copies)} rows of {name} are training rows in every input; scores on them say too much"
            yield Finding("copied row", named, said, copies)


def contradictions(splits: Splits, inputs: Inputs, target: str) -> Iterator[Finding]:
    """Training rows that are alike in all that a model may see, and differ in the answer."""
    by_inputs: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    train = next(iter(splits.values()))
    for row in (row for row in train if _labels(row, target)):
        by_inputs[inputs[id(row)]].append(row)
    found = [rows for rows in by_inputs.values() if len({frozenset(_labels(row, target)) for row in rows}) > 1]
    if found:
        said = f"{len(found)} groups of training rows are alike in every input and differ in the answer"
        yield Finding("contradiction", target, said, tuple(row for rows in found for row in rows))


def _labels(row: Sample, target: str) -> list[str]:
    """One, several, or none; what means a missing value among inputs, such as "none", may be a label."""
    raw = row.values.get(target)
    labels = as_list(raw)
    several = labels if labels is not None else [raw] if is_given(raw) else []
    return list(dict.fromkeys(map(content_key, several)))


def _fingerprint(row: Sample, columns: Sequence[str]) -> Fingerprint | None:
    text = "\n".join(str(row.values[column]) for column in columns if not is_missing(row.values.get(column)))
    if not text.strip():
        return None
    return fingerprint(text, "zh" if HAN.search(text) else "en")


def _plain(value: Any) -> str:
    """Words in lower case with one space between; Chinese characters are words of their own."""
    return " ".join(re.findall(r"[一-鿿]|[^\W_一-鿿]+", str(value).casefold())) if value is not None else ""
