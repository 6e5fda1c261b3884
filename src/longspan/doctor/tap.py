"""What the attention function of each layer is given, and what the equation says it should be given.

The tap is an attention function of its own name, so that it works on any model that asks transformers for one. Modules
that are older than that (GPT-J) attend by a method of theirs, which is watched instead.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longspan.doctor.finding import DoesNotApply
from longspan.doctor.probe import attention_named
from longspan.equation import Method, Window
from longspan.reference import reference_attention
from longspan.surgery import banded as banded_module

NAME = "longspan_doctor"
OWN = "_attn"
"""The method by which modules attend that ask transformers for no function."""
TABLE = "embed_positions"
"""Where such modules keep sin and cos of every position, side by side."""


@dataclass(frozen=True, slots=True, eq=False)
class Meeting:
    """Where queries and keys meet in one layer."""

    query: Tensor
    """`B H T W`, rotated."""
    key: Tensor
    """`B G S W`, rotated."""
    bias: Tensor | None
    """Float mask `B H T S`, with very low values for what is not seen."""
    scaling: float | None
    hidden: Tensor
    """What the attention module was given, `B T width`."""

    @property
    def width(self) -> int:
        """Elements of a rotated query."""
        return self.query.shape[-1]

    def logits(self, head_dim: int) -> Tensor:
        """`H T S` of the first row in float64, with the scaling of the equation; -inf for what is not seen."""
        key = self.key[0].double().repeat_interleave(self.query.shape[1] // self.key.shape[1], dim=0)
        logits = self.query[0].double() @ key.mT / math.sqrt(head_dim)
        if self.bias is not None:
            bias = self.bias[0].double()
            logits = logits + bias.masked_fill(bias < torch.finfo(self.bias.dtype).min / 2, -math.inf)
        return logits


@dataclass(frozen=True, slots=True, eq=False)
class BandedMeeting:
    """Where they meet in several bands, which no function of the library is given: told by the weights."""

    weights: Tensor
    """`B H T S`"""
    scaling: float | None
    hidden: Tensor
    width: int

    def logits(self, head_dim: int) -> Tensor:
        """As those of `Meeting`, up to a number for each query."""
        return self.weights[0].double().log()


Meetings = dict[str, Meeting | BandedMeeting]
"""By the name of the attention module."""


@contextlib.contextmanager
def tapped(model: PreTrainedModel, hidden: Mapping[str, Tensor] | None = None) -> Iterator[Meetings]:
    """Fill a dictionary by the name of the attention module, in the order of layers, while the model runs.

    Args:
        hidden: what to give to attention modules, by name, in place of what reaches them.
    """
    names = {id(module): name for name, module in model.named_modules()}
    inputs: dict[str, Tensor] = {}
    meetings: Meetings = {}

    def note(module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> None:
        bias = mask if mask is not None and mask.is_floating_point() else None
        name = names[id(module)]
        meetings[name] = Meeting(query, key, bias, scaling, inputs[name])

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        note(module, query, key, attention_mask, kwargs.get("scaling"))
        kwargs.pop("softcap", None)  # comes after the logits, and sdpa knows none
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    in_bands = banded_module.banded_attention

    def banded(q: Tensor, k: Tensor, v: Tensor, *bands: Any, **kwargs: Any) -> Tensor:
        name = next(reversed(inputs))  # the module that was entered last
        one = torch.eye(k.shape[2], dtype=v.dtype, device=v.device).expand(*v.shape[:2], -1, -1)
        parts = [functional.pad(part, (0, v.shape[-1] - part.shape[-1])) for part in one.split(v.shape[-1], dim=-1)]
        # the equation's own logits: a cap comes after them, and families scale them otherwise
        plain = {**kwargs, "softcap": None, "scaling": 1 / math.sqrt(q.shape[-1])}
        weights = torch.cat([in_bands(q, k, part, *bands, **plain) for part in parts], dim=-1)
        scaling = None if hasattr(watched[name], OWN) else kwargs["scaling"]
        meetings[name] = BandedMeeting(weights[..., : k.shape[2]], scaling, inputs[name], q.shape[-1])
        return in_bands(q, k, v, *bands, **kwargs)

    watched = attention_modules(model)
    with contextlib.ExitStack() as stack:
        banded_module.banded_attention = banded
        stack.callback(setattr, banded_module, "banded_attention", in_bands)
        for name, module in watched.items():
            given = None if hidden is None else hidden.get(name)
            hook = module.register_forward_pre_hook(_input(inputs, name, given), with_kwargs=True)
            stack.callback(hook.remove)
        if any(hasattr(module, OWN) for module in watched.values()):
            for module in watched.values():
                stack.enter_context(_own_watched(module, note))
        else:
            # masks are made for names in the mapping of all instances only
            pairs = ((ALL_ATTENTION_FUNCTIONS, attention), (ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask))
            for functions, function in pairs:
                functions.register(NAME, function)
                stack.callback(functions._global_mapping.pop, NAME)
            stack.enter_context(attention_named(model, NAME))
        yield meetings


def attention_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The attention modules by name, in the order of layers."""
    return {
        name: module
        for name, module in model.named_modules()
        if "Attention" in type(module).__name__ and next(module.parameters(), None) is not None
    }


