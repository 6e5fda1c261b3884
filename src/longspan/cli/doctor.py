"""`longspan doctor`: proof that a change of a model took effect and broke nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli.options import Common, Model, with_common


@with_common
def run(
    model: Model,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The plain model it was made from; its settings are compared.")
    ] = None,
    *,
    common: Common,
) -> None:
    """Examine an extended model: is the change in effect, and is all else as it was?

    Ends with exit code 1 if a check fails. It needs no data and no accelerator.
    """
    from longspan.doctor import doctor
    from longspan.models import has_tokenizer, load_outline

    common.prepare()
    outline = None if against is None else load_outline(against, trust_remote_code=common.trust_remote_code)
    loaded = common.load_model(model)
    tokenizer = common.load_tokenizer(model) if Path(model).is_dir() and has_tokenizer(model) else None
    report = doctor(loaded, against=outline, tokenizer=tokenizer, seed=common.seed or 0)
    typer.echo(str(report))
    common.write({"path": model, "against": against, **report.to_json()})
    if not report.passed:
        raise typer.Exit(1)
