"""A model folder -> a Predictor. Its files are checked byte for byte, and no more is read than JSON and one safetensors
file: transformers' own loader would also take adapters, shards, pickles and code, where a folder has some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.initialization import meta_device_safe_creation_ops, no_init_weights
from transformers.utils.logging import disable_progress_bar

from fusebert import plugins
from fusebert.errors import FusebertError, ModelError, UsageError, named
from fusebert.evaluation.inference import multiplies_bf16
from fusebert.evaluation.predictor import PREDICTOR, Predictor
from fusebert.model.cpu import keep_freed_memory
from fusebert.model.modeling import FusebertConfig, FusebertModel
from fusebert.storage import check_finished, read_json, verify

P = TypeVar("P", bound=Predictor)
WEIGHTS = "model.safetensors"
FIELDS = ("trunk", "fusion", "modalities", "task", "cls_token_id")
"""Of config.json, all that builds a model."""
LARGEST_BUFFERS = 2**30
"""Bytes of what a model keeps beside its weights."""


def read_predictor(folder: str | Path, kind: type[P], device: str | None = None) -> P:
    """What answers for the model in a folder; see `trained_model.load`."""
    if not isinstance(folder, str | Path):
        raise UsageError(f"{folder!r:.60} is not the path of a model folder")
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"device={device!r} is neither 'cpu' nor 'cuda'")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device='cuda', but torch finds no CUDA device here")
    keep_freed_memory()
    disable_progress_bar()
    folder = Path(folder)
    check_finished(folder)
    verify(folder)
    try:
        return _assemble(folder, kind, device)
    except FusebertError:
        raise
    except Exception as error:  # what a folder says reaches much code, also of transformers
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"{folder} holds files that this version of fusebert cannot use ({problem})") from None


def _assemble(folder: Path, kind: type[P], device: str | None) -> P:
    saved = read_json(folder / PREDICTOR)
    found = read_json(folder / "config.json")
    model = _with_weights(FusebertConfig(**{field: found[field] for field in FIELDS}), folder)
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    processors = {
        name: plugins.load("modalities", name, "processor").Processor.load_from(folder) for name in saved["modalities"]
    }
    task = plugins.load("tasks", saved["task"], "task").Task.load_from(folder)
    precision = saved["precision"] if saved["precision"] == "fp32" or multiplies_bf16(model.device.type) else "fp32"
    return kind(folder, model.eval(), processors, task, saved["target"], precision)


def _with_weights(config: FusebertConfig, folder: Path) -> FusebertModel:
    """The model that `config` describes, with the weights of the folder; memory is taken only once both are known to
    be of one size."""
    shapes = _shapes(folder / WEIGHTS)
    with torch.device("meta"), meta_device_safe_creation_ops(), _at_most(4 * len(shapes) + 100, folder):
        drawn = FusebertModel(config)  # without memory
    same = _refuse_others(drawn, shapes, folder)
    beside = [buffer for name, buffer in drawn.named_buffers() if name not in drawn.state_dict()]
    if sum(buffer.nbytes for buffer in beside) > LARGEST_BUFFERS:
        raise ModelError(f"{folder / 'config.json'} describes a model that keeps gigabytes beside its weights")
    weights = load_file(folder / WEIGHTS)
    kinds = {weight.dtype for weight in weights.values() if weight.is_floating_point()}
    with torch.random.fork_rng(devices=[]), nullcontext() if beside else no_init_weights():
        model = FusebertModel(config)
    model.tie_weights()
    if len(kinds) == 1:
        model.to(kinds.pop())
    model.load_state_dict({name: weights[saved] for name, saved in same.items()})
    return model


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Of each weight in a file. Raises ModelError where there is none."""
    if not path.is_file():
        raise ModelError(f"{path} is missing")
    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118, no mapping


@contextmanager
def _at_most(most: int, folder: Path) -> Iterator[None]:
    """Raises ModelError where a model has more weights: a few bytes can ask for millions of layers."""
    count = 0

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise ModelError(f"{folder / 'config.json'} describes many more weights than {WEIGHTS} holds")

    hook = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        hook.remove()


def _refuse_others(model: FusebertModel, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> dict[str, str]:
    """Each weight's name -> the name under which it is saved: of those that are one, one is.

    Raises:
        ModelError: the file has other weights than the model, or of other sizes.
    """
    state = model.state_dict(keep_vars=True)
    saved = {id(state[name]): name for name in shapes if name in state}
    same = {name: name if name in shapes else saved.get(id(weight)) for name, weight in state.items()}
    strange = [name for name, other in same.items() if other is None] + [name for name in shapes if name not in state]
    if strange:
        raise ModelError(f"{folder} was written by another version of fusebert, with other weights: {named(strange)}")
    for name, shape in shapes.items():
        if shape != tuple(state[name].shape):
            raise ModelError(f"{folder / WEIGHTS}: {name} is {list(shape)}, config.json says {list(state[name].shape)}")
    return {name: other for name, other in same.items() if other is not None}
