"""An index on disk: what it finds, how it changes, and what it refuses."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fusebert.cli import main
from fusebert.data.rows import rows_from_memory
from fusebert.data.tables import read_table
from fusebert.errors import DataError, ModelError, RowError, UsageError
from fusebert.evaluation import index as module
from fusebert.evaluation import nearest as product
from fusebert.evaluation import vectors
from fusebert.evaluation.incoming import key_of, keys_of
from fusebert.evaluation.index import Index, write_index
from fusebert.evaluation.nearest import nearest
from fusebert.evaluation.trained_model import TrainedModel, load
from fusebert.evaluation.vectors import embed
from fusebert.evaluation.where import allowed, read_conditions
from fusebert.storage import seal, verify, write_json

SHOP = [
    {
        "id": "a",
        "caption": "a red circle",
        "kind": "shoes",
        "price": 40,
        "tags": ["new", "sale"],
        "since": "2024-05-01",
    },
    {"id": "b", "caption": "a blue star", "kind": "boots", "price": 49.9, "tags": [], "since": "2024-06-01"},
    {"id": "c", "caption": "a green square", "kind": "shoes", "price": 60.0, "since": "2023-01-01"},
    {"id": "d", "caption": "a yellow circle", "kind": "O'Neill; --", "price": None, "tags": ["sale"]},
]


@pytest.fixture
def shop(matching: TrainedModel, tmp_path: Path) -> Index:
    pytest.importorskip("lancedb")
    return matching.write_index(tmp_path / "shop", SHOP, "right", key="id")


def held(index: Index) -> dict[str, str]:
    """What is in it, by key."""
    return {one["key"]: one["values"]["caption"] for one in index.find({"caption": "a"}, 1000)}


def change(index: Index, more: Sequence[Any], **how: Any) -> dict[str, int]:
    return index.update([{"id": key, "caption": caption} for key, caption in more], **how)


def test_an_index_finds_what_a_plain_search_finds(matching: TrainedModel, world: Path, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    rows = list(embed(matching, read_table(world / "test.jsonl"), "right"))
    assert write_index(matching, tmp_path / "index", read_table(world / "test.jsonl"), "right") == len(rows)
    index = Index(matching, tmp_path / "index")
    picture = str(world / rows[3][0].values["image"])  # type: ignore[union-attr]
    found = index.find({"image": picture}, 5)
    query = next(embed(matching, rows_from_memory({"image": picture}), "left"))[1]
    scores = np.stack([vector for _, vector in rows]) @ query  # type: ignore[arg-type]
    np.testing.assert_allclose([one["similarity"] for one in found], np.sort(scores)[::-1][:5], atol=1e-5)
    assert found[0]["values"].keys() == rows[0][0].values.keys()  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="exists already"):
        matching.write_index(tmp_path / "index", world / "test.jsonl", "right")
    with pytest.raises(UsageError, match="one side of a row"):
        index.find({"image": picture, "caption": "a red circle"})


def test_an_index_is_bound_to_its_model(matching: TrainedModel, trained: Path, world: Path, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    matching.write_index(tmp_path / "index", world / "test.jsonl", "right")
    with pytest.raises(ModelError, match="another model"):
        Index(load(trained), tmp_path / "index")
    damaged = next((tmp_path / "index" / "store").rglob("*.lance"))
    target = damaged if damaged.is_file() else next(path for path in damaged.rglob("*") if path.is_file())
    target.write_bytes(target.read_bytes()[:-1])
    with pytest.raises(ModelError, match="changed"):
        Index(matching, tmp_path / "index")


def test_an_index_from_elsewhere_reads_nothing_elsewhere(matching: TrainedModel, world: Path, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    matching.write_index(tmp_path / "index", world / "test.jsonl", "right")
    about = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "copy").mkdir()
    write_json(tmp_path / "copy" / "index.json", about)
    whole = tmp_path / "index" / "store" / "rows.lance"
    lancedb.connect(tmp_path / "copy" / "store").clone_table("rows", str(whole), is_shallow=True)
    seal(tmp_path / "copy")
    with pytest.raises(ModelError, match="names files outside the index"):
        Index(matching, tmp_path / "copy")
    manifest = next((tmp_path / "copy").rglob("*.manifest"))
    for damage in (b"", manifest.read_bytes()[:-1], b"\xff" * 100 + b"LANC", bytes(12) + b"LANC"):
        manifest.write_bytes(damage)
        seal(tmp_path / "copy")
        with pytest.raises(ModelError, match="manifest is damaged"):
            Index(matching, tmp_path / "copy")
    for wrong in ({}, [], about | {"side": "top"}):
        write_json(tmp_path / "index" / "index.json", wrong)
        seal(tmp_path / "index")
        with pytest.raises(ModelError, match=r"index\.json is damaged"):
            Index(matching, tmp_path / "index")


def test_an_index_with_another_version_of_its_table_is_refused(
    matching: TrainedModel, world: Path, tmp_path: Path
) -> None:
    lancedb = pytest.importorskip("lancedb")
    matching.write_index(tmp_path / "index", world / "test.jsonl", "right")
    table = lancedb.connect(tmp_path / "index" / "store").open_table("rows")
    table.add(table.to_arrow(), mode="overwrite")
    hint = next((tmp_path / "index").rglob("latest_version_hint.json"))
    hint.write_text('{"version":1}')  # as it was
    with pytest.raises(ModelError, match=r"is not in manifest\.json"):
        Index(matching, tmp_path / "index")


def test_commands(matching: TrainedModel, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lancedb")
    model, table, index = str(matching.folder), str(world / "test.jsonl"), str(tmp_path / "index")
    assert main(["embed", model, table, "--side", "left", "--output", str(tmp_path / "left.parquet"), "--json"]) == 0
    assert main(["embed", model, table, "--side", "left", "--output", table]) == 2
    assert "the table itself" in capsys.readouterr().err
    assert main(["index", model, table, "--side", "left", "--output", index, "--json"]) == 0
    capsys.readouterr()
    assert main(["find", model, index, "--caption", "a red circle", "--top", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["find", model, index, "--colour", "red"]) == 2
    assert main(["index", model, table, "--side", "left", "--output", index]) == 2


def test_a_bad_row_far_down_is_said_in_words(
    matching: TrainedModel,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setattr(vectors, "ROWS_AT_ONCE", 2)
    lines = (world / "test.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    lines[6] = lines[6].replace("images/", "missing/")
    table = tmp_path / "test.jsonl"
    shutil.copytree(world / "images", tmp_path / "images")
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    given = ["index", str(matching.folder), str(table), "--side", "left", "--output", str(tmp_path / "index")]
    assert main(given) == 1
    assert "row 7" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()
    assert main([*given, "--bad-rows", "skip", "--json"]) == 0
    assert '"rows": 7, "bad_rows": 1' in capsys.readouterr().out


def test_no_room_is_one_line_and_nothing_is_left(
    matching: TrainedModel, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb")
    given = [str(matching.folder), str(world / "test.jsonl"), "--side", "left", "--output"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # no file may be larger
    try:
        codes = [main([name, *given, str(tmp_path / name)]) for name in ("index", "embed")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert codes == [1, 1]
    said = capsys.readouterr().err.splitlines()
    assert [str(tmp_path / name) in line for name, line in zip(("index", "embed"), said, strict=True)] == [True, True]
    assert list(tmp_path.iterdir()) == []


def test_rows_are_added_replaced_and_removed_at_once(shop: Index) -> None:
    found = change(shop, [("b", "a black star"), ("e", "a blue circle")], remove=["a", "z"])
    assert found == {"rows": 4, "added": 1, "replaced": 1, "removed": 1, "embedded": 2, "unknown": 1}
    assert held(shop) == {"b": "a black star", "c": SHOP[2]["caption"], "d": SHOP[3]["caption"], "e": "a blue circle"}
    verify(shop.folder)
    assert shop.find({"caption": "a black star"}, 1)[0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert shop.update(remove=["b", "d"])["rows"] == len(shop) == 2
    assert [path.name for path in shop.folder.parent.iterdir()] == ["shop"]


def test_a_changed_index_is_that_of_all_rows_indexed_anew(shop: Index, tmp_path: Path) -> None:
    new = [SHOP[0] | {"caption": "a red star"}, {"id": "e", "caption": "a white square", "price": 3}]
    shop.update(new, remove="b")
    anew = shop.predictor.write_index(tmp_path / "anew", [*new, *SHOP[2:]], "right", key="id")
    for words in ("a red star", "a green circle", "nothing"):
        ours, theirs = (index.find({"caption": words}, 10) for index in (shop, anew))
        assert [one["key"] for one in ours] == [one["key"] for one in theirs]
        assert [one["values"] for one in ours] == [one["values"] for one in theirs]
        np.testing.assert_allclose(*([one["similarity"] for one in found] for found in (ours, theirs)), atol=2e-6)


def test_what_the_model_reads_alike_is_not_read_again(
    shop: Index, world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also a picture, by what it shows."""
    read: list[int] = []
    infer = vectors.infer

    def noted(model: Any, examples: list[Any], *more: Any) -> np.ndarray:
        read.append(len(examples))
        return infer(model, examples, *more)

    monkeypatch.setattr(vectors, "infer", noted)
    assert shop.update([one | {"price": 1} for one in SHOP], remove_others=True)["embedded"] == 0
    assert read == []
    assert [one["values"]["price"] for one in shop.find({"caption": "a"}, 4)] == [1] * 4
    read.clear()
    picture, other = (tmp_path / f"{name}.png" for name in "ab")
    first, second, *_ = sorted((world / "images").iterdir())
    shutil.copy(first, picture)
    pictures = shop.predictor.write_index(tmp_path / "pictures", [{"id": 1, "image": str(picture)}], "left", key="id")
    shutil.copy(first, other)
    assert pictures.update([{"id": 2, "image": str(other)}])["embedded"] == 0
    shutil.copy(second, picture)
    assert pictures.update([{"id": 1, "image": str(picture)}])["embedded"] == 1
    assert read == [1, 1]


