"""Columns of a table: what they are taken for, how values are encoded, and what is refused."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet
from pydantic import ValidationError

from fusebert.data.columns import guess_columns
from fusebert.data.decimals import CommaNumber
from fusebert.data.rows import rows_from_memory
from fusebert.data.tables import read_table
from fusebert.errors import InputError, UsageError
from fusebert.modalities.table.columns import fit_column, kind_of
from fusebert.modalities.table.processor import Config, Processor
from fusebert.recipe_yaml import parse_overrides
from fusebert.training.run import train
from fusebert.types import Sample


def samples(**columns: list[Any]) -> list[Sample]:
    count = len(next(iter(columns.values())))
    return [
        Sample(Path("rows.jsonl"), n + 1, {name: values[n] for name, values in columns.items()}, None)
        for n in range(count)
    ]


def fitted(config: Config | None = None, **columns: list[Any]) -> Processor:
    return Processor.fit(config or Config(), list(columns), samples(**columns), None)


def load(processor: Processor, **values: Any) -> dict[str, np.ndarray]:
    found = processor.load(Sample(Path("rows.jsonl"), 1, values, None))
    assert found is not None
    return dict(found)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, "3"], "number"),
        (["1", "2", "x"], "category"),
        ([True, False], "category"),
        (["2024-01-02", "2024-05-31T12:30"], "date"),
        (["a", "b"], "category"),
        ([1] * 99 + ["x"], "number"),
    ],
)
def test_kinds(values: list[Any], kind: str) -> None:
    assert kind_of(values) == kind


def test_numbers_are_piecewise_linear_and_ordered() -> None:
    random = np.random.default_rng(0)
    numbers = random.lognormal(size=500).tolist()
    processor = fitted(Config(bins=8), price=numbers)
    low, middle, high = (load(processor, price=value)["encoded"][0] for value in (-5, float(np.median(numbers)), 1e9))
    assert low.sum() == 0
    assert high[:8].tolist() == [1] * 8
    assert middle[:8].sum() == pytest.approx(4, abs=0.1)
    assert (np.diff(middle[:8]) <= 0).all()


def test_missing_values_unseen_categories_and_codes() -> None:
    processor = fitted(colour=["red", "blue", "red"], size=[1.5, 2.5, None])
    assert processor.config.codes == (2 + 2) + 2
    assert load(processor, colour="red", size=2)["codes"].tolist() == [2, 4]
    assert load(processor, colour="green", size=" NA ")["codes"].tolist() == [0, 5]
    assert load(processor, colour=" blue ")["codes"].tolist() == [3, 5]
    assert processor.load(Sample(Path("x"), 1, {"colour": "", "size": float("nan")}, None)) is None


def test_numbers_may_be_names() -> None:
    processor = fitted(Config(categories=("region",)), region=[1, 2, 1, 3])
    assert load(processor, region=1.0)["codes"].tolist() == [2]
    with pytest.raises(UsageError, match=r"table\.categories"):
        fitted(Config(categories=("city",)), region=[1, 2])


def test_dates_know_the_season_the_day_of_the_week_and_the_hour() -> None:
    processor = fitted(Config(bins=4), day=[f"2024-{month:02}-15" for month in range(1, 13)])
    summer, winter = (load(processor, day=day)["encoded"][0] for day in ("2024-06-21", "2023-12-21"))
    assert summer[-3] == pytest.approx(-1, abs=0.02)  # the cosine of the year's phase
    assert winter[-3] == pytest.approx(1, abs=0.03)
    assert winter[:4].sum() == 0
    noon, night = (load(processor, day=f"2024-06-21T{hour}:00")["encoded"][0] for hour in (12, 24 - 1))
    assert noon[-1] == pytest.approx(-1)
    assert night[-1] > 0.9


def test_days_some_of_which_name_a_time_zone_are_doubted() -> None:
    """What is no date at all names none, and tells nothing."""
    days, words = [f"2024-05-31T{hour:02}:00" for hour in range(20)], ["soon", None]
    mixed = [*days, "2024-06-01 12:00+08:00", *words]
    table = fitted(x=mixed)
    assert table.fitted[0].kind == "date"
    (said,) = table.doubts(samples(x=mixed))
    assert said.startswith("column 'x': some times name a time zone (1) and others do not (20); these count as UTC")
    for zone in ("", "Z", "+08:00"):
        alike = [*(day + zone for day in days), *words]
        assert fitted(x=alike).doubts(samples(x=alike)) == []


def test_a_number_that_is_mostly_one_value_keeps_the_others_apart() -> None:
    """Also beside one that is a million times larger."""
    column = fit_column([0.0] * 950 + [float(number) for number in range(1, 50)] + [1e6], 16, 10, False)
    assert len(column.edges) <= 17
    found = [column.read(value, 22)[1].sum() for value in (0.0, 1.0, 10.0, 25.0, 45.0)]
    assert np.diff(found).min() > 0.2


def test_moments_of_numpy_are_moments() -> None:
    (row,) = rows_from_memory({"when": np.datetime64("2024-05-31T12:00", "ns")})
    assert isinstance(row, Sample)
    assert row.values["when"] == datetime(2024, 5, 31, 12)


@pytest.mark.parametrize("value", [1, 1.0, True, "true", "TRUE", "1", "1.0"])
def test_one_is_true_in_a_column_of_true_and_false(value: Any) -> None:
    column = fit_column([True, False, True], 16, 10, False)
    assert column.read(value, 22)[0] == column.read(True, 22)[0]
    assert column.is_known(value)
    assert not column.is_known("yes")
    assert fit_column(["True", "0", 1, "1.0", "FALSE"], 16, 10, False).values == ["true", "false"]
    assert fit_column(["0", "1", "2"], 16, 10, True).values == ["0", "1", "2"]  # codes of three things


@pytest.mark.parametrize("value", ["abc", float("inf"), "1e999", [1], {"a": 1}])
def test_what_is_no_number_is_refused(value: Any) -> None:
    processor = fitted(price=[1.0, 2.0])
    with pytest.raises(InputError, match="number"):
        load(processor, price=value)


@pytest.mark.parametrize(("kind", "value"), [("category", ["a"]), ("category", "x" * 500), ("date", "yesterday")])
def test_other_bad_values(kind: str, value: Any) -> None:
    columns = {"category": ["a", "b"], "date": ["2024-01-01", "2024-01-02"]}
    with pytest.raises(InputError):
        load(fitted(x=columns[kind]), x=value)


def test_a_million_categories_cost_no_more_than_their_cap() -> None:
    column = fit_column([str(n) + "x" for n in range(100_000)] + ["y", "y"], 8, 50, as_categories=False)
    assert len(column.values) == 50
    assert column.values[0] == "y"


def test_a_constant_column_works() -> None:
    processor = fitted(x=[3, 3, 3], huge=[1e17, 1e17, 1e17], empty=[None, None, None])
    assert np.isfinite(load(processor, x=3, huge=1e17)["encoded"]).all()


def test_columns_are_recognised() -> None:
    rows = samples(
        age=list(range(100)),
        month=["Feb", "May"] * 50,
        weekend=[True, False] * 50,
        note=[f"a longer note number {n}" for n in range(100)],
        day=[f"2024-01-{1 + n % 28:02}" for n in range(100)],
    )
    kinds = {guess.column: (guess.kind, guess.ambiguous) for guess in guess_columns(rows, None, {})}
    assert kinds == {
        "age": ("table", False),
        "month": ("table", False),
        "weekend": ("table", False),
        "note": ("text", False),
        "day": ("table", False),
    }


@pytest.mark.parametrize("kind", [pyarrow.timestamp("us"), pyarrow.timestamp("ns", "Asia/Tokyo"), pyarrow.date32()])
def test_dates_of_a_parquet_table_are_read(kind: Any, tmp_path: Path) -> None:
    days = [datetime(2024, month, 15, tzinfo=UTC) for month in range(1, 13)]
    parquet.write_table(pyarrow.table({"day": pyarrow.array(days).cast(kind)}), tmp_path / "rows.parquet")
    rows = [row for row in read_table(tmp_path / "rows.parquet") if isinstance(row, Sample)]
    (guess,) = guess_columns(rows, None, {})
    assert (guess.kind, guess.ambiguous) == ("table", False)
    processor = Processor.fit(Config(), ["day"], rows, None)
    assert processor.fitted == fitted(day=[day.isoformat() for day in days]).fitted


def test_a_table_alone_is_learnt(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lines = ["a,b,kind,answer"]
    for _ in range(600):
        a, b, kind = random.random(), random.random(), random.choice(["x", "y"])
        answer = (a > b) if kind == "x" else (a < 0.5)
        lines.append(f"{a:.4f},{b:.4f},{kind},{'yes' if answer else 'no'}")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    settings = {
        "data.train": str(tmp_path / "rows.csv"),
        "data.target": "answer",
        "model.trunk": "tiny",
        "model.dropout": 0.0,
        "training.epochs": 12,
        "training.learning_rate": 1e-3,
        "training.tokens_per_batch": 128,
        "training.trackers": [],
    }
    model = train(settings, tmp_path / "model")
    rows = [{"a": 0.9, "b": 0.1, "kind": "x"}, {"a": 0.1, "b": 0.9, "kind": "x"}, {"a": 0.2, "b": 0.5, "kind": "y"}]
    assert [answer.value for answer in model.predict(rows)] == ["yes", "no", "yes"]


def test_training_takes_its_share_of_values_for_missing(random: np.random.Generator) -> None:
    rows = [Sample(Path("t"), number, {"a": number, "b": "xy"[number % 2]}, None) for number in range(1, 1001)]
    table = Processor.fit(Config(value_dropout=0.3), ["a", "b"], rows, None)
    missing = (
        table.load(Sample(Path("t"), 1, {"a": None, "b": "x"}, None)),
        table.load(Sample(Path("t"), 1, {"a": 1, "b": None}, None)),
    )
    assert missing[0] is not None
    assert missing[1] is not None
    hidden = 0
    for row in rows:
        given = table.load(row)
        assert given is not None
        seen = table.vary(given, random)
        assert [array.dtype for array in seen.values()] == [array.dtype for array in given.values()]
        for column in range(2):
            same = seen["codes"][column] == given["codes"][column]
            hidden += not same
            wanted = given if same else missing[column]
            assert seen["codes"][column] == wanted["codes"][column]
            assert (seen["encoded"][column] == wanted["encoded"][column]).all()
    assert hidden / 2000 == pytest.approx(0.3, abs=0.04)


def test_words_that_are_set_to_mean_nothing_leave_a_column_of_numbers(tmp_path: Path) -> None:
    """Without the setting each number is a name of its own, and that is said."""
    rows = [Sample(Path("t"), n, {"price": "暂无 " if n % 10 == 0 else f"{n}.5"}, None) for n in range(300)]
    plain = Processor.fit(Config(), ["price"], rows, None)
    assert plain.fitted[0].kind == "category"
    (said,) = plain.doubts(rows)
    assert "column 'price'" in said
    assert "30 of 300 are no numbers" in said
    Processor.fit(Config(missing=("暂无", "x")), ["price"], rows, None).save(tmp_path)
    told = Processor.load_from(tmp_path)
    assert told.fitted[0].kind == "number"
    assert told.doubts(rows) == []
    assert told.load(rows[10]) is None
    assert told.load(rows[11]) is not None
    assert Config.model_validate({"missing": "暂无"}).missing == ("暂无",)


@pytest.mark.parametrize("word", ["-999", "-999.0", "-999,0", -999, -999.0])
def test_a_number_may_say_that_nothing_is_there_however_it_is_written(word: Any) -> None:
    config = Config.model_validate({"missing": word})
    assert Config.model_validate({"missing": [word, "x"]}).missing == (*config.missing, "x")
    missing: list[Any] = ["-999,0", CommaNumber("-999,0")]
    if word != "-999,0":  # which is a number only in a table that writes them so
        missing = [-999, -999.0, "-999", " -999.0 ", CommaNumber("-999,0")]
    table = Processor.fit(config, ["x"], samples(x=[1.5, 2.5, 3.5, *missing]), None)
    assert (table.fitted[0].kind, table.fitted[0].edges[0]) == ("number", 1.5)
    assert [table.load(row) for row in samples(x=missing)] == [None] * len(missing)
    assert None not in [table.load(row) for row in samples(x=[-998, "-99", 999.0])]


def test_a_word_that_yaml_takes_for_false_is_no_word() -> None:
    with pytest.raises(ValidationError, match="put it in quotes"):
        Config.model_validate({"missing": False})


def test_names_and_few_numbers_are_not_doubted() -> None:
    values = [("暂无" if n % 10 == 0 else n % 5, f"shop {n % 150}", n % 200) for n in range(300)]
    names = ["stars", "shop", "region"]
    rows = [Sample(Path("t"), n, dict(zip(names, value, strict=True)), None) for n, value in enumerate(values)]
    assert Processor.fit(Config(categories=("region",)), names, rows, None).doubts(rows) == []


def test_names_of_which_most_occur_once_are_doubted() -> None:
    """Also where they are set to be names; not where a long tail stands beside names that recur."""
    values = [(f"{n}.99 €", 7000 + n, f"item {n if n % 5 < 2 else n % 5}") for n in range(200)]
    names = ["price", "shop", "item"]
    rows = [Sample(Path("t"), n, dict(zip(names, value, strict=True)), None) for n, value in enumerate(values)]
    price, shop = Processor.fit(Config(categories=("shop", "item")), names, rows, None).doubts(rows)
    assert "column 'price' has 200 different names in 200 rows" in price
    assert "data.columns.price=ignore" in price
    assert "column 'shop'" in shop
    few = rows[:19]
    assert Processor.fit(Config(), names, few, None).doubts(few) == []


def test_numbers_in_a_column_of_dates_move_no_bins() -> None:
    days = [f"2024-01-{day:02}" for day in range(1, 31)]
    edges, of_days = (fit_column(values, 4, 10, as_categories=False).edges for values in ([*days, "0"], days))
    assert edges == of_days


@pytest.mark.parametrize(
    ("name", "values", "why"),
    [
        ("zip", ["01234", "90210", "00501"] * 20, "40 begin with zeros, such as 01234"),
        ("customer_id", [7, 8, 7, 9] * 10, "by its name"),
        ("customerId", ["7", "8.0", None, "9"] * 10, "by its name"),
        ("userid", [7, 8, 7, 9] * 10, "by its name"),
        ("id_user", [7, 8, 7, 9] * 10, "by its name"),
        ("客户编号", [7, 8, 7, 9] * 10, "by its name"),
        ("用户ID", [7, 8, 7, 9] * 10, "by its name"),
        ("paid", [7, 8, 7, 9] * 10, None),
        ("device_id", [7.5, 8, 7, 9] * 10, None),
        ("hour", ["07", "08", "12"] * 10, None),
        ("share", ["0.07", "0.081", "0", "12"] * 10, None),
    ],
)
def test_numbers_that_are_probably_names_are_named(name: str, values: list[Any], why: str | None) -> None:
    rows = samples(**{name: values})
    said = Processor.fit(Config(), [name], rows, None).doubts(rows)
    assert len(said) == (why is not None)
    if why is not None:
        assert f"{name} ({why})" in said[0]
        told = Config(categories=name)
        assert Processor.fit(told, [name], rows, None).doubts(rows) == []


def test_the_setting_for_all_numbers_that_are_names_stands_in_one_line() -> None:
    """To be pasted; it has those that are set already."""
    columns = {"zip code": ["01234", "90210"] * 10, "shop_id": [3, 4] * 10, "region": [1, 2] * 10}
    rows = samples(**columns)
    (said,) = Processor.fit(Config(categories=("region",)), [*columns], rows, None).doubts(rows)
    setting = next(word for word in shlex.split(said) if word.startswith("table.categories="))
    told = parse_overrides([setting])["table.categories"]
    assert told == ["region", "zip code", "shop_id"]
    assert Processor.fit(Config(categories=told), [*columns], rows, None).doubts(rows) == []


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["number", "date"])
def test_one_slip_does_not_blur_the_others(kind: str, sign: int) -> None:
    numbers = np.random.default_rng(0).normal(size=2000) * 100

    def written(number: float) -> Any:
        return number if kind == "number" else (datetime(2020, 6, 1) + timedelta(days=number)).isoformat()

    values = [written(number) for number in numbers]
    slip = {"number": sign * 1e8, "date": "9999-12-31" if sign > 0 else "0001-01-01"}[kind]
    clean, dirty = fitted(x=values), fitted(x=[*values, slip])
    assert dirty.fitted[0].kind == kind
    assert dirty.fitted[0].edges == clean.fitted[0].edges
    assert clean.doubts(samples(x=values)) == []
    (said,) = dirty.doubts(samples(x=[*values, slip]))
    assert f"column 'x': 1 of 2001 {kind}s lie far away from the others, such as {slip}" in said
    farthest = written((max if sign > 0 else min)(numbers))
    shown = [load(dirty, x=value)["encoded"][0, :16] for value in (slip, farthest)]
    np.testing.assert_allclose(*shown, atol=1e-6)
    told = Processor.fit(Config(missing=str(slip)), ["x"], samples(x=[*values, slip]), None)
    assert told.doubts(samples(x=[*values, slip])) == []


@pytest.mark.parametrize("write", [str, int, float, "{}.0".format])
def test_eight_digits_may_be_a_day(write: Any) -> None:
    days = [datetime(2023, 1, 1) + timedelta(days=7 * n % 700) for n in range(300)]
    found = fitted(x=[write(day.strftime("%Y%m%d")) for day in days])
    plain = fitted(x=[day.date().isoformat() for day in days])
    assert found.fitted == plain.fitted
    assert found.fitted[0].kind == "date"
    for others in (
        [20230000 + n for n in range(300)],
        [18991231 - n for n in range(300)],
        [202301 + n for n in range(300)],
    ):
        assert fitted(x=others).fitted[0].kind == "number"


@pytest.mark.parametrize("blank", ["99999999", "00000000", "open"])
def test_a_word_among_dates_may_mean_that_there_is_none(blank: str) -> None:
    dates = fitted(x=[*(f"2024{month}{day}" for month in (10, 11, 12) for day in range(10, 30)), blank])
    with pytest.raises(
        InputError, match=rf"{blank}' is not a date such as 2024-05-31; table\.missing={blank} in training"
    ):
        load(dates, x=blank)


def test_of_names_that_the_user_says_are_names_no_number_is_asked_for() -> None:
    values = [f"{number:05}" for number in range(200)]
    for config, asked in ((Config(categories="zip"), False), (Config(), True)):
        rows = samples(zip=[value if not asked else f"{value} km" for value in values])
        (said,) = Processor.fit(config, ["zip"], rows, None).doubts(rows)
        assert "200 different names in 200 rows" in said
        assert ("write numbers as 1234.5" in said) == asked
        assert said.endswith("leave the column out with data.columns.zip=ignore")


def test_values_that_differ_in_case_only_are_named() -> None:
    values = ["yes", "Yes", "no", "n"] * 10
    (said,) = fitted(x=values).doubts(samples(x=values))
    assert said == "column 'x': 'Yes' and 'yes' are different values to it; write one of them"


def test_a_word_among_numbers_may_mean_that_there_is_none() -> None:
    numbers = fitted(x=[*range(100), "Missing "])
    with pytest.raises(InputError, match=r"'Missing ' is not a number; table\.missing=Missing in training takes it"):
        load(numbers, x="Missing ")
    with pytest.raises(InputError, match=r"'12 apples' is not a number$"):
        load(numbers, x="12 apples")
    told = Processor.fit(Config(missing="Missing"), ["x"], samples(x=[*range(100), "Missing "]), None)
    assert told.load(Sample(Path("t"), 1, {"x": "Missing "}, None)) is None


def test_a_code_that_lost_its_zeros_is_the_code() -> None:
    """As Excel and pandas read 01067; but not where that is a code, too."""
    codes = ["01067", "90210", "00501", "0501", "007", "7"] * 5
    column = Processor.fit(Config(categories="zip"), ["zip"], samples(zip=codes), None).fitted[0]
    for bare, code in (
        (1067, "01067"),
        ("1067", "01067"),
        (1067.0, "01067"),
        (7, "7"),
        ("007", "007"),
        (90210, "90210"),
    ):
        assert column.read(bare, 22)[0] == column.read(code, 22)[0] > 1
        assert column.is_known(bare)
    assert not column.is_known(501), "of two codes"
    assert not column.is_known(1068)
