"""Recommendation: what comes next, in a world where something does."""

from __future__ import annotations

import copy
import json
import math
import shutil
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fusebert
from fusebert.cli import main
from fusebert.config import Recipe
from fusebert.data.tables import read_table
from fusebert.errors import DataError, InputError, ModelError, RecipeError, RowError, UsageError
from fusebert.evaluation.catalogue import _text, describe, read_catalogue
from fusebert.modalities.events.history import Past
from fusebert.storage import read_json
from fusebert.tasks.recommendation.baselines import _ranks, _recent
from fusebert.tasks.recommendation.config import HISTORY, NEXT, Config
from fusebert.tasks.recommendation.histories import asked_again, hold_out_newest, questions, read_events
from fusebert.tasks.recommendation.leaks import leaks
from fusebert.tasks.recommendation.ranking import NAMES, NEVER, ranking_metrics
from fusebert.tasks.recommendation.task import RULED_OUT, Task
from fusebert.training.prepare_histories import prepare_histories
from fusebert.training.progress import Silence
from fusebert.training.run import train
from fusebert.training.trainer import StoppedError
from fusebert.types import Encoded, Layout, Sample

ITEMS = 20
SETTINGS: dict[str, Any] = {
    "task.name": "recommendation",
    "task.time": "time",
    "model.trunk": "tiny",
    "events.max_events": 12,
    "training.epochs": 60,
    "training.tokens_per_batch": 256,
    "training.learning_rate": 2e-3,
    "training.trackers": [],
}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Users who walk round a circle of items: after n comes n + 1, or, for each third of them, n + 2."""
    folder = tmp_path_factory.mktemp("circle")
    random = np.random.default_rng(0)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "test": []}
    for user in range(150):
        item = int(random.integers(ITEMS))
        for step in range(12):
            part = "test" if step == 11 else "val" if step == 10 else "train"
            parts[part].append({"user": f"u{user}", "item": f"i{item}", "time": 100 * step + user % 7})
            item = (item + 1 + (user % 3 == 0)) % ITEMS
    for part, rows in parts.items():
        write(folder / f"{part}.jsonl", [rows[place] for place in random.permutation(len(rows))])
    return folder


def walk(start: int, by: int = 1) -> list[dict[str, Any]]:
    """Six steps round the circle."""
    return [{"item": f"i{(start + by * step) % ITEMS}", "time": 100 * step} for step in range(6)]


def recipe(world: Path, **others: Any) -> dict[str, Any]:
    tables = {"data.train": "train.jsonl", "data.validation": "val.jsonl", "data.test": "test.jsonl"}
    return SETTINGS | {name: str(world / table) for name, table in tables.items()} | others


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "model"
    train(recipe(world, **{"task.repeats": True}), folder)
    return folder


def test_it_learns_what_comes_next_and_beats_what_is_popular(trained: Path) -> None:
    found = read_json(trained / "metrics.json")["evaluations"]["test"]
    assert found["metrics"]["recall_at_1"] > 0.9
    assert set(found["baselines"]) == {"popularity", "last_item", "item_knn", "recent_knn"}
    assert found["metrics"]["ndcg_at_10"] > found["baselines"]["item_knn"]["ndcg_at_10"]
    assert found["baselines"]["popularity"]["recall_at_1"] < 0.2


def test_a_finished_model_recommends(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = fusebert.load(trained)
    steps = walk(1, by=2)
    assert model.predict({HISTORY: steps}).value == "i13"
    assert model.predict({HISTORY: steps[::-1]}).value == "i13"
    assert main(["predict", str(trained), "--history", json.dumps(steps), "--top", "3", "--json"]) == 0
    top = json.loads(capsys.readouterr().out)["top"]
    assert len(top) == 3
    assert top[0]["label"] == "i13"


def test_a_table_of_events_is_scored_event_by_event(trained: Path, world: Path, tmp_path: Path) -> None:
    model = fusebert.load(trained)
    texts = [(world / f"{part}.jsonl").read_text() for part in ("train", "val", "test")]
    events = [json.loads(line) for text in texts for line in text.splitlines()]
    found = model.evaluate(str(write(tmp_path / "events.jsonl", events)))
    assert found["rows"] == 150 * 12
    rows = [{HISTORY: ["i1", "i2"], NEXT: "i3"}, {HISTORY: [], NEXT: "nobody knows it"}]
    assert model.evaluate(str(write(tmp_path / "rows.jsonl", rows)))["rows"] == 2
    lost = [*events, {"user": None, "item": "i1", "time": 5}]
    with pytest.raises(DataError, match=r"1 of 1801 rows .* it has no user"):
        model.evaluate(str(write(tmp_path / "lost.jsonl", lost)))


def test_what_is_known_makes_histories_and_is_not_scored(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test, *known = (str(world / f"{part}.jsonl") for part in ("test", "train", "val"))
    reported = read_json(trained / "metrics.json")["evaluations"]["test"]
    assert main(["evaluate", str(trained), test, "--known", *known, known[0]]) == 2
    assert "names a table twice" in capsys.readouterr().err
    assert main(["evaluate", str(trained), test, "--known", *known, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["metrics"] == reported["metrics"]
    assert (found["rows"], found["without_history"]) == (150, 0)
    assert "no history" not in err
    popularity = reported["baselines"]["popularity"]["ndcg_at_10"]
    assert f"their ndcg_at_10 on its test part: popularity {popularity:.4f}, last_item" in err
    assert f"({trained / 'metrics.json'})" in err
    assert main(["evaluate", str(trained), test, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["metrics"]["recall_at_1"] < 0.5
    assert "150 of 150 questions have no history" in err
    model = fusebert.load(trained)
    assert model.evaluate(test, known=known[0])["rows"] == 150
    with pytest.raises(UsageError, match="not a table of events with a column 'item'"):
        model.evaluate([{HISTORY: ["i1", "i2"], NEXT: "i3"}], known=known)
    lost = write(tmp_path / "lost.jsonl", [{"user": None, "item": "i1", "time": 5}])
    with pytest.raises(DataError, match=r"lost.jsonl, row 1.* it has no user"):
        model.evaluate(test, known=[*known, lost])


def test_a_stopped_run_goes_on_as_if_it_had_not(world: Path, tmp_path: Path) -> None:
    class Interrupt(Silence):
        """Ctrl-C after the third epoch."""

        def epoch(self, entry: dict[str, Any]) -> None:
            if entry["epoch"] == 3:
                signal.raise_signal(signal.SIGINT)

    settings = recipe(world, **{"training.epochs": 5, "task.repeats": True})
    whole = train(settings, tmp_path / "whole")
    with pytest.raises(StoppedError):
        train(settings, tmp_path / "stopped", progress=Interrupt())
    again = train(settings, tmp_path / "stopped", resume=True)
    weights = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)


def test_a_copied_model_reads_its_own_items(trained: Path) -> None:
    model = fusebert.load(trained).model
    assert copy.deepcopy(model).head._events.module is not model.embedders["events"]
    assert copy.deepcopy(model.head)._events.module is model.embedders["events"]


def test_someone_without_a_history_is_recommended_something(trained: Path) -> None:
    with pytest.warns(UserWarning, match="'nobody knows it'"):
        answers = fusebert.load(trained).predict([{HISTORY: []}, {HISTORY: ["nobody knows it"]}])
    assert all(answer.value.startswith("i") for answer in answers)


def test_items_that_are_not_known_are_said(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = fusebert.load(trained)
    with pytest.warns(UserWarning, match="items that the model does not know: 'x', 'y'$"):
        some = model.predict({HISTORY: ["i1", "x", "y", "x"]})
    with pytest.raises(RowError, match="the given row: none of the items is known to the model: 'x', 'y'"):
        model.predict({HISTORY: ["x", "y"]})
    rows = [{HISTORY: ["i1", "x", "y", "x"]}, {HISTORY: [f"new {n}" for n in range(7)]}]
    with pytest.warns(UserWarning, match="'new 2' and 4 more"):
        assert model.predict(rows)[0].value == some.value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict([{HISTORY: ["i1", "i2"]}, {HISTORY: []}])
    assert main(["predict", str(trained), "--history", '["x"]']) == 1
    assert "fusebert: the given row: none of the items is known" in capsys.readouterr().err
    assert main(["predict", str(trained), "--history", '["i1", "x"]']) == 0
    assert capsys.readouterr().err == "Warning: items that the model does not know: 'x'\n"
    table = write(tmp_path / "rows.jsonl", [{HISTORY: ["i1"]}, {HISTORY: ["x"]}, {HISTORY: ["i2", "y"]}])
    assert main(["predict", str(trained), str(table)]) == 0
    said = "Warning: 2 of 3 rows have items that the model does not know: first 'x' in row 2\n"
    assert capsys.readouterr().err == said


def test_what_was_seen_does_not_come_again_unless_it_may(world: Path, tmp_path: Path) -> None:
    model = train(recipe(world, **{"training.epochs": 1}), tmp_path / "model")
    seen = [f"i{n}" for n in range(ITEMS - 1)]
    assert model.predict({HISTORY: seen}).value == f"i{ITEMS - 1}"


def test_a_question_knows_what_came_before_and_nothing_else(world: Path) -> None:
    config = Config(time="time")
    known, asked = (read_events(read_table(world / f"{part}.jsonl"), config)[0] for part in ("train", "val"))
    rows = list(questions(known, asked))
    assert len(rows) == len(asked) == 150
    for row in rows:
        past = row.values[HISTORY]
        assert isinstance(past, Past)
        assert len(list(past)) == 10
        assert [event.seconds for event in past] == sorted(event.seconds for event in past)
        step = 1 + (int(past.events[1].item[1:]) - int(past.events[0].item[1:]) - 1) % ITEMS
        assert int(row.values[NEXT][1:]) == (int(list(past)[-1].item[1:]) + step) % ITEMS


def test_a_share_for_validation_cuts_all_users_at_one_moment(world: Path) -> None:
    done, _ = read_events(read_table(world / "train.jsonl"), Config(time="time"))
    older, newer = hold_out_newest(done, 0.2)
    assert len(newer) == pytest.approx(0.2 * len(done), abs=1)
    assert max(one.seconds for one in older) <= min(one.seconds for one in newer)
    without, _ = read_events(read_table(world / "train.jsonl"), Config())
    older, newer = hold_out_newest(without, 0.2)
    assert {one.user for one in older} == {one.user for one in newer}


class Reader:
    """A vector for each title, the same for the same title."""

    def __init__(self, name: str) -> None:  # noqa: ARG002
        self.vectors = np.random.default_rng(0).normal(size=(ITEMS, 16)).astype(np.float32)

    def encode(self, texts: list[str]) -> np.ndarray:
        return self.vectors[[int(text.removeprefix("number")) for text in texts]]


def test_a_description_stands_for_an_item_that_nobody_had(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each new item is described exactly like one that all know: of the new ones, it comes next where that one does."""
    catalogue = [{"item": f"i{n}", "title": f"number{n % ITEMS}"} for n in range(2 * ITEMS)]
    items = write(tmp_path / "items.jsonl", catalogue)
    monkeypatch.setattr("fusebert.evaluation.catalogue.Encoder", Reader)
    settings = {"task.catalogue": str(items), "task.content": "any", "task.repeats": True}
    model = train(recipe(world, **settings), tmp_path / "model")
    again = fusebert.load(tmp_path / "model")
    rows = [{HISTORY: walk(start)} for start in range(ITEMS)]
    answers = model.predict(rows, top=2 * ITEMS)
    assert again.predict(rows, top=2 * ITEMS) == answers
    ranks = []
    for start, answer in enumerate(answers):
        following = (start + 6) % ITEMS
        new = [label for label, _ in answer.top if int(label[1:]) >= ITEMS]
        ranks.append(1 + new.index(f"i{ITEMS + following}"))
    assert np.mean(ranks) < 4  # of 20: 10.5 by chance