def test_others_are_removed_but_those_whose_row_is_bad(shop: Index) -> None:
    bad: list[RowError] = []
    found = change(shop, [("a", "a red circle"), ("b", "")], remove_others=True, on_bad=bad.append)
    assert ([error.row for error in bad], found["removed"]) == ([2], 2)
    assert held(shop) == {"a": "a red circle", "b": "a blue star"}
    with pytest.raises(UsageError, match="no rows to write"):
        shop.update(remove_others=True)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"caption": "x"}], "column 'id': a key names a row"),
        ([{"id": ["a"], "caption": "x"}], "a key names a row"),
        ([{"id": "x", "caption": "x"}, {"id": " x", "caption": "y"}], "'x' names row 1, too"),
        ([{"id": 7, "caption": "x"}, {"id": 7.0, "caption": "y"}], "'7' names row 1, too"),
        ([{"id": "c", "caption": "x"}], "'c' is to be removed, too"),
    ],
)
def test_keys_that_will_not_do(shop: Index, rows: list[dict[str, Any]], problem: str) -> None:
    before = (shop.folder / "manifest.json").read_bytes()
    with pytest.raises(RowError, match=problem):
        shop.update(rows, remove=["c"])
    assert (shop.folder / "manifest.json").read_bytes() == before


def test_where_a_row_without_a_key_is_skipped_no_others_are_removed(shop: Index) -> None:
    """It may be the one whose row would go."""
    for bad in ({"caption": "a red circle"}, "no row"):
        with pytest.raises(DataError, match=r"row 2.*without its key"):
            shop.update([SHOP[0], bad], remove_others=True, on_bad=lambda _: None)
    assert len(shop) == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RowError("gone", "t", 7)])
