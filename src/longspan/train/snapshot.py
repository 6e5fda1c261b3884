"""What a run in progress consists of, as tensors and JSON values, and how it is put back.

Where weights are split over processes, all take part in reading them, and only the first is given the whole tensors. A
state does not tell how many processes there were.
"""

from __future__ import annotations

import dataclasses
import random
import typing
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers.trainer_callback import TrainerState

from longspan.train.states import read_value


def model_tensors(model: nn.Module, *, learning: bool = False) -> dict[str, Tensor]:
    """All weights and saved buffers by name, or the weights that are learning alone; tied weights once."""
    return {name: _whole(tensor) for name, tensor in _kept(model, learning).items()}


def _kept(model: nn.Module, learning: bool) -> dict[str, Tensor]:
    names = {name for name, weight in model.named_parameters() if weight.requires_grad or not learning}
    if not learning:
        names |= {name for name, _ in model.named_buffers()}
    return {name: tensor for name, tensor in model.state_dict().items() if name in names}


def restore_model(model: nn.Module, state: Path, *, learning: bool = False) -> None:
    """Put the weights of a saved state into `model`, all or those that are learning."""
    saved, places = load_file(state / "model.safetensors"), _kept(model, learning)
    assert saved.keys() == places.keys(), "the state belongs to another model"
    split = {name: _split(tensor, places[name]) for name, tensor in saved.items()}
    model.load_state_dict(split, strict=False)  # tied weights stand under one of their names only


def optimizer_values(optimizer: Any) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The optimizer's moments as tensors named `INDEX.NAME`, and its parameter groups."""
    state = optimizer.state_dict()
    moments = {f"{index}.{name}": _whole(value) for index, row in state["state"].items() for name, value in row.items()}
    return moments, state["param_groups"]


def restore_optimizer(optimizer: Any, scheduler: LRScheduler, state: Path) -> None:
    """Put the optimizer's moments and the place in the learning-rate schedule back."""
    rows: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in load_file(state / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        # a moment has the shape of its parameter; the count of steps has none and is the same everywhere
        rows.setdefault(int(index), {})[name] = _split(value, parameters[int(index)]) if value.ndim else value
    groups = read_value(state, "optimizer")
    for group in groups:
        group["betas"] = tuple(group["betas"])  # JSON has lists only
    optimizer.load_state_dict({"state": rows, "param_groups": groups})
    scheduler.load_state_dict({**read_value(state, "scheduler"), "lr_lambdas": [None] * len(groups)})


def scheduler_values(scheduler: LRScheduler) -> dict[str, Any]:
    """The place in the schedule; the schedule itself follows from the settings."""
    return {key: value for key, value in scheduler.state_dict().items() if key != "lr_lambdas"}


def generator_values() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The states of the random generators of torch (tensors), numpy and Python (values)."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    name, keys, *rest = typing.cast(tuple[Any, ...], np.random.get_state(legacy=True))
    return tensors, {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def restore_generators(state: Path) -> None:
    """Put the random generators where they were."""
    tensors = load_file(state / "generators.safetensors")
    values = read_value(state, "generators")
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
    version, numbers, gauss = values["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = values["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))


def trainer_values(state: TrainerState) -> dict[str, Any]:
    """The Trainer's own count of steps; its history stands in the records."""
    return {**dataclasses.asdict(state), "log_history": [], "stateful_callbacks": {}}


def _whole(tensor: Tensor) -> Tensor:
    if not isinstance(tensor, DTensor):
        return tensor.contiguous()
    whole = tensor.full_tensor()
    # one by one to memory that a GPU does not lack; the others would keep a model each for nothing
    return whole.cpu().contiguous() if dist.get_rank() == 0 else torch.empty(0)


def _split(tensor: Tensor, place: Tensor) -> Tensor:
    """The part of a whole tensor that belongs where `place` is; every process has read the whole."""
    if not isinstance(place, DTensor):
        return tensor
    return distribute_tensor(
        tensor.to(place.device, place.dtype), place.device_mesh, place.placements, src_data_rank=None
    )
