"""Plots of a training run and of an evaluation, as PNG files; each says one thing."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fusebert.corpus.sentences import HAN
from fusebert.evaluation.metric_names import direction, metric_name, metric_text, primary_metric
from fusebert.storage import write_atomically

INK, MUTED, FAINT = "#1f2328", "#5c6570", "#d5d9de"
BLUE, PALE_BLUE, ORANGE = "#2f6db5", "#9db8d9", "#c2571a"
WIDE, SQUARE = (6.4, 3.8), (6.4, 5.9)
MOST_CLASSES = 30
MOST_COUNTS_WRITTEN = 12
LONGEST_LABEL = 28
PLACEHOLDERS = "Last Resort"
"""A font with boxes for all characters."""
CHINESE_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "PingFang SC", "PingFang HK",
    "Hiragino Sans GB", "Heiti TC", "STHeiti", "Microsoft YaHei", "SimHei", "SimSun", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "Noto Sans CJK JP", "Arial Unicode MS",
)  # fmt: skip
"""The first of these is taken; where none is installed, any other that has Chinese."""


def draw_all(
    folder: Path,
    history: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any],
    ledger: Mapping[str, Mapping[str, float]] | None,
    higher_is_better: bool,
) -> list[Path]:
    """Draw the plots that there are data for into `folder`; their paths, in reading order."""
    drawn = []

    def place(name: str) -> Path:
        drawn.append(folder / f"{name}.png")
        return drawn[-1]

    if ledger:
        modality_bars(ledger, primary_metric(ledger["all"]), higher_is_better, place("modality_bars"))
    if history:
        loss_curves(history, place("loss_curves"))
    if evaluation.get("confusion"):
        confusion_matrix(evaluation, place("confusion_matrix"))
    if evaluation.get("calibration"):
        reliability_diagram(evaluation, place("reliability_diagram"))
    if evaluation.get("scatter"):
        prediction_scatter(evaluation, place("prediction_scatter"))
    return drawn


def loss_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Training and validation loss by epoch."""
    figure, axes = _canvas("Loss")
    epochs = [row["epoch"] for row in history]
    curves = {
        "training": (BLUE, [row.get("train_loss") for row in history]),
        "validation": (ORANGE, [row.get("validation", {}).get("loss") for row in history]),
    }
    ends = {}
    for name, (colour, losses) in curves.items():
        known = [(epoch, loss) for epoch, loss in zip(epochs, losses, strict=True) if loss is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, linewidth=2, marker="o", markersize=4)
            ends[name] = known[-1]
    axes.set_ylim(bottom=0)
    axes.set_xlim(min(epochs) - 0.3, max(epochs) + 0.3)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    highest = max(ends, key=lambda name: ends[name][1], default=None)
    for name, end in ends.items():  # the names part upwards and downwards, so they cannot lie on each other
        side = "bottom" if name == highest else "top"
        _beside(axes, name, end, curves[name][0], side)
    _save(figure, path)


