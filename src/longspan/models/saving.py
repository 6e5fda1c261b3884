"""A model and its tokenizer as one folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.errors import StorageError
from longspan.files import replacing_folder


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, out: Path) -> None:
    """Write the folder `out`, replacing what is there; transformers loads it.

    Raises:
        StorageError: the disk is full or the place cannot be written; nothing is left behind.
    """
    try:
        with replacing_folder(out) as part:
            model.save_pretrained(part)
            if tokenizer is not None:
                tokenizer.save_pretrained(part)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise StorageError(f"cannot write {out}: {error}; free some space or choose another place") from error
