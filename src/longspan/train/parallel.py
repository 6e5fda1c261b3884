"""How the processes of a run share the work: by accelerate and the Trainer, as `parallel` in the settings says.

The launcher (`torchrun`, `accelerate launch`) says how many processes there are and nothing else: what it could say
beside that stands in the run's settings, and an answer of its own is refused rather than dropped.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from accelerate import ParallelismConfig
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import PreTrainedModel, TrainingArguments

from longspan import surgery
from longspan.errors import ConfigError, MethodError
from longspan.processes import Processes, launched
from longspan.train.config import RunConfig
from longspan.train.parallel_settings import ParallelSettings
from longspan.train.ulysses import check_deepspeed

_SAID_HERE = {
    "ACCELERATE_USE_FSDP": "launch with --multi_gpu and set 'parallel.fsdp: true'",
    "ACCELERATE_USE_DEEPSPEED": "launch with --multi_gpu and set 'parallel.fsdp: true' (and 'parallel.ulysses')",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "launch with --multi_gpu and set 'parallel.context' or 'parallel.replicas'",
    "ACCELERATE_USE_MEGATRON_LM": "launch with --multi_gpu and set 'parallel.fsdp: true'",
}
"""Variables of accelerate's launcher that would be lost or act twice, and what to do instead."""


def join(config: RunConfig, device: torch.device) -> Processes:
    """The processes that the launcher has started for this run; one alone if none has.

    Raises:
        ConfigError: the launcher was told something that the run's settings decide, or the number of processes or the
            device does not fit the settings.
    """
    processes = launched(on_processors=device.type == "cpu")
    with processes.together():
        _check_launcher(config, device)
        check_fit(config, processes.count, device)
    return processes


def _check_launcher(config: RunConfig, device: torch.device) -> None:
    environment = {name: value.lower() for name, value in os.environ.items() if name.startswith("ACCELERATE_")}
    for name, advice in _SAID_HERE.items():
        if environment.get(name) in {"true", "1"}:
            raise ConfigError(f"the launcher sets {name}, which the settings of the run decide: {advice}")
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no" and (precision, config.dtype) != ("bf16", "bfloat16"):
        raise ConfigError(
            f"the launcher asks for mixed precision {precision} and the settings for dtype {config.dtype}: "
            "launch with --mixed_precision no, or set 'dtype: bfloat16' for bf16"
        )
    if environment.get("ACCELERATE_DYNAMO_BACKEND", "no") != "no":
        raise ConfigError("the launcher asks for dynamo: launch without it and set 'compile: true'")
    if environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        raise ConfigError("the launcher asks for gradient accumulation: leave it to 'micro_batch_tokens'")
    if environment.get("ACCELERATE_USE_CPU") in {"true", "1"} and device.type != "cpu":
        raise ConfigError("the launcher asks for processors and the settings do not: set 'device: cpu'")


def check_fit(config: RunConfig, count: int, device: torch.device) -> None:
    """Make sure that `count` processes can share the work as the settings say.

    Raises:
        ConfigError: they cannot.
    """
    _check_processes(config.parallel, count, device)
    _check_batch(config, count)


def _check_processes(settings: ParallelSettings, count: int, device: torch.device) -> None:
    if count == 1 and settings != ParallelSettings():
        raise ConfigError(
            "'parallel' is set and there is one process: start several, say with `accelerate launch --multi_gpu "
            "--num_processes 8 -m longspan train RUN.yaml`, or leave it out"
        )
    if settings.fsdp and device.type == "cpu":
        raise ConfigError("'parallel.fsdp' is for GPUs: on processors accelerate would leave the model whole")
    if settings.ulysses > 1:
        check_deepspeed()
    parts = settings.replicas * settings.sharing
    if count % parts:
        raise ConfigError(f"'parallel' needs a multiple of {parts} processes and there are {count}")


def _check_batch(config: RunConfig, count: int) -> None:
    share = config.parallel.sharing
    if share > 1 and config.distill is not None:
        raise ConfigError(
            f"'distill' compares whole windows, which processes cannot share: leave 'parallel.{_way(config.parallel)}'"
            " out"
        )
    pieces = 2 * share if config.parallel.context > 1 else share  # the ring gives each an early and a late piece
    if config.train_length % pieces:
        near = max(1, round(config.train_length / pieces)) * pieces
        raise ConfigError(
            f"{share} processes cannot share a window of {config.train_length} tokens: take 'train_length' {near}"
        )
    readers = count // share
    if config.rows_per_step % readers:
        near = max(1, round(config.rows_per_step / readers)) * readers * config.train_length
        raise ConfigError(
            f"'batch_tokens' {config.batch_tokens} are {config.rows_per_step} windows, which {readers} processes "
            f"cannot share evenly: take {near}"
        )
    rows, passes = batch_shape(config, count)
    if rows * passes * readers != config.rows_per_step:
        own = config.rows_per_step // readers * config.train_length
        raise ConfigError(
            f"'micro_batch_tokens' {config.micro_batch_tokens} does not divide the {own} tokens of a batch that each "
            f"of {readers} processes learns from"
        )


