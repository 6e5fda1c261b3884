"""Folders and files that other tools load: transformers without longspan, vLLM, llama.cpp."""

from longspan.export.folder import Exported, Format, export
from longspan.export.vllm import vllm_max_length

__all__ = ["Exported", "Format", "export", "vllm_max_length"]
