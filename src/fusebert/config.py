"""A recipe: one flat YAML of dotted keys, the same on the command line, checked before anything is read or trained."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from fusebert import plugins
from fusebert.errors import DataError, RecipeError, UsageError
from fusebert.recipe_yaml import as_yaml, read_settings
from fusebert.section import FOLLOWS, Column, Section, is_setting, one_or_more, seconds, shortened, wrong_setting
from fusebert.storage import CORPUS_REPORT, MANIFEST, file_hash, listing_hash

RECIPE = "recipe.yaml"
"""Of a run, in its folder: as it was given, and `without_places` once it is finished."""
MAY_CHANGE_ON_RESUME = ("training.workers", "training.trackers")
"""A run may be resumed with others: they change nothing of what is learnt."""
NAME_MODELS = ("model.trunk", "task.content")
"""What may name the folder of a trained model to go on from, or to read with."""


def file_of_table(value: Any) -> Any:
    """The path of a table."""
    if value is not None and not isinstance(value, str | Path):
        raise ValueError("it must be the path of a table; of a DataFrame, write one with its to_parquet")
    return value


def share_or_table(value: Any) -> Any:
    """What is held out: of numbers only a share."""
    if isinstance(value, int | float) and not 0 < value < 1:
        raise ValueError("it must be a table or a share between 0 and 1")
    return value


OTHER_NAMES = {
    "training.lr": "training.learning_rate",
    "training.batch_size": "training.tokens_per_batch",
    "model.size": "model.trunk",
    "text.max_length": "text.max_tokens",
    "image.size": "image.size_pixels",
    "image.resolution": "image.size_pixels",
}
"""What settings are called elsewhere."""


class DataSettings(Section):
    """Which rows, and what their columns are."""

    train: Annotated[Path | None, BeforeValidator(file_of_table)] = Field(
        None,
        description="table of training rows: csv, tsv, jsonl, jsonl.gz, parquet, or a folder of pictures or sounds",
    )
    validation: Annotated[float | Path, BeforeValidator(share_or_table)] = Field(
        0.1, description="a table, or the share of the training rows held out"
    )
    validation_group: Column | None = Field(
        None, description="rows with the same value here stay on one side of the split"
    )
    test: Annotated[Path | None, BeforeValidator(file_of_table)] = Field(
        None, description="table that is scored once, at the end"
    )
    target: Column | None = Field(None, description="column to predict")
    columns: dict[str, str] = Field({}, description="column -> modality, or `ignore`; inferred where not given")
    root: Path | None = Field(
        None, description="folder the table paths are relative to; else $FUSEBERT_DATA if it has them, else here"
    )
    bad_rows: Literal["refuse", "skip", "blank"] = Field(
        "refuse",
        description="when rows cannot be read: end, go on without them, or use them without the input that cannot be "
        "read; all are listed in a file",
    )


class ModelSettings(Section):
    """The trunk and how modalities meet in it."""

    trunk: str = Field(
        "mini",
        description="tiny, mini, small, medium, base; or a BERT, or a model of yours: folder, Hub id, `package:NAME`",
    )
    fusion: Literal["one_stream", "concat", "two_stream"] = Field(
        "one_stream",
        description="all tokens in one sequence; pooled vectors side by side; or the trunk looks at the others",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of hidden states")
    attention_dropout: float = Field(
        0.0, ge=0, lt=1, description="of attention weights; slower than none, and rarely better"
    )
    modality_dropout: float = Field(
        0.0, ge=0, lt=1, description="chance of each modality of a row to be hidden in training; one always stays"
    )


class TrainingSettings(Section):
    """How long, how fast, how often."""

    epochs: int = Field(
        5,
        ge=1,
        le=10_000,
        json_schema_extra=FOLLOWS,
        description="passes over the training rows; where not set, 3 to 40: as many as make 2,000 steps, 1,000 where "
        "all encoders are pretrained",
    )
    tokens_per_batch: int = Field(
        2048,
        ge=1,
        json_schema_extra=FOLLOWS,
        description="tokens of the trunk's sequence in one batch; where not set, 512 to 4,096: fewer for small tables",
    )
    gradient_accumulation: int = Field(1, ge=1, description="batches summed up before a step")
    learning_rate: float = Field(
        3e-4,
        gt=0,
        json_schema_extra=FOLLOWS,
        description="peak rate of the trunk's last layer, of pretrained encoders, and of new parts; where not set, "
        "by the trunk's width",
    )
    new_learning_rate: float | None = Field(
        None,
        gt=0,
        description="peak rate of the new parts (head, embedders), if it should differ; five times the trunk's where "
        "neither is set and pictures or sound from nothing join a pretrained trunk",
    )
    layer_decay: float = Field(1.0, gt=0, le=1, description="each lower trunk layer learns this much slower")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of matrices; biases and normalisations have none")
    warmup_ratio: float = Field(
        0.1, ge=0, lt=1, description="share of all steps with a rising learning rate; then cosine decay"
    )
    max_gradient_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    freeze: Annotated[tuple[str, ...], BeforeValidator(one_or_more)] = Field(
        (), description="parts that do not learn: trunk, head, or a modality"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the processor multiplies it faster"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of initial weights, row order and every random draw")
    patience: int | None = Field(
        None, ge=1, description="stop after this many epochs without a better validation score"
    )
    time_limit: Annotated[float | None, BeforeValidator(seconds)] = Field(
        None, gt=0, description='seconds, or "10m", from the start of the program until its scores are written'
    )
    checkpoint_steps: int | None = Field(None, ge=1, description="also save every so many steps, not only each epoch")
    workers: int = Field(0, ge=0, le=64, description="processes that read and prepare rows, anew in each epoch")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp", description="of several processes, each has the whole model (ddp) or a part of its weights (fsdp)"
    )
    compile: bool | None = Field(None, description="torch.compile layers and loss; default: only to pre-train on CUDA")
    trackers: Annotated[tuple[Literal["tensorboard", "wandb"], ...], BeforeValidator(one_or_more)] = Field(
        ("tensorboard",), description="where losses and scores are logged"
    )


class Recipe(Section):
    """Everything a training run is made of."""

    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    task: dict[str, Any] = Field({}, description="`name` (inferred where not given) and the task's own settings")
    modalities: dict[str, dict[str, Any]] = Field({}, description="settings of each modality")

    @classmethod
    def from_flat(cls, flat: Mapping[str, Any], source: str = "settings") -> Recipe:
        """A recipe of dotted keys, such as {"training.epochs": 3}."""
        fields = _known_keys()
        nested: dict[str, Any] = {}
        for key, value in flat.items():
            head, _, rest = str(key).partition(".")
            if str(key).startswith("data.columns."):
                nested.setdefault("data", {}).setdefault("columns", {})[key.removeprefix("data.columns.")] = value
            elif key in plugins.names("modalities") or key in cls.model_fields:
                raise RecipeError(f"{source}: settings are not nested; write {key}.NAME: value, each on its own line")
            elif key not in fields:
                raise RecipeError(f"{source}: {key!r} is not a setting{_nearest(str(key), fields)}")
            elif head in plugins.names("modalities"):
                nested.setdefault("modalities", {}).setdefault(head, {})[rest] = value
            elif key == "data.columns":
                if not isinstance(value, dict | None):
                    raise RecipeError(
                        f"{source}: data.columns={shortened(value)} will not do: write data.columns.COLUMN=MODALITY"
                    )
                nested.setdefault("data", {}).setdefault("columns", {}).update(value or {})
            else:
                nested.setdefault(head, {})[rest] = value
        section = ""
        try:
            recipe = cls(**nested)
            for name in recipe.modalities:
                section = f"{name}."
                recipe.modality_config(name)
            section = "task."
            recipe.task_config()
        except ValidationError as error:
            raise RecipeError(f"{source}: {wrong_setting(error, section)}") from None
        return recipe

    def differing(self, other: Recipe) -> list[str]:
        """Settings of the two that differ, of those that a run has to be resumed with; the other may be written
        `without_places`."""
        mine, its = self.flat(), other.flat()
        named = without_places(mine)
        return sorted(
            n
            for n in mine.keys() | its.keys()
            if n not in MAY_CHANGE_ON_RESUME
            and (n in its, its.get(n)) not in ((n in mine, mine.get(n)), (n in mine, named.get(n)))
        )

    def task_config(self, name: str | None = None) -> Any:
        """The checked settings of the task; of `name` where the recipe names none."""
        settings = dict(self.task)
        chosen = settings.pop("name", None) or name
        if chosen is None:
            return None
        return plugins.load("tasks", chosen, "task").Config(**settings)

    def modality_config(self, name: str) -> Any:
        """The checked settings of a modality."""
        return plugins.load("modalities", name, "processor").Config(**self.modalities.get(name, {}))

    def table(self, path: Path) -> Path:
        """Where a table of this recipe lies: in `data.root`; else in FUSEBERT_DATA, where it is set and has it; else
        here."""
        if self.data.root is not None:
            return self.data.root / path
        there = Path(os.environ.get("FUSEBERT_DATA", ".")) / path
        return path if path.exists() and not there.exists() else there

    def table_hashes(self) -> dict[str, str]:
        """Of each table that is a file; of a corpus that of its report, of a folder of classes that of its listing."""
        tables: dict[str, Any] = {name: getattr(self.data, name) for name in ("train", "validation", "test")}
        if catalogue := self.task.get("catalogue"):
            tables["catalogue"] = Path(catalogue)
        files = {name: self.table(table) for name, table in tables.items() if isinstance(table, Path)}
        files = {name: report if (report := file / CORPUS_REPORT).is_file() else file for name, file in files.items()}
        folders = {name: listing_hash(folder) for name, folder in files.items() if folder.is_dir()}
        return folders | {name: file_hash(file) for name, file in files.items() if file.is_file()}

    def model_hashes(self) -> dict[str, str]:
        """By setting that names one: of each folder with a trained model that of its manifest."""
        named = {key: value for key, value in self.flat().items() if key in NAME_MODELS and value is not None}
        manifests = {key: Path(value).expanduser() / MANIFEST for key, value in named.items()}
        return {key: file_hash(manifest) for key, manifest in manifests.items() if manifest.is_file()}

    def sources(self) -> dict[str, str]:
        """What tells a finished run from another whose recipe is the same `without_places`: `table_hashes`, and of what
        else is named by its place, such as a trunk, the hash of that."""
        flat, tables = self.flat(), self.table_hashes()
        named = without_places(flat)
        hashed = {"data.root", "task.catalogue", *(f"data.{name}" for name in tables)}
        places = {key: str(value) for key, value in flat.items() if value != named[key] and key not in hashed}
        return tables | {key: hashlib.sha256(os.fsencode(place)).hexdigest() for key, place in places.items()}

    def check_tables(self) -> None:
        """Raise DataError for a table that is named and not there."""
        for path in (self.data.train, self.data.validation, self.data.test):
            if isinstance(path, Path) and not (found := self.table(path)).exists():
                is_here = self.data.root is None and "FUSEBERT_DATA" not in os.environ and not path.is_absolute()
                hint = "; set FUSEBERT_DATA to the folder with the data, or data.root=" if is_here else ""
                raise DataError(f"the table {found} does not exist{hint}")

    def flat(self) -> dict[str, Any]:
        """Every setting that was given, by dotted key, as JSON values; a default may be another elsewhere."""
        nested = self.model_dump(mode="json", exclude_unset=True)
        nested |= nested.pop("modalities", {})
        return {f"{section}.{key}": value for section, values in nested.items() for key, value in values.items()}

    def to_yaml(self) -> str:
        return as_yaml(self.flat())


def settings_of(source: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted settings of a recipe file, or of a table of training rows. Raises RecipeError, or UsageError for two
    tables."""
    if source.suffix in (".yaml", ".yml"):
        return read_settings(source) | dict(overrides)
    if "data.train" in overrides:
        raise UsageError(f"{source} and data.train={overrides['data.train']}: name one of them")
    return {"data.train": str(source.absolute())} | dict(overrides)


