"""The dotted settings of a recipe as YAML has them: in a file, and on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fusebert.errors import RecipeError, UsageError

INT, TIMESTAMP = "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """`yaml.safe_load` keeps the last of two values of a key, and says nothing. A few lines of names for other parts,
    such as `*name`, can stand for billions of values. And it takes 0010, 1_000 and 12:30 for the numbers 8, 1000 and
    750: here, as in YAML 1.2, they are words, and so are dates, which no setting is."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            said = f"*{event.anchor} stands for another part; write it out"
            raise yaml.composer.ComposerError(problem=said, problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                said = f"{key.value} is there twice"
                raise yaml.constructor.ConstructorError(problem=said, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag not in (INT, TIMESTAMP)]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))


def read_settings(path: Path) -> dict[str, Any]:
    """The dotted settings of a recipe file, not checked yet. Raises RecipeError."""
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506, a safe loader
    except FileNotFoundError:
        raise RecipeError(f"the recipe {path} does not exist") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise RecipeError(f"the recipe {path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise RecipeError(f"the recipe {path} is not a list of `key: value` lines")
    for key in [key for part in (found, *found.values()) if isinstance(part, dict) for key in part]:
        if not isinstance(key, str):
            said = " (no, off, on and yes are such words)" if isinstance(key, bool) else ""
            raise RecipeError(f"the recipe {path} has {key!r} where YAML wants a name in quotes{said}")
    return found


def as_yaml(flat: Mapping[str, Any]) -> str:
    """Dotted settings as a recipe file has them."""
    return yaml.safe_dump(dict(flat), sort_keys=False, allow_unicode=True)


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["training.epochs=3"]` -> {"training.epochs": 3}; of a key that is given twice, the last."""
    found: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise UsageError(f"{override!r} is not of the form key=value")
        try:
            found[key] = yaml.load(value, _Loader)  # noqa: S506, a safe loader
        except (yaml.YAMLError, ValueError, RecursionError):
            found[key] = value
    return found
