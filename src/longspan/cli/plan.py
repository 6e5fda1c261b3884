"""`longspan plan`: what extending a model would change and cost; writes nothing."""

from __future__ import annotations

import dataclasses
import types
from typing import Annotated, Any

import typer

from longspan.cli.options import Common, Model, with_common


@with_common
def run(
    model: Model,
    target_length: Annotated[str, typer.Option(metavar="LENGTH", help="Tokens it shall read, such as 32k.")],
    method: Annotated[str | None, typer.Option(help="Also list what these methods would change.")] = None,
    original_length: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="Tokens it was trained on, if its config does not say.")
    ] = None,
    *,
    common: Common,
) -> None:
    """Say which methods reach a length, and at what cost."""
    from longspan.errors import LengthError
    from longspan.lengths import format_length, parse_length

    target = parse_length(target_length)
    from longspan import surgery
    from longspan.models import load_outline
    from longspan.surgery.families import family_of

    common.prepare()
    outline = load_outline(model)
    family_of(outline)  # an unknown family is refused by name before anything else is asked of it
    original = surgery.original_length(outline) if original_length is None else parse_length(original_length)
    if target < original:
        raise LengthError(f"--target-length {target} is shorter than the trained length {original}: give a longer one")
    plan = surgery.plan(outline, method or "none", target_length=target, original_length=original)
    present = surgery.current_methods(outline)
    dtype = common.dtype or str(outline.dtype).removeprefix("torch.")
    result: dict[str, Any] = {
        "model": model,
        "original_length": original,
        "target_length": target,
        "factor": target / original,
        "methods": _spelled(present),
        "suggestions": _suggestions(target / original),
        "memory": _memory(outline, plan, dtype),
        "plan": None if method is None else plan.to_json(),
    }
    typer.echo(
        f"{model}: {format_length(original)} -> {format_length(target)} tokens, factor {target / original:g}; "
        f"methods in force: {result['methods']}"
    )
    if method is not None:
        typer.echo(f"\n{plan}")
    _print_table(
        result["suggestions"], note="rules of thumb from the papers: measure yours with `longspan eval --extend`"
    )
    _print_table(
        result["memory"], note=f"in {dtype}, one sequence, without activations; methods: {_spelled(plan.methods)}"
    )
    common.write(result)


def _spelled(methods: Any) -> str:
    from longspan.registry import format_methods

    return format_methods(methods)


def _suggestions(factor: float) -> list[dict[str, str]]:
    from longspan.planner import SUGGESTIONS

    return [
        {"method": item.method, f"at factor {factor:g}": item.verdict(factor), "training": item.training}
        for item in SUGGESTIONS
    ]


def _memory(outline: Any, plan: Any, dtype: str) -> list[dict[str, Any]]:
    from longspan.planner import doublings, memory

    parameters = sum(parameter.numel() for parameter in outline.parameters())
    lengths = doublings(plan.window.original_length, plan.window.target_length)
    width = _key_width(outline.config, plan)
    rows = [memory(outline.config, parameters, length, dtype, key_width=width) for length in lengths]
    return [{**dataclasses.asdict(row), "total": row.total} for row in rows]


def _key_width(config: Any, plan: Any) -> int:
    """Numbers that a cached key takes, told from one key that goes the way of the patched attention."""
    import torch

    from longspan.equation import initial_parameters
    from longspan.planner import head_dim
    from longspan.surgery.attention import ATTRIBUTE, Site, apply_features
    from longspan.surgery.rotary import LongspanRotary

    slots, window = plan.slots, plan.window
    parameters = initial_parameters(slots, 1, window.rotary_dim)
    site = Site(slots, window.rotary_dim, window.layout, tuple(parameters))
    module = types.SimpleNamespace(**{ATTRIBUTE: site}, **parameters)
    key = torch.zeros(1, 1, 1, head_dim(config))
    rotation = LongspanRotary(slots, window)(key, torch.zeros(1, 1, dtype=torch.long))
    return apply_features(key, key, module, rotation)[1].shape[-1]


def _print_table(rows: list[dict[str, Any]], note: str) -> None:
    from longspan.lengths import format_length
    from longspan.planner import format_bytes

    def cell(name: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        return format_length(value) if name == "length" else format_bytes(value)

    table = [list(rows[0]), *([cell(name, value) for name, value in row.items()] for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    typer.echo("")
    for line in table:
        typer.echo("  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip())
    typer.echo(f"({note})")
