"""Plots, the model card and the page: what is drawn and written, and that users' words stay words."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from fusebert.evaluation import plots
from fusebert.evaluation.metric_names import lower_is_better
from fusebert.evaluation.model_card import write_model_card
from fusebert.evaluation.page import write_page
from fusebert.evaluation.publish import SUBSETS

HOSTILE = '<script>alert(1)</script> | "red" & [x](javascript:alert(1)) `code`\n---\n# head'
METRICS = {"accuracy": 0.9, "f1_macro": 0.85, "expected_calibration_error": 0.02, "loss": 0.3}
LEDGER = {"all": METRICS, "without image": METRICS | {"accuracy": 0.4}, "image shuffled": METRICS | {"accuracy": 0.35}}
HISTORY = [
    {"epoch": epoch, "step": epoch, "train_loss": 1 / epoch, "seconds": 1.0, "validation": {"loss": 1.2 / epoch}}
    for epoch in (1, 2, 3)
]
CLASSIFIED = {
    "rows": 20,
    "metrics": METRICS,
    "confusion": {"labels": ["red", "$x^2", "红色"], "counts": [[9, 1, 0], [0, 5, 0], [0, 1, 4]]},
    "calibration": [{"confidence": 0.5, "accuracy": 0.4, "rows": 5}, {"confidence": 0.9, "accuracy": 1.0, "rows": 15}],
}
PREDICTED = {"rows": 3, "metrics": {"mae": 1.5, "r2": 0.9}, "scatter": [[1.0, 1.5], [2.0, 1.0], [9.0, 9.5]]}


@pytest.fixture
def fonts_anew() -> Any:
    plots._fonts.cache_clear()
    plots._drawable.cache_clear()
    yield
    plots._fonts.cache_clear()
    plots._drawable.cache_clear()


@pytest.mark.parametrize(
    ("history", "evaluation", "ledger", "expected"),
    [
        (HISTORY, CLASSIFIED, LEDGER, ["modality_bars", "loss_curves", "confusion_matrix", "reliability_diagram"]),
        (HISTORY[:1], PREDICTED, None, ["loss_curves", "prediction_scatter"]),
        ([], {"rows": 1, "metrics": METRICS, "confusion": None, "calibration": []}, None, []),
    ],
)
def test_draws_the_plots_there_are_data_for(
    tmp_path: Path, history: Any, evaluation: Any, ledger: Any, expected: list[str]
) -> None:
    drawn = plots.draw_all(tmp_path, history, evaluation, ledger, True)
    assert [path.stem for path in drawn] == expected
    assert sorted(tmp_path.iterdir()) == sorted(drawn)
    for path in drawn:
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("L").getcolors()) > 5


def test_equal_data_make_equal_files(tmp_path: Path) -> None:
    plots.confusion_matrix(CLASSIFIED, tmp_path / "a.png")
    plots.confusion_matrix(CLASSIFIED, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_of_many_classes_the_most_confused_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classes = 150
    counts = [[10 * (row == column) for column in range(classes)] for row in range(classes)]
    counts[140][7] = 5
    shown: list[str] = []
    monkeypatch.setattr(plots, "_readable", lambda label: shown.append(label) or label)
    evaluation = {"confusion": {"labels": [f"c{place}" for place in range(classes)], "counts": counts}}
    plots.confusion_matrix(evaluation, tmp_path / "many.png")
    assert len(shown) == plots.MOST_CLASSES
    assert {"c7", "c140"} <= set(shown)


@pytest.mark.usefixtures("fonts_anew")
def test_a_label_no_font_can_draw_is_written_as_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "CHINESE_FONTS", ())
    assert plots._readable("红 a") == "\\u7ea2 a"
    assert plots._readable("a\tb") == "a\\tb"
    assert plots._readable(True) == "true"
    assert len(plots._readable("x" * 99)) == len(plots._readable("红" * 99)) == plots.LONGEST_LABEL


@pytest.mark.usefixtures("fonts_anew")
def test_an_installed_chinese_font_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    charmaps = {"DejaVu Sans": {ord("a"): 1}, "SimHei": {ord("红"): 1}}
    names = ["A", "Last Resort", "SimSun", "SimHei", "B"]
    manager = SimpleNamespace(ttflist=[SimpleNamespace(name=name, fname=name) for name in names])
    fake = SimpleNamespace(
        fontManager=manager,
        findfont=lambda name: name,
        get_font=lambda name: SimpleNamespace(
            get_charmap=lambda: charmaps[name], get_char_index=lambda _: int(name not in ("A", "SimSun"))
        ),
    )
    monkeypatch.setattr(plots, "font_manager", fake)
    assert plots._fonts() == ("DejaVu Sans", "SimHei")
    assert plots._readable("红a") == "红a"
    monkeypatch.setattr(plots, "CHINESE_FONTS", ())
    plots._fonts.cache_clear()
    assert plots._fonts() == ("DejaVu Sans", "B")


@pytest.mark.usefixtures("fonts_anew")
def test_labels_that_no_font_draws_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_fonts", lambda: ("DejaVu Sans",))
    shown: list[str] = []
    monkeypatch.setattr(plots, "_readable", lambda label: shown.append(label) or label)
    evaluation = {"confusion": {"labels": ["ok", "酒店预订取消", "酒店预订修改"], "counts": [[3, 1, 0]] * 3}}
    plots.confusion_matrix(evaluation, tmp_path / "a.png")
    assert shown == ["ok"]
    assert plots.numbered_labels(evaluation) == {1: "酒店预订取消", 2: "酒店预订修改"}


def card(**changes: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "task": "classification",
        "target": "answer",
        "columns": {"question": "text", "image": "image"},
        "example": {"question": "which?", "image": "a.png"},
        "data": {"train": {"file": "train.csv", "rows": 1000}, "test": {"file": "test.csv", "rows": 20}},
        "recipe": {"model.trunk": "mini", "training.epochs": 3},
        "parameters": 11_200_333,
        "lower_is_better": ["loss"],
        "training": {
            "epochs": 3,
            "steps": 60,
            "tokens_per_batch": 1024,
            "learning_rate": 0.0005,
            "new_learning_rate": None,
            "seconds": 75.2,
            "tokens_per_second": 51234.5,
            "hardware": "2 cores",
        },
        "evaluations": {"test": CLASSIFIED},
        "ledger": LEDGER,
        "speed": {"1": {"p50_ms": 8.2, "p95_ms": 10.1}},
        "limits": ["Only toy pictures."],
        "subsets": SUBSETS,
        "version": "0.1.0",
    } | changes


def test_a_task_says_which_way_its_own_metric_is_better(tmp_path: Path) -> None:
    worth = {seen: {"word_errors": 0.25} for seen in ("all", "without image")}
    for higher, words in ((True, "higher is better"), (False, "lower is better")):
        write_page(tmp_path / "page.html", "t", {"rows": 4, "metrics": worth["all"]}, worth, [], [], higher)
        assert f"; {words}." in (tmp_path / "page.html").read_text(encoding="utf-8")
    lower = lower_is_better("word_errors", higher_is_better=False)
    assert lower == {"word_errors"} | lower_is_better("accuracy", higher_is_better=True)
    write_model_card(tmp_path / "README.md", card(ledger=worth, lower_is_better=lower))
    assert "word errors (lower is better)" in (tmp_path / "README.md").read_text()


def test_a_card_commands_no_terminal(tmp_path: Path) -> None:
    evil = "a\x1b]0;title\x07\u202eb"
    write_model_card(tmp_path / "README.md", card(name=evil, target=evil, example={evil: evil}, warnings=[evil]))
    text = (tmp_path / "README.md").read_text()
    assert not set("\x1b\x07\u202e") & set(text)
    assert text.count("a\\u001b]0;title\\u0007\\u202eb") >= 2  # on the line of JSON, which means the same


def test_the_card_tells_the_rate_of_new_parts(tmp_path: Path) -> None:
    for rate, words in (
        (None, "learning rate 0.0005, 1 min"),
        (0.0025, "learning rate 0.0005 (0.0025 of new parts), 1"),
    ):
        write_model_card(tmp_path / "README.md", card(training=card()["training"] | {"new_learning_rate": rate}))
        assert words in (tmp_path / "README.md").read_text()


def test_the_card_holds_metadata_and_every_section(tmp_path: Path) -> None:
    write_model_card(tmp_path / "README.md", card())
    found = ModelCard.load(tmp_path / "README.md")
    assert found.data.library_name == "fusebert"
    assert {(result.metric_type, result.metric_value) for result in found.data.eval_results} == set(METRICS.items())
    headings = [line[3:] for line in found.text.splitlines() if line.startswith("## ")]
    assert headings == [
        "What it does",
        "How to use it",
        "Data",
        "Training",
        "Results",
        "What each modality contributes",
        "Speed",
        "Calibration",
        "Limits",
    ]
    for words in (
        "11,200,333 parameters",
        "1 min 15 s",
        ".venv/bin/fusebert predict FOLDER data.jsonl",
        "fusebert is not on the package index: `make setup` in the folder of its source installs it",
        "-0.500",
        "| 1 | 8.2 | 10.1 |",
    ):
        assert words in found.text
    assert '"id"' not in found.text


def test_the_card_leaves_out_what_there_is_not(tmp_path: Path) -> None:
    bare = card(task="regression", evaluations={"test": {"rows": 1, "metrics": {"mae": 1.5, "r2": None}}}, ledger=None)
    write_model_card(tmp_path / "README.md", bare | {"speed": {}, "limits": []})
    found = ModelCard.load(tmp_path / "README.md")
    assert [result.metric_type for result in found.data.eval_results] == ["mae"]
    assert not any(head in found.text for head in ("## What each", "## Speed", "## Calibration", "## Limits"))
    assert "| R² | – |" in found.text


def test_the_card_says_of_a_model_what_holds_of_it(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "README.md").read_text(encoding="utf-8")
    assert SUBSETS in whole
    assert "A probability is calibrated on the validation rows" in whole
    assert "| train.jsonl |" in whole
    write_model_card(tmp_path / "README.md", card(task="matching", subsets=""))
    matching = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert SUBSETS not in matching
    assert "fusebert embed FOLDER data.jsonl --side left" in matching


def test_card_and_page_say_what_answers_are_made_by(tmp_path: Path, page: Callable[..., Outline]) -> None:
    decision = {"rule": "'yes' is the answer where its probability is above 0.31", "chosen_for": "f1_macro"}
    test = CLASSIFIED | {"decision": decision | {"otherwise": {"f1_macro": 0.7}}}
    write_model_card(tmp_path / "README.md", card(evaluations={"validation": CLASSIFIED, "test": test}))
    text = (tmp_path / "README.md").read_text()
    for said in (text, " ".join(page("x", test, None, [], []).words)):
        assert "above 0.31 (chosen on validation rows for F1, macro)" in said
        assert "0.850, and would be 0.700 with the likeliest answers" in said


def test_the_card_tells_small_and_large_numbers(tmp_path: Path) -> None:
    scores = {"mae": 2.4e-8, "r2": 0.9}
    ledger = {"all": scores, "image shuffled": scores | {"mae": 1.24e-5}}
    write_model_card(
        tmp_path / "README.md",
        card(task="regression", evaluations={"test": {"rows": 9, "metrics": scores}}, ledger=ledger),
    )
    found = ModelCard.load(tmp_path / "README.md")
    assert found.data.eval_results[0].metric_value == 2.4e-8
    assert "+1.2e-05" in found.text


def test_a_name_that_is_not_utf8_is_written_as_codes(tmp_path: Path, page: Callable[..., Outline]) -> None:
    write_model_card(tmp_path / "README.md", card(name="m\udce9", data={"train": {"file": "t\udce9.csv", "rows": 9}}))
    assert "m\\udce9" in (tmp_path / "README.md").read_text().replace("\\\\", "\\")
    assert "m\\udce9" in " ".join(page("m\udce9", CLASSIFIED, None, [], []).words)


def test_the_page_shows_pictures_of_16_bits_as_the_model_sees_them(
    tmp_path: Path, page: Callable[..., Outline]
) -> None:
    Image.fromarray(np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)).save(tmp_path / "deep.png")
    (image,) = page("toy", CLASSIFIED, None, [example(image=tmp_path / "deep.png")], []).all("img")
    with Image.open(io.BytesIO(base64.b64decode(str(image["src"]).split(",")[1]))) as shown:
        values = np.asarray(shown.convert("L"))
    assert values.std() > 60
    assert (values.min(), values.max()) == (0, 255)


def test_the_card_escapes_the_words_of_users(tmp_path: Path) -> None:
    hostile = card(
        name=HOSTILE,
        target=HOSTILE,
        columns={HOSTILE: "text"},
        example={HOSTILE: HOSTILE},
        recipe={"task.note": "```\n---\n# head"},
        limits=[HOSTILE, "1. first", "- dash"],
        data={"test": {"file": HOSTILE, "rows": 1}},
        ledger={"all": METRICS, HOSTILE: METRICS},
    )
    write_model_card(tmp_path / "README.md", hostile)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(header)["model-index"][0]["name"] == " ".join(HOSTILE.split())
    prose, fenced = [], ""
    for line in body.splitlines():
        if line.startswith("```") and (not fenced or line == fenced):
            fenced = "" if fenced else line.rstrip("abcdefghijklmnopqrstuvwxyz")
        elif not fenced:
            prose.append(line)
    assert not fenced
    assert not any(line.startswith("# head") for line in prose)
    assert not any("<script" in line.replace("\\<", "") for line in prose)
    assert not any("[x]" in line for line in prose)
    assert "- 1\\. first" in prose
    assert "- \\- dash" in prose
    tables = [line for line in prose if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables if "script" in line} == {4, 5}


class Outline(HTMLParser):
    """The tags and the words of a page; fails where tags do not nest."""

    EMPTY = ("meta", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path: Path) -> Callable[..., Outline]:
    def write(title: str, evaluation: Any, ledger: Any, examples: Any, pictures: list[Path]) -> Outline:
        write_page(tmp_path / "page.html", title, evaluation, ledger, examples, pictures, higher_is_better=True)
        return Outline((tmp_path / "page.html").read_text(encoding="utf-8"))

    return write


def example(**changes: Any) -> dict[str, Any]:
    row = {"image": None, "fields": {"question": "?"}, "target": "red", "answer": "red", "right": True}
    return row | {"probability": 0.8} | changes


def test_the_page_shows_scores_ledger_plots_and_rows(tmp_path: Path, page: Callable[..., Outline]) -> None:
    drawn = plots.draw_all(tmp_path / "plots", HISTORY, CLASSIFIED, LEDGER, True)
    Image.new("RGBA", (64, 64), (255, 0, 0, 128)).save(tmp_path / "small.png")
    Image.new("CMYK", (2000, 1000)).save(tmp_path / "large.jpg")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    examples = [
        example(image=tmp_path / "small.png"),
        example(image=tmp_path / "large.jpg", answer="blue", right=False),
        example(image=tmp_path / "broken.png", target=None),
        example(target=["a", "b"], answer=["b", "a"]),
    ]
    found = page("toy 红", CLASSIFIED, LEDGER, examples, drawn)
    words = " ".join(found.words)
    for expected in ("toy 红", "0.900", "without image", "Right", "Wrong", "80% sure", "The picture cannot be read."):
        assert expected in words
    assert [word for word in found.words if word in ("Right", "Wrong")] == ["Right", "Wrong", "Right"]
    assert len(found.all("img")) == 3 + 2  # the bars of the ledger stand in its table
    assert len(found.all("h1")) == 1
    assert found.all("html")[0]["lang"] == "en"
    assert all(image["alt"] and str(image["src"]).startswith("data:image/") for image in found.all("img"))
    assert all(head.get("scope") for head in found.all("th"))


def test_the_page_needs_nothing_but_itself(page: Callable[..., Outline]) -> None:
    ledger = {"all": METRICS, HOSTILE: METRICS}
    hostile = example(fields={HOSTILE: HOSTILE}, target=HOSTILE, answer=HOSTILE)
    found = page(HOSTILE, CLASSIFIED, ledger, [hostile], [])
    assert not found.all("script") + found.all("link") + found.all("a")
    assert HOSTILE in found.words
    assert not any("src" in attributes or "href" in attributes for _, attributes in found.tags)


def test_a_number_is_off_rather_than_wrong(page: Callable[..., Outline]) -> None:
    found = page("prices", PREDICTED, None, [example(target="21.5", answer=22.75, right=None, probability=None)], [])
    assert "off by 1.250" in found.words
    assert not {"Right", "Wrong"} & set(found.words)


def test_reports_need_no_torch() -> None:
    code = (
        "import sys, fusebert.evaluation.page, fusebert.evaluation.model_card;"
        "sys.exit(bool({'torch', 'transformers', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ, PYTHONPATH="src"), timeout=60)
