"""`longspan plan`: what extending a model would change, give and cost; writes nothing."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from longspan.cli.options import Common, Model, with_common


@with_common
def run(
    model: Model,
    target_length: Annotated[str, typer.Option(metavar="LENGTH", help="Tokens it shall read, such as 32k.")],
    method: Annotated[
        str | None, typer.Option(help="Look at these methods, and list what they would change (what is recommended).")
    ] = None,
    original_length: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="Tokens it was trained on, if its config does not say.")
    ] = None,
    train: Annotated[
        bool | None, typer.Option("--train/--no-train", help="Want training, or rule it out (what the factor needs).")
    ] = None,
    serve: Annotated[
        Literal["transformers", "vllm", "sglang", "llama.cpp"],
        typer.Option(help="The server that the recommendation must suit."),
    ] = "transformers",
    *,
    common: Common,
) -> None:
    """Say which methods reach a length, what they need and cost, and which to take.

    Reads the config alone, here or on the hub: no weights are needed.
    """
    from longspan.lengths import parse_length

    target = parse_length(target_length)
    original = None if original_length is None else parse_length(original_length)
    import torch

    from longspan.models import load_outline
    from longspan.planner.overview import overview
    from longspan.planner.text import describe

    common.prepare()
    found = overview(
        load_outline(model, trust_remote_code=common.trust_remote_code),
        target,
        methods=method,
        original_length=original,
        dtype=None if common.dtype is None else getattr(torch, common.dtype),
        train=train,
        serve=serve,
    )
    typer.echo(describe(found, model))
    if method is not None:
        typer.echo(f"\nChanges:\n{found.plan}")
    common.write({"model": model, **found.to_json()})
