"""One HTML file that shows what a model can do: scores, what each modality gives, plots, and rows with its answers."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from fusebert.errors import InputError
from fusebert.evaluation.metric_names import decision_in_words, direction, metric_name, metric_text, primary_metric
from fusebert.modalities.image.processor import eight_bits, open_picture
from fusebert.storage import write_atomically

PICTURE_PIXELS = 480
CAPTIONS = {
    "modality_bars": "Bar chart: the main score with all modalities, and with each one hidden or shuffled.",
    "loss_curves": "Line chart: training and validation loss by epoch.",
    "confusion_matrix": "Matrix: how often each right label got each answer.",
    "reliability_diagram": "Scatter plot: the probability the model gave against how often it was right.",
    "prediction_scatter": "Scatter plot: predictions against targets.",
}
SEEN = "The same rows, with modalities hidden, or one swapped between rows"
ASKED = "The same questions, answered from the same training events"
STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #fff; --ink: #1f2328; --muted: #59636e; --line: #e2e4e8;
  --bar: #9db8d9; --main: #2f6db5; --right: #116329; --right-bg: #dff5e4; --wrong: #a40e26; --wrong-bg: #fde8e7; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1c1f24; --ink: #e6e8eb; --muted: #a0a8b2;
  --line: #31363d; --bar: #41597a; --main: #6ea8ea; --right: #85e0a0; --right-bg: #16301f; --wrong: #ffaaa2;
  --wrong-bg: #3a1a1b; } .plot img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 3rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; letter-spacing: -0.02em; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 1rem; font-size: 1.2rem; }
p.about, figcaption, dt, caption { color: var(--muted); }
p.about { margin: 0.4rem 0 2rem; }
dl.scores { display: flex; flex-wrap: wrap; gap: 1rem 2.75rem; margin: 0; align-items: end; }
dl.scores div { display: flex; flex-direction: column-reverse; }
dl.scores dt { font-size: 0.875rem; }
dl.scores dd { margin: 0; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
dl.scores div:first-child dd { font-size: 3rem; font-weight: 650; line-height: 1; color: var(--main); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding-bottom: 0.5rem; }
th, td { padding: 0.45rem 1.25rem 0.45rem 0; text-align: left; border-top: 1px solid var(--line); font-weight: normal; }
thead :is(th, td) { border: 0; color: var(--muted); font-size: 0.875rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 55%; padding-right: 0; }
td.bar span { display: block; height: 1rem; border-radius: 2px; background: var(--bar); }
tr:first-child .bar span { background: var(--main); }
.plots { columns: 26rem; column-gap: 1.25rem; }
.plots .plot { break-inside: avoid; margin-bottom: 1.25rem; }
.plot, .row { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  overflow: hidden; }
.plot img { display: block; width: 100%; height: auto; padding: 0.75rem; }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)); gap: 1.25rem;
  padding: 0; margin: 0; list-style: none; }
.row { display: flex; flex-direction: column; }
.row img { display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: contain; background: var(--page); }
.row dl { margin: 0; padding: 0.9rem 1rem 1rem; overflow-wrap: anywhere; }
.row dt { font-size: 0.8rem; }
.row dd { margin: 0 0 0.5rem; }
.row dd:last-child { margin: 0; font-weight: 600; }
.row .verdict { margin: auto 0 0; padding: 0.45rem 1rem; font-weight: 600; font-size: 0.875rem; }
.warning { color: var(--wrong); margin: 0.5rem 0 0; }
.right { color: var(--right); background: var(--right-bg); }
.wrong { color: var(--wrong); background: var(--wrong-bg); }
"""


def write_page(
    path: Path,
    title: str,
    evaluation: Mapping[str, Any],
    ledger: Mapping[str, Mapping[str, float]] | None,
    examples: Sequence[Mapping[str, Any]],
    pictures: Sequence[Path],
    higher_is_better: bool,
    warnings: Sequence[str] = (),
) -> None:
    """Write a page that needs nothing but itself: no scripts, no network, pictures inside."""
    parts = [_scores(evaluation["metrics"])]
    if decision := decision_in_words(evaluation, "these rows"):
        parts.append(f'<p class="about">How it answers: {escape(decision)}.</p>')
    if ledger:
        parts.append(_bars("What each modality contributes", "The model sees", SEEN, ledger, higher_is_better))
    if baselines := evaluation.get("baselines"):
        ranked = {"this model": evaluation["metrics"], **baselines}
        parts.append(_bars("Beside simple ways", "Who ranks", ASKED, ranked, higher_is_better))
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in warnings]
    plots = [path for path in pictures if not (ledger and path.stem == "modality_bars")]  # the table shows its bars
    if plots:
        parts.append('<h2>Plots</h2>\n<div class="plots">' + "".join(map(_plot, plots)) + "</div>")
    if examples:
        rows = "".join(_example(example, number) for number, example in enumerate(examples, 1))
        parts.append(f'<h2>Rows and answers</h2>\n<ul class="rows">{rows}</ul>')
    body = "\n".join(parts)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1 dir="auto">{escape(title)}</h1>
