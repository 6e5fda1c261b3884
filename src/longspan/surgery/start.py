"""Turning a trained model into CoCA: what its t begins as.

mean     t is the gated mean of the halves of the trained key: every weight stays as it is
random   the rows of the key projection that rotate are drawn anew, N(0, initializer_range), and their bias is 0: what
         the released code comes to, which names the projection anew and so loads nothing into it
fit      least squares against the scores that each layer had on calibration text (see `fit`), both rows of a pair
         alike, scaled so that attention is closest to what it was
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from longspan.equation import Feature, Method
from longspan.errors import DataError, FamilyError, MethodError
from longspan.methods.feature.coca import GATES, Coca
from longspan.rotation import Layout, Rotate, split_pairs
from longspan.surgery.families import sites_of
from longspan.surgery.fit import QUERIES, Scores, fit_keys
from longspan.surgery.patch import Patch
from longspan.surgery.plan import current_methods, plan
from longspan.surgery.site import ATTRIBUTE, Site

Start = Literal["mean", "random", "fit"]
STARTS: tuple[Start, ...] = ("mean", "random", "fit")
FIT_WINDOWS = 16
"""Windows that settle a fit; more change little."""
Values = list[tuple[nn.Parameter, Tensor]]
"""Parameters and what they become."""


def convert(
    model: PreTrainedModel,
    methods: Sequence[Method] | Method | str = "coca",
    *,
    start: Start = "mean",
    ids: Tensor | None = None,
    seed: int = 0,
    target_length: int | str | None = None,
    original_length: int | str | None = None,
    again: bool = False,
) -> Patch:
    """Turn a trained model into CoCA in place: `extend`, and what t begins as; train it afterwards.

    Args:
        methods: CoCA, alone or with others, as for `extend`.
        start: `mean`, `random` or `fit`.
        ids: LongTensor [windows, tokens] of ordinary text for `fit`, windows as long as the model was trained on.
        seed: of `random`, and of the queries that `fit` looks at.
        target_length, original_length, again: as for `extend`.

    Returns:
        The patch; undoing it puts the weights back, too.

    Raises:
        MethodError: the methods add no CoCA, or a start that this form of it cannot have.
        DataError: `fit` without text, or text with another start.
        FamilyError, LengthError: as `extend`, or a key projection that cannot be started so. The model is untouched.
    """
    planned = plan(model, methods, target_length=target_length, original_length=original_length, again=again)
    feature = planned.slots.feature
    if not isinstance(feature, Coca) or feature in current_methods(model):
        raise MethodError("a start is for CoCA, which these methods do not add: put coca among them or leave it out")
    if start not in STARTS:
        raise MethodError(f"unknown start '{start}': write {', '.join(STARTS)}")
    if feature.halves_keys() and start != "mean":
        raise MethodError(
            f"start '{start}' sets a key projection of full width: take projection='full', or start 'mean'"
        )
    if (ids is not None) != (start == "fit"):
        raise DataError(
            "start 'fit' needs text to fit on"
            if ids is None
            else f"text has no effect on start '{start}': leave it out"
        )
    values: Values = []
    if start == "random":
        values = _random_keys(model, seed)
    elif ids is not None:
        values = _fitted_keys(model, feature, ids, seed)
    patch = Patch(model, planned)
    patch.set_values(values)
    return patch


@dataclass(frozen=True, slots=True, eq=False)
class _Keys:
    """Where an attention module makes its keys: a linear map and the rows of it that rotate."""

    projection: nn.Linear
    rows: Tensor
    """`G R`: numbers of the rows, head by head."""

    def pairs(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """The rows of the first and the second member of each pair, `G F` both."""
        return split_pairs(self.rows, layout)


def _keys_of(name: str, module: nn.Module, rotary_dim: int, *, to_fit: bool) -> _Keys:
    """Where the attention module called `name` makes its keys.

    Raises:
        FamilyError: not in a plain linear map, or `to_fit` and t would not be linear in the input.
    """
    config: Any = module.config
    heads = config.num_attention_heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim: Any = getattr(module, "head_dim", None) or module.head_size
    site = sites_of(module)[1]
    if to_fit and "norm" in site:
        raise FamilyError(
            f"{name}: {site} follows the key projection, so t is no linear map that could be fitted: start from mean"
        )
    found = next(part for part in ("k_proj", "qkv_proj", "query_key_value") if hasattr(module, part))
    projection = getattr(module, found)
    if type(projection) is not nn.Linear:
        raise FamilyError(f"{name}.{found} is a {type(projection).__name__}, whose rows cannot be set: start from mean")
    rows = torch.arange(projection.out_features)
    if found == "query_key_value":  # head by head: its query, its key, its value
        rows = rows.view(heads, 3, head_dim)[:, 1]
    else:
        first = 0 if found == "k_proj" else heads * head_dim
        rows = rows[first : first + key_heads * head_dim].view(key_heads, head_dim)
    return _Keys(projection, rows[:, :rotary_dim])


def _random_keys(model: PreTrainedModel, seed: int) -> Values:
    """Key projections drawn as for a new model."""
    generator = torch.Generator().manual_seed(seed)
    values: Values = []
    with Patch(model, plan(model, ())):
        for name, module, site in _attention(model):
            keys = _keys_of(name, module, site.rotary_dim, to_fit=False)
            rows = keys.rows.flatten()
            drawn = torch.randn(len(rows), keys.projection.in_features, generator=generator)
            values += _with_rows(keys.projection, rows, drawn * model.config.initializer_range, torch.zeros(len(rows)))
    return values


def _fitted_keys(model: PreTrainedModel, feature: Coca, ids: Tensor, seed: int) -> Values:
    """Key projections from which CoCA's scores come as close as they can to those of the model as it is."""
    if feature.form != "exact":
        raise MethodError(
            f"only the scores of coca(form='exact') can be fitted, not those of {feature.form}: start from mean"
        )
    values: Values = []
    with Patch(model, plan(model, ())):
        sites = [
            (module, site, _keys_of(name, module, site.rotary_dim, to_fit=True))
            for name, module, site in _attention(model)
        ]
        for module, site, keys in sites:
            values += _fitted_layer(model, module, site, keys, feature, ids, seed)
    return values