def confusion_matrix(evaluation: Mapping[str, Any], path: Path) -> None:
    """Right labels against answers; of many classes, those with the most mistakes, then the most frequent."""
    given, counts = evaluation["confusion"]["labels"], np.array(evaluation["confusion"]["counts"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    title, shown = "Right label and answer", _most_confused(counts)
    if len(shown) < len(given):
        title += f": the {MOST_CLASSES} most confused of {len(given)} classes"
    labels, cut = [given[place] for place in shown], np.ix_(shown, shown)
    counts, shares = counts[cut], shares[cut]
    side = min(max(3.4, 0.62 * len(labels)), 8.5)
    figure, axes = _canvas(title, (side + 1.8, side + 1.4))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    places, numbers = range(len(labels)), numbered_labels(evaluation)
    names = [f"no. {place + 1}" if place in numbers else _readable(given[place]) for place in shown]
    size = 10 if len(labels) <= MOST_COUNTS_WRITTEN else 7.5
    turned = len(labels) > MOST_COUNTS_WRITTEN or max(map(len, names)) > 5
    axes.set_xticks(places, names, **_label_style(size), rotation=90 if turned else 0)
    axes.set_yticks(places, names, **_label_style(size))
    axes.set_xlabel("answer")
    axes.set_ylabel("right label")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if len(labels) <= MOST_COUNTS_WRITTEN:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.6 else INK if count else FAINT
            axes.text(column, row, f"{count:,}", horizontalalignment="center", verticalalignment="center", color=colour)
    _save(figure, path)


def _most_confused(counts: np.ndarray) -> list[int]:
    """Numbers of the classes that are shown, in their order."""
    rows, wrong = counts.sum(axis=1), counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    return sorted(np.lexsort((-rows, -wrong))[:MOST_CLASSES].tolist())


def numbered_labels(evaluation: Mapping[str, Any]) -> dict[int, str]:
    """Of the classes that `confusion_matrix` shows, by place, those that it numbers: Chinese that no font can draw."""
    if not evaluation.get("confusion"):
        return {}
    labels = evaluation["confusion"]["labels"]
    shown = _most_confused(np.array(evaluation["confusion"]["counts"]))
    return {
        place: str(labels[place])
        for place in shown
        if HAN.search(str(labels[place])) and not all(ord(c) in _drawable() for c in str(labels[place]))
    }


def reliability_diagram(evaluation: Mapping[str, Any], path: Path) -> None:
    """How often answers are right, by how sure the model was; on the diagonal it knows what it knows."""
    bins = evaluation["calibration"]
    sure, right = [row["confidence"] for row in bins], [row["accuracy"] for row in bins]
    rows = np.array([row["rows"] for row in bins])
    figure, axes = _canvas("How sure, and how often right", SQUARE)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.vlines(sure, sure, right, color=ORANGE, linewidth=1.5, alpha=0.6)
    axes.scatter(sure, right, 30 + 300 * rows / rows.max(), color=BLUE, edgecolor="white", linewidth=1, zorder=3)
    axes.set(xlim=(-0.03, 1.05), ylim=(-0.03, 1.05), aspect="equal")
    axes.set_xlabel("probability given")
    axes.set_ylabel("share of right answers")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    _note(axes, "larger points hold more rows", 0.97, 0.06, "right", "bottom")
    _note(axes, "above the line: right more often than it says", 0.03, 0.92, "left", "top")
    _save(figure, path)


def prediction_scatter(evaluation: Mapping[str, Any], path: Path) -> None:
    """Predictions against targets; on the diagonal they are right."""
    pairs = np.array(evaluation["scatter"], dtype=float)
    figure, axes = _canvas("Target and prediction", SQUARE)
    low, high = float(pairs.min()), float(pairs.max())
    room = 0.04 * (high - low) or 1.0
    limits = (low - room, high + room)
    axes.plot(limits, limits, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    alpha = max(0.2, min(0.8, 60 / len(pairs)))
    axes.scatter(pairs[:, 0], pairs[:, 1], 14, color=BLUE, alpha=alpha, linewidth=0, zorder=3)
    axes.set(xlim=limits, ylim=limits, aspect="equal", xlabel="target", ylabel="prediction")
    _save(figure, path)


def modality_bars(ledger: Mapping[str, Mapping[str, float]], metric: str, higher_is_better: bool, path: Path) -> None:
    """One metric with all modalities and with each one missing or shuffled."""
    scores = {name: metrics[metric] for name, metrics in ledger.items() if metrics.get(metric) is not None}
    name = metric_name(metric)
    figure, axes = _canvas(
        f"{name[0].upper()}{name[1:]} ({direction(higher_is_better)})", (6.4, 0.9 + 0.42 * len(scores))
    )
    places = range(len(scores))
    colours = [BLUE if seen == "all" else PALE_BLUE for seen in scores]
    axes.barh(places, list(scores.values()), height=0.62, color=colours)
    axes.set_yticks(places, [_readable(seen) for seen in scores], **_label_style(10))
    axes.invert_yaxis()
    axes.axvline(0, color=MUTED, linewidth=0.8)
    for place, score in zip(places, scores.values(), strict=True):
        _beside(axes, metric_text(score), (max(score, 0), place), INK, "center")
    axes.xaxis.set_visible(False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    _save(figure, path)


def _canvas(title: str, size: tuple[float, float] = WIDE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.add_subplot(facecolor="white")
    figure.suptitle(title, x=0.01, horizontalalignment="left", fontsize=12, fontweight="bold", color=INK)
    axes.tick_params(colors=INK, length=0, pad=6)
    axes.xaxis.label.set_color(MUTED)
    axes.yaxis.label.set_color(MUTED)
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.spines[:].set_visible(False)
    return figure, axes


def _beside(axes: Axes, words: str, point: tuple[float, float], colour: str, side: str) -> None:
    style: dict[str, Any] = {"color": colour, "verticalalignment": side, "annotation_clip": False}
    axes.annotate(words, point, (8, 0), textcoords="offset points", **style)


def _note(axes: Axes, words: str, x: float, y: float, across: str, along: str) -> None:
    style: dict[str, Any] = {"horizontalalignment": across, "verticalalignment": along}
    axes.text(x, y, words, transform=axes.transAxes, color=MUTED, fontsize=9, **style)


def _save(figure: Figure, path: Path) -> None:
    drawing = io.BytesIO()
    # without the version of matplotlib, so that equal data make equal files
    FigureCanvasAgg(figure).print_png(drawing, metadata={"Software": None})
    write_atomically(path, drawing.getvalue())


def _label_style(size: float) -> dict[str, Any]:
    return {"fontfamily": list(_fonts()), "fontsize": size, "parse_math": False}  # a label may hold dollar signs


def _readable(label: Any) -> str:
    """A user's label, shortened, with each character that no font can draw written as its code (红 as \\u7ea2)."""
    text = str(label).lower() if isinstance(label, bool) else str(label)
    if len(text) > LONGEST_LABEL:
        text = text[: LONGEST_LABEL - 1] + "…"
    drawable = _drawable()
    escaped = "".join(c if ord(c) in drawable else c.encode("unicode_escape").decode() for c in text)
    return escaped if len(escaped) <= LONGEST_LABEL else escaped[: LONGEST_LABEL - 1] + "…"


@cache
def _fonts() -> tuple[str, ...]:
    """The fonts for users' labels: matplotlib's own, then an installed one that has Chinese if there is any."""
    installed = {font.name: font.fname for font in font_manager.fontManager.ttflist}
    order = [*(name for name in CHINESE_FONTS if name in installed), *sorted(installed.keys() - {*CHINESE_FONTS})]
    chinese = (name for name in order if not name.startswith(PLACEHOLDERS) and _has_chinese(installed[name]))
    return ("DejaVu Sans", *islice(chinese, 1))


def _has_chinese(file: str) -> bool:
    with suppress(OSError, RuntimeError):  # a font that is damaged, or gone
        return bool(font_manager.get_font(file).get_char_index(ord("中")))
    return False


@cache
def _drawable() -> frozenset[int]:
    files = (font_manager.findfont(name) for name in _fonts())
    return frozenset(code for file in files for code in font_manager.get_font(file).get_charmap())
