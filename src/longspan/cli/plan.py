"""`longspan plan`: what extending a model would change and cost; writes nothing."""

from __future__ import annotations

import dataclasses
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
    plan = None
    if method is not None:
        plan = surgery.plan(outline, method, target_length=target, original_length=original)
    present = surgery.current_methods(outline)
    dtype = common.dtype or str(outline.dtype).removeprefix("torch.")
    result: dict[str, Any] = {
        "model": model,
        "original_length": original,
        "target_length": target,
        "factor": target / original,
        "methods": _spelled(present),
        "suggestions": _suggestions(target / original),
        "memory": _memory(outline, original, target, dtype),
        "plan": None if plan is None else plan.to_json(),
    }
    typer.echo(
        f"{model}: {format_length(original)} -> {format_length(target)} tokens, factor {target / original:g}; "
        f"methods in force: {result['methods']}"
    )
    if plan is not None:
        typer.echo(f"\n{plan}")
    _print_table(
        result["suggestions"], note="rules of thumb from the papers: measure yours with `longspan eval --extend`"
    )
    _print_table(result["memory"], note=f"in {dtype}, one sequence, without activations")
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


def _memory(outline: Any, original: int, target: int, dtype: str) -> list[dict[str, Any]]:
    from longspan.planner import doublings, memory

    parameters = sum(parameter.numel() for parameter in outline.parameters())
    rows = [memory(outline.config, parameters, length, dtype) for length in doublings(original, target)]
    return [{**dataclasses.asdict(row), "total": row.total} for row in rows]


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
