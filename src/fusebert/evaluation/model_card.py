"""The README.md of a model folder: what the model does, how it was made, how good it is and where it ends."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from fusebert.data.decimals import as_plain
from fusebert.evaluation.metric_names import (
    STANDARD_ERROR,
    decision_in_words,
    metric_name,
    metric_text,
    primary_metric,
)
from fusebert.modalities.events.history import Event, read_history
from fusebert.modalities.values import is_missing
from fusebert.recipe_yaml import as_yaml
from fusebert.stderr import visible
from fusebert.storage import write_atomically
from fusebert.types import TEXT, Sample

PIPELINES = {
    ("classification", frozenset({"text"})): "text-classification",
    ("classification", frozenset({"image"})): "image-classification",
    ("classification", frozenset({"text", "image"})): "visual-question-answering",
}
LEFT_OUT_OF_LEDGER = {"loss", "expected_calibration_error"}
EXAMPLE_FILES = {"image": "picture.jpg", "audio": "sound.wav"}
EXAMPLE_EVENTS, EXAMPLE_CHARACTERS = 3, 100
"""The newest events and the first characters of an example's values."""


def write_model_card(path: Path, card: dict[str, Any]) -> None:
    """Write the model card, with metadata that the Hugging Face Hub reads."""
    sections = {
        "What it does": _purpose(card),
        "How to use it": _usage(card),
        "Data": _table(
            ["split", "rows", "file"],
            [[split, f"{data['rows']:,}", data["file"]] for split, data in card["data"].items()],
        ),
        "Training": _training(card),
        "Results": _results(card),
        "Warnings": "\n".join(f"- **{_escaped(warning)}**" for warning in card.get("warnings", ())),
        "Beside simple ways": _baselines(card),
        "What each modality contributes": _contributions(card) if card.get("ledger") else "",
        "Speed": _speed(card["speed"]) if card.get("speed") else "",
        "Calibration": _calibration(card["evaluations"]),
        "Decisions": _decisions(card["evaluations"]),
        "Limits": "\n".join(f"- {_escaped(limit)}" for limit in card["limits"]),
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items() if text)
    text = f"---\n{_metadata(card).to_yaml()}\n---\n\n# {_escaped(card['name'])}\n\n{body}\n"
    text = text.encode(errors="backslashreplace").decode()  # a file's name need not be UTF-8
    write_atomically(path, visible(str(ModelCard(text))).encode())


def example_row(columns: Mapping[str, str], samples: Sequence[Sample]) -> dict[str, Any]:
    """Of some rows the fullest, in JSON values that a model reads.

    Args:
        columns: the modality of each input.
    """
    rows = [
        {column: value for column in columns if not is_missing(value := sample.values.get(column))}
        for sample in samples
    ]
    return {column: _example_value(value, columns[column]) for column, value in max(rows, key=len).items()}


def _example_value(value: Any, modality: str) -> Any:
    if modality in EXAMPLE_FILES:
        return value if isinstance(value, str) and not Path(value).is_absolute() else EXAMPLE_FILES[modality]
    if modality == "events":
        return [_example_event(event) for event in read_history(value)[-EXAMPLE_EVENTS:]]
    if modality != TEXT:
        value = as_plain(value)
    if isinstance(value, bool | int | float) or (isinstance(value, list) and modality != TEXT):
        return value
    text = "\n".join(map(str, value)) if isinstance(value, list) else str(value)
    fits = modality != TEXT or len(text) <= EXAMPLE_CHARACTERS
    return text if fits else f"{text[:EXAMPLE_CHARACTERS]}..."


def _example_event(event: Event) -> dict[str, Any]:
    found = {"item": event.item, "type": event.type, "time": event.seconds, "value": event.value}
    found |= {"text": event.text and event.text[:EXAMPLE_CHARACTERS]}
    return {name: value for name, value in found.items() if value is not None}


def _metadata(card: Mapping[str, Any]) -> ModelCardData:
    modalities = _modalities(card)
    pipeline = PIPELINES.get((card["task"], modalities))
    results = [
        EvalResult(
            task_type=pipeline or card["task"],
            dataset_type="local",
            dataset_name=_one_line(card["data"].get(split, {}).get("file", split)),
            dataset_split=split,
            metric_type=metric,
            metric_name=metric_name(metric),
            metric_value=float(f"{value:.6g}"),
        )
        for split, evaluation in card["evaluations"].items()
        for metric, value in evaluation["metrics"].items()
        if value is not None and math.isfinite(value)
    ]
    return ModelCardData(
        library_name="fusebert",
        pipeline_tag=pipeline,
        tags=["fusebert", "bert", card["task"], *sorted(modalities)],
        model_name=_one_line(card["name"]),
        eval_results=results or None,
    )


def _purpose(card: Mapping[str, Any]) -> str:
    seen = " and ".join(f"**{_escaped(name)}** ({modality})" for name, modality in card["columns"].items())
    return (
        f"It reads {seen} and answers with **{_escaped(card['target'])}** ({card['task']}). "
        f"It has {card['parameters']:,} parameters and was made with fusebert {_escaped(card['version'])}. "
        f"{card['subsets']}"
    ).rstrip()


def _usage(card: Mapping[str, Any]) -> str:
    line = json.dumps(card["example"], ensure_ascii=False)
    row = json.loads(line)  # Python writes true, null and numbers in its own way
    searching = [
        "Vectors of one side, and a search among them (`fusebert index`, `fusebert find`):",
        _fenced("sh", ".venv/bin/fusebert embed FOLDER data.jsonl --side left --output vectors.parquet"),
    ]
    return "\n\n".join(
        [
            "Put one row on each line of `data.jsonl`:",
            _fenced("json", line),
            "fusebert is not on the package index: `make setup` in the folder of its source installs it. There, with "
            "this folder as `FOLDER`:",
            _fenced("sh", ".venv/bin/fusebert predict FOLDER data.jsonl"),
            "Or in Python (`.venv/bin/python`):",
            _fenced("python", f'import fusebert\n\nmodel = fusebert.load("FOLDER")\nprint(model.predict([{row!r}]))'),
            *(searching if card["task"] == "matching" else []),
        ]
    )


