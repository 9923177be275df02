"""Weights, gradients and optimizer state in parts, one a process: torch's FSDP2 (Zhao et al. 2023).

The plug-in of accelerate is left aside: it builds the model anew on the meta device and swaps the optimizer's
parameters, which is more code to rely on than the two calls here.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fusebert.model.fusion import TwoStream
from fusebert.types import TEXT


def shard(model: Any, processes: int) -> Any:
    """A copy of the model, of whose weights each process keeps its part. A layer is whole only while it is computed.

    Gradients become their mean over the processes. The word embeddings, which the head reads out with, and all else
    that is no layer are whole from forward to backward.
    """
    mesh = init_device_mesh(model.device.type, (processes,))
    made = copy.deepcopy(model)
    for layer in made.trunk.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(made, mesh=mesh)
    made.set_reduce_scatter_unused_params(True)  # a batch may lack a modality in one process and not in another
    return made


def drop_unused_gradients(model: Any, used: Collection[str]) -> None:
    """Drop the zeros that `fully_shard` gives to what no process has used in a step, and the optimizer would wear down.

    Args:
        used: modalities that some row had.
    """
    unused = [embedder for name, embedder in model.embedders.items() if name not in used]
    if not set(used) - {TEXT}:
        unused.append(model.modality_embeddings)
        if isinstance(model.fusion, TwoStream):
            unused.append(model.fusion)
    for module in unused:
        for parameter in module.parameters():
            parameter.grad = None


def gather(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The tensors whole, on the host. Every process calls this together; those that do not keep them get nothing."""
    found = {}
    for name, value in tensors.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            found[name] = whole.detach().cpu().contiguous()
    return found


def placed(value: Tensor, like: Tensor | None) -> Tensor:
    """This process's part of a whole tensor that every process has, where `like` is in parts; else all of it."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def put_whole(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put whole weights into a model, also into one in parts. Raises RuntimeError where they are not the model's."""
    current = model.state_dict()
    with torch.no_grad():
        model.load_state_dict({name: placed(value, current.get(name)) for name, value in tensors.items()})
