"""`longspan export`: write a model as a folder or file that other tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from longspan.cli.options import Common, with_common


@with_common
def run(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Saved by longspan, or a plain Hugging Face folder.")],
    to: Annotated[
        Literal["hf", "vllm", "gguf"], typer.Option(help="What shall load it: transformers, vLLM, or llama.cpp.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; for llama.cpp also one file, NAME.gguf.")],
    records: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Records for the model card (DIR/records.jsonl if it is there).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
    *,
    common: Common,
) -> None:
    """Write a model as a folder that other tools load, or as one GGUF file.

    Plain where the tool's own rope types say what the methods do, else with a file that imports longspan; what
    llama.cpp cannot compute is refused. GGUF needs `pip install longspan[gguf]`.
    """
    from longspan.export import export
    from longspan.export.vllm import command
    from longspan.lengths import format_length
    from longspan.registry import format_methods, methods_to_json

    common.prepare()
    done = export(
        folder,
        out,
        to=to,
        records=records,
        overwrite=overwrite,
        device=common.device or "auto",
        dtype=common.dtype,
    )
    form = "with code that imports longspan" if done.code else f"plain, rope type {done.rope_type}"
    if to == "gguf":
        form = f"for llama.cpp, rope by {done.rope_type}"
    lengths = f"{format_length(done.original_length)} -> {format_length(done.target_length)} tokens"
    typer.echo(f"{out}: {format_methods(done.methods)}, {lengths}; {form}")
    trained = [method for method in done.methods if method.only_trains()]
    if trained:
        typer.echo(f"{format_methods(trained)} acted in training only and is left out")
    if done.reason is not None:
        typer.echo(f"code because {done.reason}")
    if to == "vllm":
        line = command(str(out), done.target_length, code=done.code)
        typer.echo(f"vLLM grants {done.max_length} tokens: {line}")
    common.write(
        {
            "out": str(out),
            "to": to,
            "methods": methods_to_json(done.methods),
            "original_length": done.original_length,
            "target_length": done.target_length,
            "code": done.code,
            "reason": done.reason,
            "rope_type": done.rope_type,
            "max_length": done.max_length,
        }
    )