def test_items_that_came_after_training_are_recommended_by_their_description(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = [{"item": f"i{n}", "title": f"number{n % ITEMS}"} for n in range(2 * ITEMS)]
    old, all_items = write(tmp_path / "old.jsonl", catalogue[:ITEMS]), write(tmp_path / "all.jsonl", catalogue)
    monkeypatch.setattr("fusebert.evaluation.catalogue.Encoder", Reader)
    settings = {"task.catalogue": str(old), "task.content": "any", "task.repeats": True}
    before = train(recipe(world, **settings), tmp_path / "model")
    command = ["extend", str(tmp_path / "model"), str(all_items), "--output", str(tmp_path / "more"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["added"] == ITEMS
    after = fusebert.load(tmp_path / "more")
    rows = [{HISTORY: walk(start)} for start in range(ITEMS)]
    known = [f"i{n}" for n in range(ITEMS)]
    for one, other in zip(before.predict(rows, top=5), after.predict(rows, top=5, among=known), strict=True):
        assert [item for item, _ in one.top] == [item for item, _ in other.top]
    new = after.predict(rows, top=ITEMS, among=[f"i{n}" for n in range(ITEMS, 2 * ITEMS)])
    ranks = [[item for item, _ in one.top].index(f"i{ITEMS + (n + 6) % ITEMS}") for n, one in enumerate(new)]
    assert np.mean(ranks) < 3  # of 20: 9.5 by chance
    assert after.predict({HISTORY: ["i1", f"i{ITEMS + 2}"]}).value is not None
    again = after.with_items(all_items)
    assert again is after


def test_only_described_items_can_be_added(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"was trained without task\.content"):
        fusebert.load(trained).with_items([{"item": "new"}])


def test_what_described_the_items_has_to_be_the_same(world: Path, tmp_path: Path) -> None:
    trunk = tmp_path / "bert"
    model_of(tmp_path / "first", {}).save_trunk(trunk)
    items = write(tmp_path / "items.jsonl", [{"item": f"i{n}", "title": f"it is {n}"} for n in range(ITEMS)])
    settings = {"task.catalogue": str(items), "task.content": str(trunk), "training.epochs": 1}
    model = train(recipe(world, **settings), tmp_path / "model")
    assert len(model.with_items([{"item": "new", "title": "it is red"}]).task.items) == ITEMS + 1
    shutil.rmtree(trunk)
    model_of(tmp_path / "second", {"training.seed": 1}).save_trunk(trunk)
    with pytest.raises(ModelError, match="is not the model that described the items"):
        fusebert.load(tmp_path / "model").with_items([{"item": "new", "title": "it is red"}])


def test_a_table_of_events_is_answered_user_by_user(
    trained: Path, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = fusebert.load(trained)
    texts = [(world / f"{part}.jsonl").read_text() for part in ("train", "val")]
    events = [json.loads(line) for text in texts for line in text.splitlines()]
    wanted = {row["user"]: row["item"] for row in map(json.loads, (world / "test.jsonl").read_text().splitlines())}
    table = write(tmp_path / "events.jsonl", events)
    assert main(["predict", str(trained), str(table), "--top", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [json.loads(line) for line in out.splitlines()]
    assert len({line["user"] for line in lines}) == len(lines) == 150
    assert np.mean([line["answer"] == wanted[line["user"]] for line in lines]) > 0.9
    assert [answer.value for answer in model.predict(events)] == [line["answer"] for line in lines]


def test_events_of_one_moment_do_not_know_of_each_other(tmp_path: Path) -> None:
    rows = [("a", 1), ("b", 2), ("c", 2), ("d", 2), ("e", 3)]
    table = write(tmp_path / "x.jsonl", [{"user": "u", "item": item, "time": time} for item, time in rows])
    timed, _ = read_events(read_table(table), Config(time="time"))
    asked = list(questions([], timed))
    assert [len(row.values[HISTORY]) for row in asked] == [0, 1, 1, 1, 4]
    again, _ = read_events(read_table(table), Config(time="time"))
    assert [len(row.values[HISTORY]) for row in questions(again, timed)] == [0, 1, 1, 1, 4], (
        "known events that are asked about, too"
    )
    untimed, once_more = (read_events(read_table(table), Config())[0] for _ in range(2))
    assert [len(row.values[HISTORY]) for row in questions([], untimed)] == [0, 1, 2, 3, 4]
    assert [len(row.values[HISTORY]) for row in questions(untimed, once_more)] == [5, 6, 7, 8, 9], "may be done twice"
    assert asked_again(again, timed) is None
    assert asked_again(untimed[:2], once_more) is None
    task = Task(Config(), ["a", "b"])
    with pytest.raises(UsageError, match=r"5 of the 5 events of .*x.jsonl are known events, too, and no times"):
        next(task.questions(read_table(table), [read_table(table)]))


def test_the_newest_items_weigh_most_in_recent_knn() -> None:
    found = _recent([np.array([3, 1, 2]), np.arange(1, 13)], 12).toarray()
    assert found[0, :3].tolist() == pytest.approx([0.8, 1.0, 0.64])
    assert (found[1] > 0).tolist() == [False] * 2 + [True] * 10


def test_users_keep_the_kind_of_their_names(trained: Path) -> None:
    rows = [{"user": 37, "item": f"i{n}", "time": n} for n in range(4)]
    ((row, _),) = fusebert.load(trained).answers(rows)
    assert isinstance(row, Sample)
    assert row.values["user"] == 37


def test_items_that_nothing_describes_have_vectors_of_their_own(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = [{"item": f"i{n}", "title": f"number{n}" if n % 2 else None} for n in range(ITEMS - 1)]
    items = write(tmp_path / "items.jsonl", [*catalogue, {"item": "new", "title": "number1"}])
    monkeypatch.setattr("fusebert.evaluation.catalogue.Encoder", Reader)
    settings = {"task.catalogue": str(items), "task.content": "any", "training.epochs": 1}
    model = train(recipe(world, **settings), tmp_path / "model")
    assert model.task.items[-1] == "new"
    assert model.task.own_vectors == ITEMS
    vectors = model.model.embedders["events"].item_vectors()[1:]
    assert (vectors.norm(dim=1) > 0).all()
    with pytest.raises(RowError, match="row 1: nothing describes this item"):
        model.with_items([{"item": "newer", "title": None}])
    bare = write(tmp_path / "bare.jsonl", [{"item": "i1"}])
    with pytest.raises(DataError, match=r"no row of .* says more than the name"):
        train(recipe(world, **settings | {"task.catalogue": str(bare)}), tmp_path / "bare")


def test_a_recommender_goes_on_with_other_items_as_it_starts(trained: Path, world: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (world / "train.jsonl").read_text().splitlines()]
    others = write(tmp_path / "others.jsonl", [row | {"item": f"other {row['item']}"} for row in rows])
    tables = {"data.train": str(others), "data.validation": 0.1, "data.test": None}
    settings = recipe(world, **tables, **{"model.trunk": str(trained), "training.epochs": 1})
    settings |= {"training.learning_rate": 1e-9}
    embedder: Any = train(settings, tmp_path / "model").model.embedders["events"]
    assert float(embedder.items.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(embedder.gaps.weight.detach().abs().max()) < 1e-6


def test_a_table_to_choose_among_may_name_an_item_twice(trained: Path, tmp_path: Path) -> None:
    stock = write(tmp_path / "stock.jsonl", [{"item": "i9"}, {"item": "i9"}])
    assert main(["predict", str(trained), "--history", '["i1"]', "--among", str(stock)]) == 0


def test_it_chooses_among_items(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = fusebert.load(trained)
    some = [f"i{n}" for n in range(0, ITEMS, 3)]
    answer = model.predict({HISTORY: walk(0)}, top=ITEMS, among=some)
    assert {item for item, _ in answer.top} == set(some)
    assert sum(share for _, share in answer.top) == pytest.approx(1)
    stock = write(tmp_path / "stock.jsonl", [{"item": "i9"}, {"item": "nobody knows it"}])
    table = write(tmp_path / "rows.jsonl", [{HISTORY: ["i1"]}, {HISTORY: ["i2"]}])
    assert main(["predict", str(trained), str(table), "--among", str(stock)]) == 0
    assert [json.loads(line)["answer"] for line in capsys.readouterr().out.splitlines()] == ["i9", "i9"]
    assert main(["predict", str(trained), "--history", '["i1"]', "--among", str(stock)]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "i9"
    with pytest.raises(UsageError, match="knows none of the items to choose among"):
        model.predict({HISTORY: ["i1"]}, among=["nobody knows it"])
    with pytest.raises(InputError, match="one value expected, found dict"):
        model.predict({HISTORY: ["i1"]}, among=[{"item": "i1"}])


def test_metrics_of_ranks() -> None:
    found = ranking_metrics(np.array([1.0, 3.0, 11.0, 50.0]), np.array([True, True, True, False]))
    assert set(found) == set(NAMES)
    assert found["ndcg_at_10"] == pytest.approx((1 + 0.5) / 4)
    assert found["recall_at_10"] == 0.5
    assert found["mrr"] == pytest.approx((1 + 1 / 3 + 1 / 11 + 1 / 50) / 4)
    assert found["new_item_share"] == 0.25
    assert found["new_item_recall_at_20"] == 0


def test_leaks_are_named(tmp_path: Path) -> None:
    def events(name: str, rows: list[tuple[str, str, int]]) -> Any:
        table = write(tmp_path / name, [dict(zip(("user", "item", "time"), row, strict=True)) for row in rows])
        return read_events(read_table(table), Config(time="time"))[0]

    old = events("a.jsonl", [("u", "x", 1), ("u", "y", 2), ("v", "x", 3)])
    new = events("b.jsonl", [("u", "z", 11), ("v", "z", 12)])
    assert leaks({"train": old, "validation": new}, repeats=False) == []
    assert "newer than half of the validation events" in leaks({"train": [*old, *new], "validation": old}, True)[1][1]
    place = f"{tmp_path / 'c.jsonl'}, row 1"
    said = leaks({"train": old, "validation": [*new, *events("c.jsonl", [("u", "x", 1)])]}, repeats=True)
    assert said == [(True, f"1 of 3 validation events are training events, too (the first is {place})")]
    parts = {"train": old, "validation": new, "test": [*new[:1], *events("e.jsonl", [("v", "z", 13)])]}
    (said,) = leaks(parts, repeats=True)
    assert said[1].startswith("1 of 2 test events are training or validation events, too")
    again = events("d.jsonl", [("u", "x", 20)])
    assert "100% of the validation events repeat" in leaks({"train": old, "validation": again}, repeats=False)[0][1]


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"task.user": "who"}, UsageError, "has no column 'who', only user, item, time; .* task.user=COLUMN"),
        ({"task.item": "what"}, UsageError, "has no column 'what'"),
        ({"task.content": "package:x"}, UsageError, "no task.catalogue"),
        ({"data.target": "item"}, UsageError, "data.target is set"),
        ({"model.fusion": "concat"}, UsageError, "reads events alone"),
        ({"image.size_pixels": 32}, UsageError, "settings of image are given"),
        ({"data.validation": 2.0}, RecipeError, "a share between 0 and 1"),
        ({"data.train": None}, UsageError, "data.train is not set"),
        ({"events.max_events": 1}, UsageError, "at least 2"),
    ],
)
def test_wrong_settings_are_said(
    change: dict[str, Any], error: type[Exception], said: str, world: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        train(recipe(world, **change), tmp_path / "model")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"user": None, "item": "a", "time": 1}, "column 'user': it has no user"),
        ({"user": "u", "item": "", "time": 1}, "it has no item"),
        ({"user": "u", "item": "a", "time": None}, "column 'time': it has no time"),
        ({"user": "u", "item": "a", "time": "soon"}, "'soon' is not a time"),
        ({"user": ["u"], "item": "a", "time": 1}, "one value expected, found list"),
        ({"user": "u", "item": "a", "time": 1717243200000}, "in milliseconds"),
    ],
)
def test_rows_that_cannot_be_read_are_named(row: dict[str, Any], said: str, world: Path, tmp_path: Path) -> None:
    good = [{"user": "u", "item": f"a{n}", "time": n} for n in range(5)]
    table = write(tmp_path / "events.jsonl", [*good, row])
    with pytest.raises(DataError, match=said) as found:
        train(recipe(world, **{"data.train": str(table)}), tmp_path / "model")
    assert "row 6" in str(found.value)
    assert "row 6" not in (tmp_path / "model" / "bad_rows.jsonl").read_text()
    assert json.loads((tmp_path / "model" / "bad_rows.jsonl").read_text())["row"] == 6


def test_a_catalogue_names_each_item_once(world: Path, tmp_path: Path) -> None:
    items = write(tmp_path / "items.jsonl", [{"item": "i1"}, {"item": "i1"}])
    with pytest.raises(DataError, match="row 2, column 'item': 'i1' stands in row 1, too"):
        train(recipe(world, **{"task.catalogue": str(items)}), tmp_path / "model")


def test_an_empty_catalogue_is_said(world: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("item,title\n")
    with pytest.raises(DataError, match=r"items\.csv has no rows"):
        train(recipe(world, **{"task.catalogue": str(items)}), tmp_path / "model")


def test_items_beyond_the_most_are_counted(world: Path, tmp_path: Path) -> None:
    class Notes(Silence):
        def note(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    items = write(tmp_path / "items.jsonl", [{"item": name} for name in ("i0", *(f"new {n}" for n in range(9)))])
    change = {"events.max_items": ITEMS + 2, "task.catalogue": str(items)}
    prepare_histories(Recipe.from_flat(recipe(world, **change)), tmp_path, Notes())
    assert f"Warning: 7 of {ITEMS + 9} items cannot be recommended, as events.max_items={ITEMS + 2}" in said


def test_events_that_are_skipped_are_counted_by_table(world: Path, tmp_path: Path) -> None:
    test = [json.loads(line) for line in (world / "test.jsonl").read_text().splitlines()]
    table = write(tmp_path / "test.jsonl", [*test, {"user": None, "item": "a", "time": 1}])
    change = {"data.test": str(table), "data.bad_rows": "skip"}
    splits = prepare_histories(Recipe.from_flat(recipe(world, **change)), tmp_path, Silence()).splits
    assert (splits["validation"].skipped, splits["test"].skipped) == (0, 1)


def test_groups_of_validation_rows_mean_nothing_here(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.validation_group is set"):
        train(recipe(world, **{"data.validation_group": "user"}), tmp_path / "model")


def test_what_is_ruled_out_is_no_answer() -> None:
    task = Task(Config(), ["a", "b", "c"])
    some, none = task.decode(np.array([[1.0, RULED_OUT, 2.0], [RULED_OUT] * 3]), top=3)
    assert [item for item, _ in some.top] == ["c", "a"]
    assert (none.value, none.probability, none.top) == (None, None, [])


def model_of(folder: Path, more: dict[str, Any]) -> Any:
    """One that tells two colours apart."""
    folder.mkdir()
    said = write(
        folder / "said.jsonl", [{"text": f"it is {'red' if n % 2 else 'blue'}", "y": n % 2} for n in range(40)]
    )
    settings = {"data.train": str(said), "data.target": "y", "model.trunk": "tiny", "training.epochs": 1}
    return train(settings | {"training.trackers": []} | more, folder / "model")


def test_a_bert_of_ours_describes_items(tmp_path: Path) -> None:
    """Its folder has a manifest, as those of matching models have."""
    trunk = tmp_path / "bert"
    model_of(tmp_path / "colours", {}).save_trunk(trunk)
    rows = [Sample(tmp_path / "items.jsonl", 1, {"item": "i1", "title": "red"}, None), None]
    found = describe(str(trunk), "item", rows).vectors
    assert found.shape == (2, 128)
    assert (found[1] == 0).all()


def test_a_task_does_not_say_where_its_catalogue_lies(tmp_path: Path) -> None:
    """But what `extend` needs: the model that described it."""
    config = Config(user="/user", catalogue=tmp_path / "items.jsonl", content=str(tmp_path / "bert"))
    Task(config, ["a"]).save(tmp_path)
    found = Task.load_from(tmp_path).config
    assert found == config.model_copy(update={"catalogue": Path("items.jsonl")})


def test_a_later_catalogue_is_read_as_that_of_training_was(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hearing(Reader):
        def encode(self, texts: list[str]) -> np.ndarray:
            heard[:] = texts
            return self.vectors[: len(texts)]

    heard: list[str] = []
    monkeypatch.setattr("fusebert.evaluation.catalogue.Encoder", Hearing)
    rows = [{"item": f"i{n}", "title": f"Shoe {n}", "price": n} for n in range(ITEMS)]
    settings = {"task.catalogue": str(write(tmp_path / "items.jsonl", rows)), "task.content": "any"}
    train(recipe(world, **settings, **{"training.epochs": 1}), tmp_path / "model")
    model = fusebert.load(tmp_path / "model")
    model.with_items([{"price": 3, "stock": 7, "item": "new", "title": "Shoe"}, {"item": "newer", "title": "Boot"}])
    assert heard == ["Shoe. 3", "Boot"]
    with pytest.raises(UsageError, match="has no column price, which described the items"):
        model.with_items([{"item": "new", "title": "Shoe"}])
    with pytest.raises(RowError, match="it has no title or price"):
        model.with_items([{"item": "new", "title": None, "price": None, "stock": 7}])


def test_other_items_are_other_data(world: Path, tmp_path: Path) -> None:
    hashes = []
    for names in (("i1", "n1", "n2"), ("i1", "n2", "n1")):
        catalogue = write(tmp_path / "items.jsonl", [{"item": name} for name in names])
        settings = recipe(world, **{"task.catalogue": str(catalogue)})
        hashes.append(prepare_histories(Recipe.from_flat(settings), tmp_path, Silence()).data_hash)
    assert hashes[0] != hashes[1]


def test_an_item_that_is_a_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"row 1.*one value expected, found list"):
        read_catalogue(read_table(write(tmp_path / "items.jsonl", [{"item": ["a"]}])), "item")


def test_a_model_card_counts_events(trained: Path) -> None:
    assert "| train | 1,500 |" in (trained / "README.md").read_text()


def test_scores_of_items_are_exact_where_the_trunk_computes_in_bf16(trained: Path) -> None:
    model = fusebert.load(trained)
    head: Any = model.model.head
    torch.manual_seed(0)
    hidden, no = torch.randn(8, 128), torch.zeros(0, dtype=torch.int64)
    layout = Layout(torch.arange(9, dtype=torch.int32), (1,) * 8)
    encoded = Encoded(hidden, hidden, layout, {"events": {"seen": no, "seen_by": no}})
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = head(encoded)
    with torch.inference_mode():
        torch.testing.assert_close(found, head(encoded))


def test_equal_scores_stand_in_any_order() -> None:
    scores = np.tile([2.0, 1.0, 1.0, 1.0, 0.0], (600, 1))
    ranks = _ranks(scores, np.full(600, 3), np.random.default_rng(0))
    assert np.bincount(ranks.astype(int), minlength=6)[2:5].min() > 150
    assert set(ranks) == {2, 3, 4}
    assert set(_ranks(scores, np.full(600, 1), np.random.default_rng(0))) == {1}


def test_what_cannot_be_an_answer_is_found_by_no_cut_off() -> None:
    scores, right = np.array([[3.0, 2.0, 1.0], [3.0, -np.inf, 1.0], [3.0, 2.0, 1.0]]), np.array([3, 2, 0])
    ranks = _ranks(scores, right, np.random.default_rng(0))
    assert ranks.tolist() == [3, NEVER, NEVER]
    found = ranking_metrics(ranks, np.array([True, True, False]))
    assert found["recall_at_20"] == pytest.approx(1 / 3)
    assert found["new_item_recall_at_20"] == 0


def test_a_catalogue_says_the_same_whatever_kind_of_table_it_is() -> None:
    assert _text(["Heat ", 1995.0, ["crime", None, math.nan], True, "n/a"]) == "Heat. 1995. crime. True"
    assert _text([" Heat", "1995", ["crime"], "True"]) == "Heat. 1995. crime. True"
