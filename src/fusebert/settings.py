"""Every setting of a recipe, as its class declares it: for people, and for the page of the documentation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel

from fusebert.config import sections, tasks
from fusebert.section import FOLLOWS, is_setting


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a recipe: `key: default`."""

    key: str
    default: Any
    allowed: str
    meaning: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def all_settings() -> dict[str, list[Setting]]:
    """The settings of data, model and training, then of each modality and each task."""
    listed = {name: _listed(name, config) for name, config in sections().items()}
    listed["task"] = [Setting("task.name", None, " or ".join(tasks()), "what is learnt; inferred from the target")]
    return listed | {name: _listed("task", config) for name, config in tasks().items()}


def page() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "A recipe is a YAML file of these keys, and each can be changed on the command line: `training.epochs=3`.",
        "A setting without a default is not set, or found out from the data. `fusebert settings` lists them, too, and",
        "`fusebert settings audio` a part of them. [Pre-training](pretraining.md) has a few defaults of its own.",
    ]
    for name, settings in all_settings().items():
        if not settings:
            continue
        lines += [
            "",
            f"## {name}{', a task' if name in tasks() else ''}",
            "",
            "| key | default | may be | what it does |",
        ]
        lines.append("|---|---|---|---|")
        lines += [f"| `{one.key}` | {shown(one.default)} | {one.allowed} | {one.meaning} |" for one in settings]
    return "\n".join(lines) + "\n"


def _listed(section: str, config: type[BaseModel]) -> list[Setting]:
    found, listed = config.model_json_schema(), []
    for name, schema in found["properties"].items():
        meaning = schema.get("description", "") + ("; has to be set" if name in found.get("required", ()) else "")
        if is_setting(config.model_fields[name]):
            default = None if config.model_fields[name].json_schema_extra == FOLLOWS else schema.get("default")
            listed.append(Setting(f"{section}.{name}", default, _allowed(schema), meaning))
    return listed


def shown(default: Any) -> str:
    """A default as a recipe has it; nothing for none."""
    if default in (None, {}, []):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, list):
        return ", ".join(map(shown, default))
    return f"{default:,}" if isinstance(default, int) else str(default)


def _allowed(schema: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(_allowed(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kind = schema.get("type", "")
    if kind in ("integer", "number"):
        return _range(schema, "whole number" if kind == "integer" else "number")
    if kind == "array":
        return f"list of {_allowed(schema['items'])}" if "items" in schema else f"{schema['minItems']} numbers"
    words = {"boolean": "true or false", "object": "key: value"}
    return words.get(kind) or str(schema.get("format", "text"))


def _range(schema: dict[str, Any], kind: str) -> str:
    low = f"from {schema['minimum']:,}" if "minimum" in schema else ""
    if "exclusiveMinimum" in schema:
        low = f"above {schema['exclusiveMinimum']:,}"
    high = f"to {schema['maximum']:,}" if "maximum" in schema else ""
    if "exclusiveMaximum" in schema:
        high = f"below {schema['exclusiveMaximum']:,}"
    return " ".join(part for part in (kind, low, high) if part)