def batch_shape(config: RunConfig, count: int) -> tuple[int, int]:
    """Windows in one forward pass of a process, and forward passes in one optimizer step."""
    own = config.rows_per_step * config.parallel.sharing // count
    rows = min(own, config.micro_batch_rows)
    return rows, own // rows


def trainer_settings(config: RunConfig, count: int) -> dict[str, Any]:
    """What the Trainer is told about sharing the work of `count` processes."""
    settings = config.parallel
    # parts that learn in some stages only have no gradient in the others
    told: dict[str, Any] = {"ddp_find_unused_parameters": config.trainable is not None}
    if settings.fsdp:
        told["fsdp"] = True
        told["fsdp_config"] = {"version": 2, "reshard_after_forward": True}
        told["parallelism_config"] = ParallelismConfig(
            dp_replicate_size=settings.replicas,
            dp_shard_size=count // (settings.replicas * settings.sharing),
            cp_size=settings.sharing,
            tp_size=1,
            sp_size=1,
        )
    return told


def split_precisely(arguments: TrainingArguments) -> None:
    """Have FSDP compute in bfloat16, but add gradients up in float32 and leave the rotary tables as they are."""
    plugin = arguments.fsdp_plugin_args
    if plugin is not None and arguments.bf16:
        plugin["mixed_precision_policy"] = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )


def cut_like_tokens(context: functools.partial[Any], positions: Tensor) -> functools.partial[Any]:
    """Have accelerate cut `positions`, too, where it cuts a window into the parts of the processes, until its end."""
    told = context.keywords
    return functools.partial(
        context.func,
        buffers=[*told["buffers"], positions],
        buffer_seq_dims=[*told["buffer_seq_dims"], 1],
        no_restore_buffers={*told["no_restore_buffers"], positions},
    )


def check_model(config: RunConfig, model: PreTrainedModel) -> None:
    """Make sure that what the model computes can be shared out as the settings say.

    Raises:
        MethodError: processes share windows, and attention is not one causal call of SDPA for each layer, or the
            frequencies follow a length that no process sees, or heads do not divide.
    """
    settings = config.parallel
    if settings.sharing == 1:
        return
    reason = _not_in_parts(model)
    if reason is None and settings.ulysses > 1:
        reason = _heads_left(model, settings.ulysses)
    elif reason is None and not any(name.endswith("self_attn") for name, _ in model.named_modules()):
        reason = f"accelerate does not find the attention of {model.config.model_type}"
    if reason is not None:
        raise MethodError(f"'parallel.{_way(settings)}' cannot share these windows: {reason}; set it to 1")


def _way(settings: ParallelSettings) -> str:
    return "ulysses" if settings.ulysses > 1 else "context"


def _not_in_parts(model: PreTrainedModel) -> str | None:
    """Why attention is not one causal call of SDPA for each layer, whatever the stretch of a window."""
    slots = surgery.plan(model, ()).slots
    if slots.bias is not None:
        return f"{type(slots.bias).__name__} adds a bias, which needs the distances of all pairs"
    if slots.follows_length():
        return f"the frequencies of {type(slots.frequency).__name__} follow the length, and each process sees a part"
    for method in (slots.selection if slots.selects(training=True) else None, slots.bands):
        if method is not None:
            return f"{type(method).__name__} attends by parts, which lie across the processes"
    if model.config._attn_implementation != "sdpa":
        return f"attention is '{model.config._attn_implementation}' and must be 'sdpa'"
    return "some layers see a window of the past only" if _sees_a_part(model) else None


def _heads_left(model: PreTrainedModel, count: int) -> str | None:
    """Why heads cannot be dealt out to `count` processes."""
    heads = model.config.num_attention_heads
    key_heads = getattr(model.config, "num_key_value_heads", None) or heads
    if heads % count:
        return f"{heads} heads are no multiple of {count}"
    if key_heads % count and count % key_heads:
        return f"of {key_heads} key heads and {count} processes neither divides the other"
    return None


def _sees_a_part(model: PreTrainedModel) -> bool:
    types = getattr(model.config, "layer_types", None)
    if types is not None:
        return any(kind != "full_attention" for kind in types)
    return getattr(model.config, "sliding_window", None) is not None
