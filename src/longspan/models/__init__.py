"""Models and tokenizers by folder or name: Hugging Face, longspan's own, llama2.c."""

from longspan.models.loading import (
    fingerprint,
    has_tokenizer,
    load,
    load_masked_model,
    load_model,
    load_outline,
    load_tokenizer,
    torch_device,
)
from longspan.models.saving import save_model

__all__ = [
    "fingerprint",
    "has_tokenizer",
    "load",
    "load_masked_model",
    "load_model",
    "load_outline",
    "load_tokenizer",
    "save_model",
    "torch_device",
]
