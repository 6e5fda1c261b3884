"""`longspan generate`: let a model go on with a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longspan.cli.options import Common, Model, with_common


@with_common
def run(
    model: Model,
    prompt: Annotated[str, typer.Option(metavar="TEXT_OR_FILE", help="What to go on with.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 100,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most likely token; above 0 draws.")] = 0.0,
    *,
    common: Common,
) -> None:
    """Print the prompt's continuation."""
    text = _read(prompt)
    import torch

    from longspan.errors import DataError

    common.prepare()
    tokenizer = common.load_tokenizer(model)
    ids = tokenizer(text, return_tensors="pt", verbose=False).input_ids.long()
    if ids.shape[1] == 0:
        raise DataError("the prompt is empty and this tokenizer has no token to begin with: give --prompt a text")
    loaded = common.load_model(model)
    drawing = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    with torch.no_grad():
        made = loaded.generate(
            ids.to(loaded.device),
            attention_mask=torch.ones_like(ids, device=loaded.device),
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id or 0,
            **drawing,
        )
    new = made[0, ids.shape[1] :].tolist()
    # decoded with the prompt, since some tokenizers drop the blank that a text begins with
    before = tokenizer.decode(ids[0], skip_special_tokens=True)
    said = tokenizer.decode(made[0], skip_special_tokens=True)[len(before) :]
    typer.echo(said)
    common.write({"prompt": text, "text": said, "tokens": new})


def _read(prompt: str) -> str:
    """The prompt itself, or the content of the file that it names."""
    from longspan.errors import DataError

    try:
        if not Path(prompt).is_file():
            return prompt
    except OSError:  # too long for a file name: a text
        return prompt
    try:
        return Path(prompt).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{prompt} cannot be read as UTF-8 text: {error}") from error