@contextlib.contextmanager
def _own_watched(module: Any, note: Callable[..., None]) -> Iterator[None]:
    own = getattr(module, OWN)

    def watched(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Any:
        note(module, query, key, mask, None)
        return own(query, key, value, mask)

    setattr(module, OWN, watched)
    try:
        yield
    finally:
        delattr(module, OWN)


def _input(inputs: dict[str, Tensor], name: str, given: Tensor | None) -> Callable[..., Any]:
    def note(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs.pop(name, None)  # so that the module entered last stands last
        inputs[name] = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if given is None:
            return None
        if "hidden_states" in kwargs:
            return args, {**kwargs, "hidden_states": given}
        return (given, *args[1:]), kwargs

    return note


@contextlib.contextmanager
def unrotated(model: PreTrainedModel) -> Iterator[None]:
    """A plain model whose rotary modules turn nothing, so that q and k arrive as they were before RoPE."""

    def still(_module: nn.Module, _args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.ones_like(output[0]), torch.zeros_like(output[1])

    hooks = [module.register_forward_hook(still) for module in rotary_modules(model)]
    tables = {module: module._buffers[TABLE] for module in model.modules() if TABLE in module._buffers}
    for module, table in tables.items():
        sin, cos = table.chunk(2, dim=-1)
        module._buffers[TABLE] = torch.cat((torch.zeros_like(sin), torch.ones_like(cos)), dim=-1)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, table in tables.items():
            module._buffers[TABLE] = table


@contextlib.contextmanager
def rotary_positions(model: PreTrainedModel, positions: Tensor) -> Iterator[None]:
    """A model whose rotary modules turn to these positions, whatever the model is told elsewhere.

    Raises:
        DoesNotApply: it has no rotary module.
    """

    def swapped(value: Any) -> Any:
        return positions if isinstance(value, Tensor) and not value.is_floating_point() else value

    def swap(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(map(swapped, args)), {name: swapped(value) for name, value in kwargs.items()}

    modules = rotary_modules(model)
    if not modules:
        raise DoesNotApply("the model has no rotary module, whose positions could be changed alone")
    hooks = [module.register_forward_pre_hook(swap, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def rotary_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The modules that make cos and sin."""
    return [
        module
        for module in model.modules()
        if type(module).__name__.endswith(("RotaryEmbedding", "LongspanRotary")) and not list(module.children())
    ]


def expected_logits(
    before: Meeting,
    methods: Sequence[Method],
    window: Window,
    positions: Tensor,
    parameters: Mapping[str, Tensor],
) -> Tensor:
    """Causal logits `H T S` of the equation in float64, up to a number for each query; -inf for what is not seen.

    Args:
        before: q and k before RoPE.
        positions: `1 x T`, of queries and keys.
    """
    query, key, positions = before.query[:1].cpu(), before.key[:1].cpu(), positions.cpu()
    keys = key.shape[2]
    value = torch.eye(keys, dtype=torch.float64).expand(1, key.shape[1], -1, -1)  # so that the output is the weights
    return reference_attention(
        query,
        key,
        value,
        methods=methods,
        window=window,
        query_positions=positions,
        key_positions=positions,
        parameters={name: parameter.detach().cpu() for name, parameter in parameters.items()},
    )[0].log()


def compare_rows(found: Tensor, expected: Tensor) -> float:
    """Largest difference of logits in standard deviations of those expected; a number added to a row does not count."""
    seen = (found != -math.inf) & (expected != -math.inf)  # what is not a number stays, and fails
    found, expected = (_centred(x, seen) for x in (found, expected))
    return float((found - expected).abs().max() / expected[seen].std().clamp(min=1e-30))


def _centred(logits: Tensor, seen: Tensor) -> Tensor:
    logits = logits.masked_fill(~seen, 0.0)
    mean = logits.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp(min=1)
    return (logits - mean).masked_fill(~seen, 0.0)