<p class="about">Scored on {evaluation["rows"]:,} rows.</p>
{body}
</main>
</body>
</html>
"""
    write_atomically(path, page.encode(errors="backslashreplace"))  # a file's name need not be UTF-8


def _scores(metrics: Mapping[str, float]) -> str:
    first = primary_metric(metrics)
    order = [first, *(name for name in metrics if name != first)]
    cells = (f"<div><dt>{escape(metric_name(name))}</dt><dd>{metric_text(metrics[name])}</dd></div>" for name in order)
    return f'<dl class="scores">{"".join(cells)}</dl>'


def _bars(
    heading: str, what: str, caption: str, found: Mapping[str, Mapping[str, float]], higher_is_better: bool
) -> str:
    """A table of the primary metric, the first row's by which the others are measured."""
    metric = primary_metric(next(iter(found.values())))
    scores = {name: metrics[metric] for name, metrics in found.items() if metrics.get(metric) is not None}
    longest = max(map(abs, scores.values()), default=0) or 1
    rows = "".join(
        f'<tr><th scope="row" dir="auto">{escape(name)}</th><td class="number">{metric_text(score)}</td>'
        f'<td class="bar" aria-hidden="true"><span style="width: {max(score, 0) / longest:.1%}"></span></td></tr>'
        for name, score in scores.items()
    )
    head = escape(metric_name(metric))
    return (
        f'<h2>{escape(heading)}</h2>\n<div class="wide"><table><caption>{escape(caption)}; '
        f"{direction(higher_is_better)}.</caption>"
        f'<thead><tr><th scope="col">{escape(what)}</th><th scope="col" class="number">{head}</th>'
        f'<td aria-hidden="true"></td></tr></thead><tbody>{rows}</tbody></table></div>'
    )


def _plot(path: Path) -> str:
    alt = CAPTIONS.get(path.stem, path.stem.replace("_", " "))
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<figure class="plot"><img alt="{escape(alt)}" src="data:image/png;base64,{data}"></figure>'


def _example(example: Mapping[str, Any], number: int) -> str:
    target, answer = example.get("target"), example["answer"]
    facts = [*example["fields"].items()]
    facts += [("right answer", target)] if target is not None else []
    sure = example.get("probability")
    facts.append(("answer of the model", _words(answer) + (f" ({sure:.0%} sure)" if sure is not None else "")))
    details = "".join(
        f'<dt>{escape(str(name))}</dt><dd dir="auto">{escape(_words(value))}</dd>' for name, value in facts
    )
    picture = ""
    if example.get("image") is not None:
        data = _picture(Path(example["image"]))
        picture = f'<img alt="Picture of row {number}" src="{data}">' if data else "<p>The picture cannot be read.</p>"
    return f'<li class="row">{picture}<dl>{details}</dl>{_verdict(example)}</li>'


def _verdict(example: Mapping[str, Any]) -> str:
    target, answer, right = example.get("target"), example["answer"], example.get("right")
    if target is None or (right is None and not isinstance(answer, int | float)):
        return ""
    if right is None:
        return f'<p class="verdict">off by {metric_text(abs(answer - float(target)))}</p>'
    return f'<p class="verdict {"right" if right else "wrong"}">{"Right" if right else "Wrong"}</p>'


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return metric_text(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _picture(path: Path) -> str | None:
    """A small copy as a data URI; None when the file is no picture."""
    copy = io.BytesIO()
    try:
        with warnings.catch_warnings(action="ignore"), open_picture(path.read_bytes()) as opened:
            opened.draft("RGB", (PICTURE_PIXELS, PICTURE_PIXELS))
            small = eight_bits(ImageOps.exif_transpose(opened))
            tiny = max(small.size) <= 128
            small.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
            if tiny:
                small.convert("RGBA").save(copy, "PNG", optimize=True)
            else:
                flat = Image.new("RGB", small.size, "white")
                flat.paste(small.convert("RGBA"), mask=small.convert("RGBA").getchannel("A"))
                flat.save(copy, "JPEG", quality=85)
    except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    kind = "png" if tiny else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(copy.getvalue()).decode()}"
