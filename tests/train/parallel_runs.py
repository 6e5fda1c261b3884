"""Runs in several processes, one after another: `torchrun --nproc-per-node 2 parallel_runs.py FOLDER`.

`FOLDER/runs.json` lists them. On processors it lifts what keeps a mode from them, and nothing else: accelerate splits
models on accelerators only, and torch's ring attention knows the kernels of accelerators only.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.experimental._context_parallel import _attention as ring

from longspan import cli
from longspan.train import parallel, sizes
from longspan.train.trainer import RunTrainer

aten = torch.ops.aten


def own(tensors: Sequence[Any]) -> list[Tensor]:
    """The parts of `tensors` that this process holds."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def say(line: str) -> None:
    """Print a line in one piece, since the others print, too."""
    os.write(1, f"{line}\n".encode())


def split_on_processors() -> None:
    """Have accelerate take processors for accelerators, and the project's check of the device pass."""
    check, begin = parallel._check_processes, RunTrainer.create_accelerator_and_postprocess
    parallel._check_processes = lambda settings, count, device: check(settings, count, torch.device("cuda"))

    def as_accelerator(self: RunTrainer) -> None:
        if self.config.parallel.fsdp:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        begin(self)

    RunTrainer.create_accelerator_and_postprocess = as_accelerator  # type: ignore[method-assign]


def ring_on_processors() -> None:
    """Have torch's ring attention call the kernel of processors, as it calls those of accelerators."""

    def shared(found: Sequence[Tensor], like: DTensor) -> tuple[DTensor, ...]:
        return tuple(DTensor.from_local(tensor, like.device_mesh, [Shard(2)]) for tensor in found)

    def forward(kernel: Any, args: Any, kwargs: Any) -> Any:
        group = args[0].device_mesh.get_group()
        found = ring._templated_ring_attention(group, 2, kernel, *own(args[:3]), is_causal=args[4], **kwargs)
        return shared(found, args[0])

    def backward(kernel: Any, args: Any, kwargs: Any) -> Any:
        group, (gradient, *rest) = args[0].device_mesh.get_group(), own(args[:6])
        told = {"is_causal": args[7], "dropout_p": 0.0, **kwargs}
        found = ring._templated_ring_attention_backward(group, 2, kernel, gradient, "grad_out", *rest, **told)
        return shared(found, args[0])

    ring.custom_ops[aten._scaled_dot_product_flash_attention_for_cpu.default] = forward
    ring.custom_ops[aten._scaled_dot_product_flash_attention_for_cpu_backward.default] = backward


def watch(run: dict[str, Any]) -> None:
    """Print what this process holds and sees in its first step of `run`; end badly at the step that it names."""
    compute_loss = original_compute_loss

    def watched(self: RunTrainer, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        step, rank = self.state.global_step + 1, self.processes.rank
        if step == 1:
            held = sum(tensor.numel() for tensor in own(list(model.parameters())))
            say(f"{run['out']} {rank} holds {held} sees {list(inputs['input_ids'].shape)}")
        loss = compute_loss(self, model, inputs, *args, **kwargs)
        if rank == 1 and step == run.get("interrupted"):
            signal.raise_signal(signal.SIGINT)
        if rank == 1 and step == run.get("not a number"):
            loss = loss * torch.nan
        if rank == 0 and step == run.get("full disk"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        if rank == 1 and step == run.get("lost"):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    RunTrainer.compute_loss = watched  # type: ignore[method-assign]


original_compute_loss = RunTrainer.compute_loss


def main(folder: Path) -> None:
    launched = dict(os.environ)
    for run in json.loads((folder / "runs.json").read_text(encoding="utf-8")):
        sizes.SIZES["tiny"] = sizes.Size(**run["tiny"])
        watch(run)
        try:
            code = cli.main(["train", str(folder / f"{run['out']}.yaml"), "--out", str(folder / run["out"]), "-q"])
        except SystemExit as end:  # said by another process
            code = end.code
        say(f"{run['out']} {launched['RANK']} ended {code}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        os.environ.clear()  # accelerate leaves settings there
        os.environ.update(launched)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        split_on_processors()
        ring_on_processors()
    main(Path(sys.argv[1]))
