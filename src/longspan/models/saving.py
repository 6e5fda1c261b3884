"""A model and its tokenizer as one folder, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.errors import CheckpointError, StorageError
from longspan.files import replacing_folder


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, out: Path) -> None:
    """Write the folder `out`, replacing what is there; transformers loads it.

    Raises:
        CheckpointError: the model has an adapter loaded into it, of which transformers would save the adapter alone.
        StorageError: the disk is full or the place cannot be written; nothing is left behind.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise CheckpointError(
            "the model has an adapter beside its weights: merge it (merge_and_unload of peft), then save"
        )
    try:
        with replacing_folder(out) as part:
            model.save_pretrained(part)
            if tokenizer is not None:
                tokenizer.save_pretrained(part)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise StorageError(f"cannot write {out}: {error}; free some space or choose another place") from error
