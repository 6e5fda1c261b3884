"""`longspan extend`: put methods into a model and save it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from longspan.cli.options import Again, Common, Model, with_common

if TYPE_CHECKING:
    from torch import Tensor


@with_common
def run(
    model: Model,
    method: Annotated[str, typer.Option(help="Methods, joined by a plus: yarn, coca+yarn, coca(form=slack)+ntk.")],
    target_length: Annotated[str, typer.Option(metavar="LENGTH", help="Tokens it shall read, such as 32k.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to save to.")],
    original_length: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="Tokens it was trained on, if its config does not say.")
    ] = None,
    again: Again = False,
    start: Annotated[
        Literal["mean", "random", "fit"] | None,
        typer.Option(
            help="What CoCA's t begins as: the mean of the halves of the keys, random, or fitted to the scores."
        ),
    ] = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="Text or folder to fit on (--start fit).")] = None,
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
    if start == "fit" and text is None:
        raise ConfigError("--start fit needs --text FILE, ordinary text to fit on")
    if text is not None and start != "fit":
        raise ConfigError("--text has no effect without --start fit: leave it out")
    from longspan import surgery
    from longspan.models import has_tokenizer, save_model
    from longspan.registry import methods_to_json, parse_methods

    methods = parse_methods(method)
    common.prepare()
    tokenizer = common.load_tokenizer(model) if has_tokenizer(model) else None
    loaded = common.load_model(model)
    lengths: dict[str, Any] = {"target_length": target, "original_length": original, "again": again}
    if start is None:
        patch = surgery.extend(loaded, methods, **lengths)
    else:
        ids = None if text is None else _windows(text, tokenizer, original or surgery.original_length(loaded))
        patch = surgery.convert(loaded, methods, start=start, ids=ids, seed=common.seed or 0, **lengths)
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


def _windows(text: Path, tokenizer: Any, length: int) -> Tensor:
    """Windows of `length` tokens, evenly spread over the text, LongTensor [windows, length]."""
    import torch

    from longspan import surgery
    from longspan.data.text import read_documents
    from longspan.errors import DataError

    if tokenizer is None:
        raise DataError("the model has no tokenizer, so --text cannot be read: put its tokenizer into the folder")
    documents = [document.text for document in read_documents(text)]
    encoded = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    ids = torch.tensor([token for document in encoded for token in document])
    if len(ids) < length:
        raise DataError(f"{text} has {len(ids)} tokens, less than one window of {length}: give more text")
    whole = ids[: len(ids) // length * length].view(-1, length)
    return whole[torch.linspace(0, len(whole) - 1, min(len(whole), surgery.FIT_WINDOWS)).long()]
