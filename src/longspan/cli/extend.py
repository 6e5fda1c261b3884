"""`longspan extend`: put methods into a model and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli.options import Common, Model, with_common


@with_common
def run(
    model: Model,
    method: Annotated[str, typer.Option(help="Methods, joined by a plus: yarn, coca+yarn, coca(form=slack)+ntk.")],
    target_length: Annotated[str, typer.Option(metavar="LENGTH", help="Tokens it shall read, such as 32k.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to save to.")],
    original_length: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="Tokens it was trained on, if its config does not say.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DIR if it exists.")] = False,
    *,
    common: Common,
) -> None:
    """Lengthen a model's window and save the model.

    The folder loads by AutoModelForCausalLM once longspan is imported.
    """
    from longspan.errors import ConfigError
    from longspan.lengths import parse_length

    target = parse_length(target_length)
    original = None if original_length is None else parse_length(original_length)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise ConfigError(f"{out} exists: choose another --out, or replace it with --overwrite")
    if out.resolve() == Path(model).resolve():
        raise ConfigError(f"{out} is the model itself: choose another --out")
    from longspan import surgery
    from longspan.models import has_tokenizer, load_tokenizer, save_model
    from longspan.registry import methods_to_json, parse_methods

    methods = parse_methods(method)
    common.prepare()
    tokenizer = load_tokenizer(model) if has_tokenizer(model) else None
    loaded = common.load_model(model)
    patch = surgery.extend(loaded, methods, target_length=target, original_length=original)
    save_model(loaded, tokenizer, out)
    typer.echo(str(patch.plan))
    if tokenizer is None:
        common.say(f"{model} has no tokenizer, so {out} has none either")
    common.say(f"saved {out}; load it by longspan.load, or AutoModelForCausalLM once longspan is imported")
    common.write(
        {
            "out": str(out),
            "methods": methods_to_json(surgery.current_methods(loaded)),
            "original_length": surgery.original_length(loaded),
            "target_length": surgery.target_length(loaded),
            "plan": str(patch.plan).splitlines(),
        }
    )