def read_recipe(source: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a file, or of a table of training rows. Raises RecipeError."""
    is_file = source.suffix in (".yaml", ".yml")
    return Recipe.from_flat(settings_of(source, overrides or {}), str(source) if is_file else "settings")


def without_places(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Settings to show to others: files by name, not by where on this machine they lie."""

    def named(value: Any) -> Any:
        return Path(value).name if isinstance(value, str | Path) and Path(value).is_absolute() else value

    return {key: named(value) for key, value in flat.items()}


def sections() -> dict[str, type[BaseModel]]:
    """Of data, model and training, then of each modality, the settings under its name."""
    found: dict[str, type[BaseModel]] = {"data": DataSettings, "model": ModelSettings, "training": TrainingSettings}
    for name in sorted(plugins.names("modalities")):
        found[name] = plugins.load("modalities", name, "processor").Config
    return found


def tasks() -> dict[str, type[BaseModel]]:
    """Of each task the settings, all under `task`."""
    return {name: plugins.load("tasks", name, "task").Config for name in sorted(plugins.names("tasks"))}


def _known_keys() -> list[str]:
    under = [*sections().items(), *(("task", config) for config in tasks().values())]
    found = [
        f"{name}.{key}" for name, config in under for key, field in config.model_fields.items() if is_setting(field)
    ]
    return ["task.name", *found]


def _nearest(key: str, known: Sequence[str]) -> str:
    """By the last part, as keys that share their section are all alike: the same elsewhere, else a like one there."""
    section, _, last = key.rpartition(".")
    if key in OTHER_NAMES:
        return f"; did you mean {OTHER_NAMES[key]!r}?"
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    there = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    close = elsewhere or [there[name] for name in difflib.get_close_matches(last, there, n=1)]
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]!r}?" if close else "; docs/settings.md lists them all"