def test_what_breaks_off_the_writing_comes_through(
    shop: Index, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as an error of the library, in whose hands it happens."""
    monkeypatch.setattr(vectors, "ROWS_AT_ONCE", 1)

    def rows() -> Any:
        yield SHOP[0]
        raise error

    with pytest.raises(type(error)):
        shop.update(rows())
    assert len(shop) == 4


def test_an_index_from_elsewhere_with_other_rows_is_refused(shop: Index) -> None:
    import lancedb

    store = shop.folder / "store"
    table = lancedb.connect(store).open_table("rows").to_arrow()
    values = {
        "values": ['{"price": NaN}', "[]", "{"],
        "vector": [[np.inf] * 16, None],
        "key": [None],
    }
    wrong = [(name, value) for name, several in values.items() for value in several]
    for name, value in wrong:
        field = table.schema.field(name)
        cells = pa.array([value], field.type)
        changed = table.slice(0, 1).set_column(table.schema.get_field_index(name), field, cells)
        shutil.rmtree(store)
        lancedb.connect(store).create_table("rows", data=changed, on_bad_vectors="null")
        seal(shop.folder)
        with pytest.raises(ModelError, match="holds what no index does"):
            shop.find({"caption": "a"}, where="price<5")
    shutil.rmtree(store)
    lancedb.connect(store).create_table("rows", data=table.drop_columns(["content"]))
    seal(shop.folder)
    with pytest.raises(ModelError, match="holds what no index does"):
        len(shop)


def test_what_is_to_be_removed_may_be_named_twice(tmp_path: Path) -> None:
    (tmp_path / "gone.csv").write_text("id,why\na,sold\n,lost\na,sold out\n")
    bad: list[RowError] = []
    assert list(keys_of(read_table(tmp_path / "gone.csv"), "id", bad.append)) == ["a", "a"]
    assert [error.row for error in bad] == [2]


def test_a_whole_number_is_one_key_however_it_is_written() -> None:
    assert {key_of(raw) for raw in (7, 7.0, "7", " 7.0 ", np.float64(7))} == {"7"}
    assert [key_of(raw) for raw in ("7.5", "7.0.0", "x" * 300)] == ["7.5", "7.0.0", "x" * 300]


def test_an_index_without_keys_does_not_change(matching: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    index = matching.write_index(tmp_path / "index", SHOP, "right")
    assert index.find({"caption": "a red circle"}, 1)[0]["row"] == 1
    with pytest.raises(UsageError, match="without --key"):
        index.update(SHOP)


def test_one_changes_it_at_a_time_and_another_sees_it(shop: Index) -> None:
    other = shop.predictor.index(shop.folder)
    with module._alone(shop.folder), pytest.raises(UsageError, match="another process changes"):
        shop.update(remove="a")
    shop.update(remove="a")
    assert len(other) == 3
    assert "a" not in held(other)


def test_an_index_that_is_replaced_while_it_is_read_is_read_again(shop: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    read, times = module.read_rows, 0

    def replaced(*given: Any) -> Any:
        nonlocal times
        times += 1
        if times == 1:
            shop.update(remove="a")
        elif times == 3:
            raise ModelError("half")
        return read(*given)

    monkeypatch.setattr(module, "read_rows", replaced)
    assert len(Index(shop.predictor, shop.folder)) == 3


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ("kind=shoes", "ac"),
        ("kind == shoes", "ac"),
        ("kind!=shoes", "bd"),
        (["kind=shoes", "kind=boots"], "abc"),
        (["kind!=shoes", "kind!=boots"], "d"),
        ("price<50", "ab"),
        (["price>=40", "price<=49.90"], "ab"),
        ("price=49.90", "b"),
        ("price=60", "c"),
        (["kind=shoes", "price>40"], "c"),
        ("price=", "d"),
        ("price!=", "abc"),
        ("tags=sale", "ad"),
        ("tags!=sale", "bc"),
        ("tags=", "bc"),
        ("tags!=", "ad"),
        ("since>2024-01-01", "ab"),
        ("since>=2024年6月1日", "b"),
        ("kind=O'Neill; --", "d"),
        ("kind=' OR 1=1", ""),
        ([], "abcd"),
    ],
)
def test_the_best_among_the_rows_that_match_are_found(shop: Index, where: Any, keys: str) -> None:
    """All of them in the order in which they come without conditions."""
    everything = shop.find({"caption": "a red circle"}, 10)
    found = shop.find({"caption": "a red circle"}, 10, where)
    assert [one["key"] for one in found] == [one["key"] for one in everything if one["key"] in keys]
    assert [one["key"] for one in shop.find({"caption": "a red circle"}, 1, where)] == [one["key"] for one in found][:1]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("colour=red", r"no row has a column 'colour'; there are caption, id, kind, price, since, tags"),
        ("kind", "write COLUMN=VALUE"),
        ("price<cheap", "'cheap' is neither a number, as 1234.5, nor a date, as 2024-05-31, which < compares$"),
        ("price<50 and kind=shoes", "give each condition by itself"),
        ("price<1,000", "neither a number"),
        ("price<", "neither a number"),
        ("kind<5", r"no row has a number in 'kind', but such as 'shoes'"),
        ("price>2024-05-01", r"no row has a date in 'price', but such as 40"),
        (f"kind={'x' * 300}", "too long"),
        ([5], "expected, found 5"),
        (5, "expected, found 5"),
    ],
)
def test_a_bad_condition_says_what_is_wrong(shop: Index, where: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        shop.find({"caption": "a red circle"}, 3, where)


def test_a_column_s_name_may_hold_a_sign_and_numbers_may_be_text() -> None:
    (condition,) = read_conditions("a<b=c >= 5", ["a", "a<b=c"])
    assert (condition.column, condition.sign, condition.limit) == ("a<b=c", ">=", 5.0)
    assert allowed(condition, ["5", " 7.5 ", "4", "12 €", True, None, {"a": 9}]) == [True, True] + [False] * 5
    (code,) = read_conditions("code=007", ["code"])
    assert allowed(code, ["007", "7", 7, "7.0"]) == [True, False, True, False]
    (empty,) = read_conditions("tags=", ["tags"])
    assert allowed(empty, [[], "[]", None, "", ["a"], [""]]) == [True] * 4 + [False] * 2
    (whole,) = read_conditions("new=true", ["new"])
    assert allowed(whole, [True, "True", False, 1]) == [True, True, False, False]


@pytest.mark.parametrize("number", [2**53, 2**60])
def test_long_ids_are_told_apart(number: int) -> None:
    """One float stands for them."""
    (whole,) = read_conditions(f"user={number + 1}", ["user"])
    assert allowed(whole, [number, number + 1, str(number)]) == [False, True, False]


def test_prices_with_a_comma_are_numbers(matching: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    (tmp_path / "shop.csv").write_text("id;caption;price\na;a red circle;1.234,50\nb;a blue star;9,90\n")
    index = matching.write_index(tmp_path / "index", tmp_path / "shop.csv", "right", key="id")
    assert [one["values"]["price"] for one in index.find({"caption": "a star"}, where="price>10")] == [1234.5]


def test_prices_that_may_be_fractions_or_thousands_are_not_compared(matching: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("lancedb")
    (tmp_path / "shop.csv").write_text("id;caption;price\na;a red circle;1.234\nb;a blue star;2.500\n")
    index = matching.write_index(tmp_path / "index", tmp_path / "shop.csv", "right", key="id")
    index.update(remove="a")
    with pytest.raises(UsageError, match=r"'price<50': nobody knows whether numbers in 'price' such as 1\.234"):
        index.find({"caption": "a star"}, where="price<50")
    assert [one["key"] for one in index.find({"caption": "a star"}, where="price=2.500")] == ["b"]


@pytest.mark.parametrize("queries", [1, 7])
@pytest.mark.parametrize("top", [1, 5, 300])
@pytest.mark.parametrize("some", [True, False])
def test_the_nearest_are_those_of_all_pairs_whatever_the_blocks(
    queries: int, top: int, some: bool, random: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(product, "ROWS_AT_ONCE", 16)
    rows, asked = (random.normal(size=(count, 8)).astype(np.float32) for count in (211, queries))
    rows[100:110] = rows[5]
    places = np.flatnonzero(random.random(211) < 0.4) if some else None
    found, scores = nearest(asked, rows, places, top)
    allowed_places = np.arange(211) if places is None else places
    every = asked @ rows[allowed_places].T
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :top], atol=1e-5)
    np.testing.assert_allclose((asked[:, None] * rows[found]).sum(axis=2), scores, atol=1e-5)
    assert found.shape == (queries, min(top, len(allowed_places)))
    assert all(len(set(one)) == found.shape[1] and set(one) <= set(allowed_places) for one in found.tolist())


def test_many_queries_find_what_each_finds_alone(shop: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERIES_AT_ONCE", 2)
    rows = [{"caption": words} for words in ("a red circle", "", "a star", "one square", "a yellow circle")]
    answers = list(shop.answers(rows, 3, "price>0"))
    assert isinstance(answers[1][1], RowError)
    for row, (_, found) in list(zip(rows, answers, strict=True))[2:]:
        alone = shop.find(row, 3, "price>0")
        assert [one["key"] for one in alone] == [one["key"] for one in found]  # type: ignore[union-attr, index]
    with pytest.raises(RowError, match="row 2"):
        shop.find(rows)
    assert shop.find([]) == []
    assert [len(found) for found in shop.find(rows[2:], 2)] == [2, 2, 2]


def test_rows_with_both_sides_ask_with_the_one_that_is_not_indexed(shop: Index, world: Path) -> None:
    both = [{"image": str(world / "images" / "test_0000.png"), "caption": "a red circle"}]
    picture, words = shop.find([{"image": both[0]["image"]}])[0], shop.find([{"caption": "a red circle"}])[0]
    assert shop.find(both)[0] == picture != words


def test_commands_change_and_ask_an_index(
    matching: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lancedb")
    model, index = str(matching.folder), str(tmp_path / "index")

    def table(name: str, rows: Sequence[Any]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    def told(*arguments: str, code: int = 0) -> Any:
        assert main([*arguments, "--json"]) == code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    shop, gone = table("shop.jsonl", SHOP), table("gone.jsonl", [{"id": "a"}, {"id": "z"}])
    assert told("index", model, shop, "--side", "right", "--key", "id", "--output", index)["rows"] == 4
    bad = {"id": "f", "caption": ""}
    new = table("new.jsonl", [SHOP[1] | {"price": 1}, {"id": "e", "caption": "a blue square"}, bad])
    update = ["index", model, new, "--update", index, "--remove", gone]
    assert "row 3" in told(*update, code=1)["error"]
    changed = told(*update, "--bad-rows", "skip")
    counts = {"rows": 4, "added": 1, "replaced": 1, "removed": 1, "embedded": 1, "unknown": 1, "bad_rows": 1}
    assert changed == counts | {"output": index}
    assert told("index", model, "--update", index, "--remove", table("more.jsonl", [{"id": "e"}]))["rows"] == 3
    assert told("index", model, shop, "--update", index, "--remove-others")["rows"] == 4
    found = told("find", model, index, "--caption", "a star", "--where", "price<50", "--where", "kind=shoes")["found"]
    assert [one["key"] for one in found] == ["a"]
    queries = table("queries.jsonl", [{"id": 5, "caption": "a star"}, {"caption": ""}, {"caption": "a circle"}])
    assert main(["find", model, index, queries, "--top", "2", "--output", str(tmp_path / "out.jsonl")]) == 1
    assert not (tmp_path / "out.jsonl").exists()
    given = ["--top", "2", "--output", str(tmp_path / "out.jsonl"), "--bad-rows", "skip"]
    assert told("find", model, index, queries, *given)["bad_rows"] == 1
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [1, 2, 3]
    assert (lines[0]["id"], len(lines[0]["found"]), "error" in lines[1]) == (5, 2, True)
    assert main(["find", model, index, "--caption", "a", "--where", "price<0"]) == 0
    assert "there is none with price<0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["index", "T", "--side", "right"], "give --output"),
        (["index", "T", "--output", "F", "--update", "F"], "give --output"),
        (["index", "T", "--output", "F"], "--side left or --side right"),
        (["index", "--side", "left", "--output", "F"], "needs a table"),
        (["index", "T", "--side", "left", "--output", "F", "--remove", "T"], "name it with --update"),
        (["index", "T", "--update", "F", "--key", "id"], "leave them out"),
        (["index", "--update", "F"], "give a table of rows"),
        (["index", "--update", "F", "--remove", "T", "--remove-others"], "give a table of rows"),
        (["index", "T", "U", "--update", "F"], "unknown argument U"),
        (["find", "F", "T", "--where", "a=b", "more"], "unknown argument more"),
        (["find", "F", "--caption", "x", "--output", "o.jsonl"], "for the answers to a table"),
    ],
)
def test_a_command_that_does_not_fit_together_is_refused(
    matching: TrainedModel, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([arguments[0], str(matching.folder), *arguments[1:]]) == 2
    assert words in capsys.readouterr().err
