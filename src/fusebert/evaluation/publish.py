"""A trained model -> its sealed folder: weights, processors, scores, plots, page and model card."""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fusebert import __version__
from fusebert.config import RECIPE, without_places
from fusebert.data.dataset import Dataset
from fusebert.data.split import group_of
from fusebert.errors import RowError
from fusebert.evaluation import plots
from fusebert.evaluation.inference import infer_all
from fusebert.evaluation.ledger import beaten, guessing, ledger, variants, warnings
from fusebert.evaluation.metric_names import lower_is_better, untold
from fusebert.evaluation.model_card import example_row, write_model_card
from fusebert.evaluation.page import write_page
from fusebert.evaluation.predictor import Predictor
from fusebert.evaluation.scoring import changed_outputs
from fusebert.modalities.files import files_in, files_of, media_of
from fusebert.modalities.values import content_key
from fusebert.recipe_yaml import as_yaml
from fusebert.storage import METRICS, finish, write_atomically, write_json
from fusebert.types import Sample

TIMED_ROWS, TIMED_SECONDS = 60, 4
MEDIA = ("image", "audio")
"""Modalities of files: rows that name the same one are about one thing."""
EXAMPLES = 12
SHOWN_EVENTS, SHOWN_CHARACTERS = 20, 500
"""The newest events and the first characters of an example's values."""
LIMIT = "The scores hold for rows like those it was tested on, and for no others."
SUBSETS = "A row may lack some of its modalities."


def publish(
    predictor: Predictor,
    splits: Mapping[str, Dataset],
    files: Mapping[str, str],
    recipe: Mapping[str, Any],
    training: Mapping[str, Any],
    warned: Sequence[str] = (),
) -> dict[str, Any]:
    """Score the model and write its folder; the manifest comes last, so a folder that has one is whole.

    Args:
        splits: `train`, `validation` and perhaps `test`; the last two are scored.
        files: the table behind each split.
        recipe: its dotted settings.
        training: `history` and totals of the run, as JSON values.
        warned: what is known to be wrong with the data.

    Returns:
        What metrics.json holds.
    """
    folder = predictor.folder
    predictor.write()
    outputs = {
        name: infer_all(predictor.model, iter(splits[name]), predictor.collator, predictor.precision)
        for name in ("validation", "test")
        if name in splits
    }
    evaluations = {
        name: {"rows": len(targets), **predictor.task.evaluate(logits, targets)}
        for name, (logits, targets) in outputs.items()
    }
    if hasattr(predictor.task, "baselines"):
        asked = {name: splits[name].samples for name in evaluations}
        simple = predictor.task.baselines(splits["train"].samples, asked, predictor.processors["events"])
        for name, evaluation in evaluations.items():
            evaluation["baselines"] = simple[name]
    speed = measure_speed(predictor, splits["validation"].samples)
    shown = "test" if "test" in evaluations else "validation"
    worth = None
    said = [*warned]
    for name, evaluation in evaluations.items():
        said += untold(evaluation["metrics"], predictor.task.primary_metric, name)
        if skipped := splits[name].skipped:
            evaluation["bad_rows"] = skipped
            said.append(f"rows of {name} that cannot be used, and so are not scored: {skipped}")
        if values := getattr(splits[name], "lost_values", 0):
            evaluation["lost_values"] = values
            said.append(f"inputs of {name} that cannot be read, and so are left out of their rows: {values}")
    if len(predictor.processors) > 1:
        things = _things(splits[shown].samples, predictor.columns, recipe.get("data.validation_group"))
        changed = (
            (label, changed_outputs(predictor, splits[shown], **change))
            for label, change in variants(list(predictor.processors))
        )
        worth = ledger(predictor.task, *outputs[shown], changed, things)
        said += warnings(worth, predictor.task.higher_is_better)
    said += guessing(evaluations[shown])
    if "baselines" in evaluations[shown]:
        said += beaten(evaluations[shown], predictor.task.primary_metric)
    if numbered := plots.numbered_labels(evaluations[shown]):
        legend = ", ".join(f"{place + 1} {label!r:.40}" for place, label in numbered.items())
        said.append(
            f"no installed font draws some labels (Debian's fonts-noto-cjk does), so they are numbers: {legend}"
        )
    metrics = {
        "evaluations": evaluations,
        "ledger": worth,
        "warnings": said,
        "parameters": sum(weight.numel() for weight in predictor.model.parameters()),
        "training": dict(training),
        "speed": speed,
    }
    write_json(folder / METRICS, metrics)
    higher = predictor.task.higher_is_better
    pictures = plots.draw_all(folder / "plots", training["history"], evaluations[shown], worth, higher)
    examples = _examples(predictor, splits[shown].samples[:EXAMPLES])
    write_page(
        folder / "report.html",
        f"{predictor.target}: {shown} results",
        evaluations[shown],
        worth,
        examples,
        pictures,
        higher,
        said,
    )
    write_model_card(folder / "README.md", _card(predictor, splits, files, recipe, metrics))
    write_atomically(folder / RECIPE, as_yaml(without_places(recipe)).encode())
    finish(folder)
    return metrics