def _fitted_layer(
    model: PreTrainedModel, module: nn.Module, site: Site, keys: _Keys, feature: Coca, ids: Tensor, seed: int
) -> Values:
    windows, rotate = _recorded(model, module, site, keys, feature, ids, seed)
    first, second = keys.pairs(site.layout)
    maps = fit_keys(windows, len(first), first.shape[1], rotate, GATES[feature.gate])
    flat = maps.flatten(0, 1)
    width = keys.projection.in_features
    rows = torch.cat((first.flatten(), second.flatten()))
    bias = flat[:, -1] if flat.shape[1] > width else flat.new_zeros(len(flat))
    return _with_rows(keys.projection, rows, flat[:, :width].repeat(2, 1), bias.repeat(2))


def _with_rows(projection: nn.Linear, rows: Tensor, weight: Tensor, bias: Tensor) -> Values:
    """The parameters of `projection` with these rows in place of those they have."""
    values: Values = []
    for parameter, new in ((projection.weight, weight), (projection.bias, bias)):
        if isinstance(parameter, nn.Parameter):  # not every projection has a bias
            changed = parameter.detach().clone()
            changed[rows] = new.to(changed)
            values.append((parameter, changed))
    return values


def _attention(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module, Site]]:
    """The attention modules of a patched model, with what longspan keeps of them."""
    for name, module in model.named_modules():
        site = getattr(module, ATTRIBUTE, None)
        if isinstance(site, Site):
            yield name, module, site


class _Recorder(Feature):
    """A feature that changes nothing and keeps what it sees in one pass."""

    def query(self, q: Tensor, rotate: Rotate, layout: Layout) -> Tensor:
        self.q, self.rotate, self.rotated = q, rotate, rotate(q)
        return self.rotated

    def psi(self, k: Tensor, layout: Layout, parameters: Any) -> Tensor:
        self.k = k
        return k


@torch.no_grad()
def _recorded(
    model: PreTrainedModel, module: nn.Module, site: Site, keys: _Keys, feature: Coca, ids: Tensor, seed: int
) -> tuple[list[Scores], Rotate]:
    """What a layer of the model as it is does in each window, and the rotation at its positions."""
    generator = torch.Generator().manual_seed(seed)
    recorder, windows = _Recorder(), []
    inputs: list[Tensor] = []
    plain, site.slots = site.slots, dataclasses.replace(site.slots, feature=recorder)
    hook = keys.projection.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        for window in ids:
            model(window[None].to(model.device), use_cache=False)
            taken = torch.randperm(len(window), generator=generator)[:QUERIES].to(model.device)
            windows.append(_scores(module, site, recorder, inputs.pop(), keys, feature, taken))
    finally:
        hook.remove()
        site.slots = plain
    return windows, recorder.rotate


def _scores(
    module: Any, site: Site, recorder: _Recorder, inputs: Tensor, keys: _Keys, feature: Coca, taken: Tensor
) -> Scores:
    """The scores of one window, of which the queries `taken` are looked at."""
    scaling = getattr(module, "scaling", None) or module.head_dim**-0.5
    q, k = recorder.q.double(), recorder.k.double()
    heads, tokens = q.shape[1], q.shape[2]
    rotated = recorder.rotate(k)[0].repeat_interleave(heads // k.shape[1], dim=0)
    seen = torch.arange(tokens, device=q.device) <= taken[:, None]
    if (width := getattr(module, "sliding_window", None)) is not None:
        seen &= torch.arange(tokens, device=q.device) > taken[:, None] - width
    x = inputs[0].double()
    if keys.projection.bias is not None:
        x = torch.cat((x, x.new_ones(tokens, 1)), dim=-1)
    return Scores(
        inputs=x,
        features=feature.query(q, recorder.rotate, site.layout)[0][:, taken] * scaling,
        targets=recorder.rotate(q)[0][:, taken] @ rotated.mT * scaling,
        seen=seen,
    )
