"""One file that llama.cpp and what is built on it load: weights, rope keys and vocabulary.

Source    github.com/ggml-org/llama.cpp: src/models/{llama,qwen2,qwen3}.cpp; conversion/llama.py (which rows move)
Checked   llama.cpp itself: greedy tokens of a trained model and logits of each family, beyond the trained window
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longspan.errors import CheckpointError, FamilyError
from longspan.export.card import model_card
from longspan.export.gguf_rope import GgufRope, gguf_rope
from longspan.export.gguf_tokenizer import GgufVocabulary, gguf_vocabulary
from longspan.records import Record
from longspan.registry import format_methods
from longspan.surgery import Plan
from longspan.surgery.families import head_dim

_FILE_TYPES = {
    torch.float32: (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    torch.float16: (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
    torch.bfloat16: (gguf.LlamaFileType.MOSTLY_BF16, gguf.GGMLQuantizationType.BF16),
}


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What llama.cpp computes a family with."""

    kind: gguf.MODEL_ARCH
    interleaved: bool = False
    """Whether its pairs are (2i, 2i + 1), so that rows of q and k move."""
    pair_factors: bool = False
    """Whether it reads `rope_freqs.weight`, a factor for each pair."""
    output_bias: bool = False
    """Whether its attention has an output bias."""


_ARCHITECTURES = {
    "llama": _Architecture(gguf.MODEL_ARCH.LLAMA, interleaved=True, pair_factors=True, output_bias=True),
    "mistral": _Architecture(gguf.MODEL_ARCH.LLAMA, interleaved=True, pair_factors=True),
    "qwen2": _Architecture(gguf.MODEL_ARCH.QWEN2),
    "qwen3": _Architecture(gguf.MODEL_ARCH.QWEN3),
}


_DESCRIPTIONS = {
    "base": "the base of its frequencies",
    "linear": "linear scaling",
    "yarn": "its YaRN",
    "factors": "a factor for each pair (`rope_freqs.weight`)",
}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Everything that goes into the file, checked, before anything is written."""

    model: PreTrainedModel
    plan: Plan
    rope: GgufRope
    vocabulary: GgufVocabulary

    def write(self, path: Path, name: str) -> None:
        """Write it to `path`; `name` is what clients show."""
        writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[_ARCHITECTURES[self.plan.family.model_type].kind])
        window = self.plan.window
        writer.add_name(name)
        what = f"{format_methods(self.plan.methods)}: {window.original_length} -> {window.target_length} tokens"
        writer.add_description(f"{what}; {self.vocabulary.caveat}" if self.vocabulary.caveat else what)
        writer.add_file_type(_FILE_TYPES[self.model.dtype][0])
        _add_sizes(writer, self.model, window.target_length)
        _add_rope(writer, self.rope)
        self.vocabulary.write(writer)
        for tensor_name, tensor in self._tensors():
            kind = _kind(tensor)
            size = tensor.numel() * gguf.GGML_QUANT_SIZES[kind][1]
            writer.add_tensor_info(tensor_name, tensor.shape, np.dtype(np.float32), size, raw_dtype=kind)
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for _, tensor in self._tensors():  # one at a time: a copy of all would not fit beside a large model
                writer.write_tensor_data(gguf.quants.quantize(tensor.float().cpu().numpy(), _kind(tensor)))
        finally:
            writer.close()

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Weights under llama.cpp's names, their rows in its order."""
        model, architecture = self.model, _ARCHITECTURES[self.plan.family.model_type]
        names = gguf.get_tensor_name_map(architecture.kind, model.config.num_hidden_layers)
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        for name, tensor in model.state_dict().items():
            if tied and name == "lm_head.weight":  # llama.cpp takes the embedding where there is no other
                continue
            found = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert found is not None, name
            moves = architecture.interleaved and (".q_proj." in name or ".k_proj." in name)
            yield found, _interleaved(tensor, head_dim(model.config)) if moves else tensor
        if self.rope.pair_factors is not None:
            yield "rope_freqs.weight", torch.tensor(self.rope.pair_factors)