def _things(samples: Sequence[Sample], columns: Mapping[str, str], group: str | None) -> list[Any]:
    """What each row is about: the group that validation keeps together, where it has one, else its files, else nothing
    but itself."""
    media = [column for column, name in columns.items() if name in MEDIA]

    def files(sample: Sample) -> tuple[str, ...]:
        given = (file for column in media for file in files_of(sample.values.get(column)))
        return tuple(filter(None, map(content_key, given)))

    return [
        (group_of(sample, group) if group else None) or files(sample) or number for number, sample in enumerate(samples)
    ]


def measure_speed(predictor: Predictor, samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Milliseconds from raw row to answer, one row at a time, by number of threads: p50 and p95."""
    before, found = torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            began, took = time.perf_counter(), []
            for row in samples[: TIMED_ROWS + 1]:
                took.append(_milliseconds(_fresh(predictor), row))
                if time.perf_counter() - began > TIMED_SECONDS:
                    break
            took = took[1:] or took  # the first warms up
            found[str(threads)] = {
                "p50_ms": round(statistics.median(took), 3),
                "p95_ms": round(sorted(took)[int(0.95 * (len(took) - 1))], 3),
            }
    finally:
        torch.set_num_threads(before)
    return found


def _fresh(predictor: Predictor) -> Predictor:
    """The same with processors that remember no file, so that reading and decoding count."""
    processors = {name: copy.copy(processor) for name, processor in predictor.processors.items()}
    return Predictor(
        predictor.folder, predictor.model, processors, predictor.task, predictor.target, predictor.precision
    )


def _milliseconds(predictor: Predictor, row: Sample) -> float:
    started = time.perf_counter()
    next(predictor.answers(iter([row])))
    return (time.perf_counter() - started) * 1000


def _examples(predictor: Predictor, samples: Sequence[Sample]) -> list[dict[str, Any]]:
    found = []
    for sample, (_, answer) in zip(samples, predictor.answers(iter(samples)), strict=True):
        if isinstance(answer, RowError):  # its file has gone since it was checked
            continue
        values = sample.values
        pictures = [c for c, name in predictor.columns.items() if name == "image"]
        picture = next((file for _, file in files_in(values, pictures)), None)
        fields = {c: _shown(values.get(c)) for c, name in predictor.columns.items() if name != "image"}
        found.append(
            {
                "image": sample.root / picture if isinstance(picture, str) and sample.root else None,
                "fields": fields,
                "target": values.get(predictor.target),
                "right": predictor.task.is_right(values.get(predictor.target), answer.value),
                "answer": answer.value,
                "probability": answer.probability,
            }
        )
    return found


def _shown(value: Any) -> str:
    """A value in words; a file that stands in the table itself is no words."""
    if value is None:
        return ""
    if isinstance(value, bytes | Mapping):
        return "a file in the table"
    if isinstance(value, list) and any(isinstance(media_of(one), bytes) for one in value):
        return f"{len(value)} files in the table"
    text = str(value[-SHOWN_EVENTS:] if isinstance(value, list) else value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _rows(split: Dataset) -> int:
    """Of the table: a recommender is trained on histories, each of many events."""
    return split.events if hasattr(split, "events") else len(split)


def _card(
    predictor: Predictor,
    splits: Mapping[str, Dataset],
    files: Mapping[str, str],
    recipe: Mapping[str, Any],
    metrics: dict[str, Any],
) -> dict[str, Any]:
    training = {key: value for key, value in metrics["training"].items() if key != "history"}
    training["tokens_per_second"] = round(training["tokens"] / max(training["seconds"], 1e-9))
    processor = platform.processor() or platform.machine()
    training["hardware"] = f"{predictor.model.device.type}, {processor}, {torch.get_num_threads()} threads"
    return {
        "name": predictor.folder.name,
        "task": predictor.task.name,
        "target": predictor.target,
        "columns": predictor.columns,
        "example": example_row(predictor.columns, splits["validation"].samples[:EXAMPLES]),
        "data": {name: {"file": files[name], "rows": _rows(splits[name])} for name in splits},
        "recipe": without_places(recipe),
        "parameters": metrics["parameters"],
        "lower_is_better": lower_is_better(predictor.task.primary_metric, predictor.task.higher_is_better),
        "training": training,
        "evaluations": metrics["evaluations"],
        "ledger": metrics["ledger"],
        "warnings": metrics["warnings"],
        "speed": metrics["speed"],
        "limits": [LIMIT, *getattr(predictor.task, "limits", ())],
        "subsets": SUBSETS if len(predictor.processors) > 1 and not hasattr(predictor.task, "sides") else "",
        "version": __version__,
    }
