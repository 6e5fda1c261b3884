"""`longspan search`: find LongRoPE's factors for a model, and save it extended with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from longspan.cli.interrupts import interrupts
from longspan.cli.options import Common, Model, with_common


@with_common
def run(
    model: Model,
    target_length: Annotated[str, typer.Option(metavar="LENGTH", help="Tokens it shall read, such as 32k.")],
    text: Annotated[str, typer.Option(metavar="FILE_OR_DIR", help="Long text to judge the factors by.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the log and the model; a second call goes on.")],
    budget: Annotated[
        int | None, typer.Option(min=1, help="Forward passes at the target length at most (all that the rounds take).")
    ] = None,
    population: Annotated[int, typer.Option(min=4, help="Vectors to begin with; half are kept a round.")] = 64,
    rounds: Annotated[int, typer.Option(min=0, help="Rounds of mutants and crossovers.")] = 40,
    documents: Annotated[
        int | None, typer.Option(min=1, help="Pieces of text that each vector reads (5, or what the text holds).")
    ] = None,
    start_tokens: Annotated[
        bool, typer.Option("--start-tokens", help="Search how many first tokens stay as they are (only longspan can).")
    ] = False,
    original_length: Annotated[
        str | None, typer.Option(metavar="LENGTH", help="Tokens it was trained on, if its config does not say.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pieces at a time (by memory).")] = None,
    *,
    common: Common,
) -> None:
    """Search the factors of long_rope for a model and save it extended.

    An evolution from PI, NTK and YaRN, judged by perplexity at the target length. DIR gets search.jsonl, a line for
    each vector, and at the end the folder model. A search that was stopped goes on where it was.
    """
    from longspan import evaluate, surgery
    from longspan.lengths import parse_length
    from longspan.models import save_model
    from longspan.search import FactorSearch, SearchFolder, SearchSettings

    target = parse_length(target_length)
    original = None if original_length is None else parse_length(original_length)
    settings = SearchSettings(
        population=population, rounds=rounds, budget=budget, start_tokens=start_tokens, seed=common.seed or 0
    )
    common.prepare()
    tokenizer = common.load_tokenizer(model)
    read = _pieces(tokenizer, text, target, documents)
    loaded = common.load_model(model)
    search = FactorSearch(
        loaded,
        read,
        target_length=target,
        original_length=original,
        settings=settings,
        bos_id=tokenizer.bos_token_id,
        batch_size=batch_size,
    )
    folder = SearchFolder(out, _protocol(model, search))
    evaluate.check_finite(loaded, search.space.window.original_length)

    def keep(individual: Any) -> None:
        folder.keep(individual)
        interrupts.check()

    with folder.opened() as done:
        found = search.run(done=done, on_individual=keep, progress=not common.quiet)
        patch = surgery.extend(loaded, [found.method], target_length=target, original_length=original)
        save_model(loaded, tokenizer, folder.model)
    for name, perplexity in found.perplexities.items():
        typer.echo(f"{name:5}  perplexity {perplexity:.5g}")
    typer.echo(str(patch.plan))
    common.say(f"{found.individuals} vectors, {found.forward_passes} forward passes on {len(read)} pieces of {text}")
    common.say(f"saved {folder.model}; load it by longspan.load, or AutoModelForCausalLM once longspan is imported")
    common.write(
        {
            "out": str(folder.model),
            **patch.plan.saved(),
            "perplexity": found.perplexities,
            "individuals": found.individuals,
            "forward_passes": found.forward_passes,
        }
    )


def _pieces(tokenizer: Any, text: str, length: int, documents: int | None) -> list[Any]:
    """Tokens of the pieces of text that every vector is judged by."""
    import torch

    from longspan.data.text import read_documents
    from longspan.search import pieces

    tokens = (
        torch.tensor(tokenizer(document.text, add_special_tokens=False, verbose=False).input_ids, dtype=torch.long)
        for document in read_documents(text)
    )
    return pieces(tokens, length + 1, documents)


def _protocol(name: str, search: Any) -> dict[str, Any]:
    """What decides the number of a vector: numbers of two kinds do not belong in one folder."""
    from longspan import surgery
    from longspan.files import value_hash
    from longspan.models import fingerprint
    from longspan.registry import format_methods

    model, window = search.model, search.space.window
    return {
        "model": fingerprint(name) or name,
        "methods": format_methods(surgery.current_methods(model)),
        "original_length": window.original_length,
        "target_length": window.target_length,
        "text": value_hash([document.tolist() for document in search.documents]),
        "documents": len(search.documents),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config._attn_implementation,
    }
