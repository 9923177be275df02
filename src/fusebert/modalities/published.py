"""Published encoders of transformers, built from the settings in which they describe themselves.

A model folder from elsewhere brings such settings, and transformers does as some say: it runs code of a repository,
takes kernels from the Hub, fetches other networks. Here it only builds networks that it knows, from what lies here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fusebert.errors import FusebertError, ModelError
from fusebert.hub import hub_problem

KERNELS = ("attn_implementation", "experts_implementation")
"""Settings that may name a repository with code; what is saved has none of them."""
OF_TIMM = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path")
"""Arguments with which timm reads weights from elsewhere."""
LARGEST = 10_000_000
"""Of all sizes and counts."""


def build(backbone: Mapping[str, Any], encoder: str, network: Any = None) -> Any:
    """A network with fresh weights.

    Args:
        backbone: its settings, beside which fusebert keeps some of its own.
        encoder: what to call it in errors.
        network: its class; None for that which transformers takes.

    Raises:
        ModelError: the settings ask for more than a network that transformers knows, or for none.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    refuse_foreign(backbone, encoder)
    settings = {key: value for key, value in backbone.items() if not key.startswith("fusebert_")}
    with as_model_error(f"the network of {encoder} cannot be built"), _hub_not_asked(encoder):
        made = AutoConfig.for_model(**settings)
        if network is not None:
            return network(made)
        # published in half precision or not, they learn as all else does
        return AutoModel.from_config(made, dtype=torch.float32, trust_remote_code=False)


def refuse_foreign(settings: Mapping[str, Any], encoder: str) -> None:
    """Raise ModelError where settings, or those within them, name code or weights from elsewhere, or are too large."""
    for key, value in _all(settings):
        name = key.removeprefix("_").removesuffix("_internal")
        if (name == "auto_map" and value) or (name in KERNELS and value not in (None, "eager", "sdpa")):
            raise ModelError(f"the settings of {encoder} name code of their own ({key}), which fusebert never runs")
        if name == "model_args" and isinstance(value, Mapping) and any(value.get(one) for one in OF_TIMM):
            raise ModelError(f"the settings of {encoder} name weights from elsewhere ({key})")
        if isinstance(value, int) and value > LARGEST:
            raise ModelError(f"the settings of {encoder} have {key}={value:.3g}, which is too large")


def _all(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting and those within it, by its own name; of a list's values, by the list's."""
    if key:
        yield key, settings
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            yield from _all(value, str(name))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _all(value, key)


@contextmanager
def as_model_error(said: str) -> Iterator[None]:
    """What transformers raises, which may be anything, as a ModelError that begins with `said`."""
    try:
        yield
    except FusebertError:
        raise
    except Exception as error:
        raise ModelError(f"{said}: {hub_problem(error)}") from None


@contextmanager
def _hub_not_asked(encoder: str) -> Iterator[None]:
    """Some settings name, or leave to a default, another network, whose settings transformers would fetch."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    except OfflineModeIsEnabled:
        raise ModelError(f"the settings of {encoder} leave a part to the Hub, which is not asked for it") from None
    finally:
        constants.HF_HUB_OFFLINE = before