def gguf_file(model: PreTrainedModel, plan: Plan, tokenizer: PreTrainedTokenizerBase | None) -> GgufFile:
    """The model as a GGUF file says it.

    Raises:
        FamilyError: llama.cpp computes the family otherwise, or this export does not know it.
        MethodError: no rope keys say what the methods do.
        CheckpointError: there is no tokenizer.
        DataError: llama.cpp cuts text otherwise.
    """
    rope = gguf_rope_of(model, plan)
    if tokenizer is None:
        raise CheckpointError("a GGUF file holds the vocabulary, but no tokenizer lies with the model: put it there")
    stops = model.generation_config.eos_token_id
    if stops is None:
        stops = [] if tokenizer.eos_token_id is None else tokenizer.eos_token_id
    rows = model.get_input_embeddings().weight.shape[0]
    return GgufFile(model, plan, rope, gguf_vocabulary(tokenizer, rows, stops if isinstance(stops, list) else [stops]))


def gguf_rope_of(model: PreTrainedModel, plan: Plan) -> GgufRope:
    """The rope keys of a model's file; weights are not asked for, so its outline will do.

    Raises:
        FamilyError, MethodError: as `gguf_file`.
    """
    architecture = _ARCHITECTURES.get(plan.family.model_type)
    if architecture is None:
        raise FamilyError(
            f"GGUF export knows {', '.join(_ARCHITECTURES)}, not {plan.family.model_type}: export with --to hf"
        )
    _check_model(model, plan, architecture)
    return gguf_rope(plan, takes_factors=architecture.pair_factors)


def gguf_card(file: GgufFile, title: str, records: Sequence[Record]) -> str:
    """The model card of a folder that holds `file`."""
    window = file.plan.window
    notes = ["llama.cpp makes angles in float32 and keeps keys and values in float16 unless it is told otherwise."]
    if file.vocabulary.caveat is not None:
        notes.append(f"{file.vocabulary.caveat}.")
    return model_card(
        title,
        file.plan.methods,
        window.original_length,
        window.target_length,
        how=f"llama.cpp computes it, by {_DESCRIPTIONS[file.rope.kind]} in `model.gguf`.",
        loading=f"```bash\nllama-cli --model model.gguf --ctx-size {window.target_length}\n```",
        notes=notes,
        records=records,
        library="gguf",
    )


def _check_model(model: PreTrainedModel, plan: Plan, architecture: _Architecture) -> None:
    """Refuse settings of a family that llama.cpp does not read."""
    config, reason = model.config, None
    sliding = getattr(config, "sliding_window", None)
    if plan.window.rotary_dim != head_dim(config):
        reason = "head that rotates in part"
    elif config.hidden_act not in ("silu", "swish"):
        reason = f"activation '{config.hidden_act}'"
    elif sliding is not None and sliding < plan.window.target_length:
        reason = f"sliding window of {sliding} tokens, shorter than the target"
    elif plan.family.model_type == "qwen2" and head_dim(config) * config.num_attention_heads != config.hidden_size:
        reason = "heads that are not hidden_size wide together"
    elif not architecture.output_bias and getattr(config, "attention_bias", False):
        reason = "biases in its attention"
    elif model.dtype not in _FILE_TYPES:
        reason = f"weights in {model.dtype}"
    if reason is not None:
        raise FamilyError(f"llama.cpp's {plan.family.model_type} has no {reason}: export with --to hf")


def _add_sizes(writer: gguf.GGUFWriter, model: PreTrainedModel, target_length: int) -> None:
    config, width = model.config, head_dim(model.config)
    writer.add_context_length(target_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(model.get_input_embeddings().weight.shape[0])


def _add_rope(writer: gguf.GGUFWriter, rope: GgufRope) -> None:
    writer.add_rope_freq_base(rope.base)
    if rope.attention_factor != 1:
        writer.add_rope_scaling_attn_factors(rope.attention_factor)
    if rope.kind in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope.kind))
        writer.add_rope_scaling_factor(rope.factor)
    if rope.kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope.original_length)


def _interleaved(weight: Tensor, width: int) -> Tensor:
    """Rows of a q or k projection (or its bias) from pairs (i, i + D/2) to pairs (2i, 2i + 1)."""
    return weight.unflatten(0, (-1, 2, width // 2)).transpose(1, 2).reshape(weight.shape)


def _kind(tensor: Tensor) -> gguf.GGMLQuantizationType:
    """Matrices keep their precision; vectors are float32, in which llama.cpp computes with them."""
    return gguf.GGMLQuantizationType.F32 if tensor.dim() == 1 else _FILE_TYPES[tensor.dtype][1]