def _training(card: Mapping[str, Any]) -> str:
    training = card["training"]
    seconds = round(training["seconds"])
    minutes = f"{seconds // 60:,} min {seconds % 60} s" if seconds >= 60 else f"{seconds} s"
    new = f" ({training['new_learning_rate']:.2g} of new parts)" if training["new_learning_rate"] else ""
    recipe = as_yaml(card["recipe"]).rstrip()
    return (
        f"{training['epochs']:,} epochs, {training['steps']:,} steps, batches of about "
        f"{training['tokens_per_batch']:,} tokens, learning rate {training['learning_rate']:.2g}{new}, {minutes} on "
        f"{_escaped(training['hardware'])}, {training['tokens_per_second']:,.0f} tokens a second. The recipe, where it "
        "differs from the defaults:\n\n" + _fenced("yaml", recipe)
    )


def _results(card: Mapping[str, Any]) -> str:
    evaluations = card["evaluations"]
    metrics = dict.fromkeys(metric for evaluation in evaluations.values() for metric in evaluation["metrics"])
    heads = ["metric", *(f"{split} ({evaluation['rows']:,} rows)" for split, evaluation in evaluations.items())]
    rows = [
        [head, *(metric_text(evaluation["metrics"].get(metric)) for evaluation in evaluations.values())]
        for metric, head in zip(metrics, _heads(metrics, card), strict=True)
    ]
    return _table(heads, rows)


def _baselines(card: Mapping[str, Any]) -> str:
    split, evaluation = list(card["evaluations"].items())[-1]
    if "baselines" not in evaluation:
        return ""
    shown = list(evaluation["metrics"])
    found = {"this model": evaluation["metrics"], **evaluation["baselines"]}
    rows = [[name, *(metric_text(metrics.get(metric)) for metric in shown)] for name, metrics in found.items()]
    table = _table(["who ranks", *_heads(shown, card)], rows)
    return f"On {_escaped(split)}, from the same training events:\n\n{table}"


def _contributions(card: Mapping[str, Any]) -> str:
    ledger = card["ledger"]
    best = primary_metric(ledger["all"])
    shown = [metric for metric in ledger["all"] if metric not in LEFT_OUT_OF_LEDGER]
    rows = [
        [name, *(metric_text(metrics.get(metric)) for metric in shown), _change(metrics, ledger["all"], best)]
        for name, metrics in ledger.items()
    ]
    error = " ± two standard errors" if any(STANDARD_ERROR in metrics for metrics in ledger.values()) else ""
    heads = ["the model sees", *_heads(shown, card), f"change in {metric_name(best)}{error}"]
    said = "The same rows, scored again with modalities hidden, or one swapped between rows:"
    return f"{said}\n\n{_table(heads, rows)}"


def _change(metrics: Mapping[str, float], whole: Mapping[str, float], metric: str) -> str:
    score, reference = metrics.get(metric), whole.get(metric)
    if metrics is whole or score is None or reference is None:
        return ""
    error = f" ± {metric_text(2 * metrics[STANDARD_ERROR])}" if STANDARD_ERROR in metrics else ""
    return ("-" if score < reference else "+") + metric_text(abs(score - reference)) + error


def _speed(speed: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[threads, f"{times['p50_ms']:.1f}", f"{times['p95_ms']:.1f}"] for threads, times in speed.items()]
    heads = ["threads", "median ms", "95th percentile ms"]
    return "One row at a time, from the raw row to the answer:\n\n" + _table(heads, rows)


def _calibration(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    binned = {split: found["calibration"] for split, found in evaluations.items() if found.get("calibration")}
    if not binned:
        return ""
    split = "test" if "test" in binned else next(iter(binned))
    error = evaluations[split]["metrics"].get("expected_calibration_error")
    rows = [[f"{row['confidence']:.0%}", f"{row['accuracy']:.0%}", f"{row['rows']:,}"] for row in binned[split]]
    return (
        f"How sure the model was and how often it was right, on {_escaped(split)} "
        f"(expected calibration error {metric_text(error)}):\n\n" + _table(["probability given", "right", "rows"], rows)
    )


def _decisions(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    said = [words for split, found in evaluations.items() if (words := decision_in_words(found, split))]
    if not said:
        return ""
    return _escaped(f"How it answers: {said[-1]}. Where labels are more or less frequent than there, choose anew.")


def _modalities(card: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(card["columns"].values())


def _heads(metrics: Iterable[str], card: Mapping[str, Any]) -> list[str]:
    lower = card["lower_is_better"]
    return [metric_name(metric) + (" (lower is better)" if metric in lower else "") for metric in metrics]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    ruler = ["---"] + ["---:"] * (len(heads) - 1)
    lines = [map(_escaped, heads), ruler, *(map(_escaped, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _fenced(language: str, text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _escaped(words: Any) -> str:
    """A user's words on one line, with nothing in them that Markdown or HTML would act on."""
    text = re.sub(r"([\\`*_\[\]<>|~$&#!])", r"\\\1", _one_line(words))
    return re.sub(r"^(\d+(?=[.)](?:\s|$))|(?=[-+](?!\d)))", r"\1\\", text)  # would begin a list or a rule


def _one_line(words: Any) -> str:
    return " ".join(str(words).split())
