"""llama2.c checkpoints (version 0): one file of float32 weights, read into a Hugging Face Llama.

Source    github.com/karpathy/llama2.c, `export.py` (legacy_export) and `run.c` (memory_map_weights).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from longspan.errors import CheckpointError

_HEADER = struct.Struct("<7i")
_LARGEST = 1 << 24  # no field of a real header is larger; text or another format read as integers is
_BOS = 1
_EOS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The seven integers in front of the weights."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab_size: int
    train_length: int
    tied: bool
    """The output projection is the embedding (the file says so by the sign of its vocabulary size)."""

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of each stack of weights, in the file's order."""
        kv_dim = self.kv_heads * self.head_dim
        layers, dim, hidden = self.layers, self.dim, self.hidden_dim
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (self.vocab_size, dim),
            "input_layernorm": (layers, dim),
            "self_attn.q_proj": (layers, dim, dim),
            "self_attn.k_proj": (layers, kv_dim, dim),
            "self_attn.v_proj": (layers, kv_dim, dim),
            "self_attn.o_proj": (layers, dim, dim),
            "post_attention_layernorm": (layers, dim),
            "mlp.gate_proj": (layers, hidden, dim),
            "mlp.down_proj": (layers, dim, hidden),
            "mlp.up_proj": (layers, hidden, dim),
            "norm": (dim,),
            "cos": (self.train_length, self.head_dim // 2),
            "sin": (self.train_length, self.head_dim // 2),
        }
        return shapes if self.tied else {**shapes, "lm_head": (self.vocab_size, dim)}

    @property
    def file_size(self) -> int:
        """Bytes of a whole file."""
        return _HEADER.size + 4 * sum(math.prod(shape) for shape in self.shapes().values())


def is_llama2c(path: Path) -> bool:
    """Whether `path` starts like a llama2.c checkpoint; the rest of it may still be missing."""
    if path.suffix != ".bin" or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
    if len(start) < _HEADER.size:
        return False
    dim, hidden_dim, layers, heads, kv_heads, vocab_size, length = _HEADER.unpack(start)
    plausible = all(0 < value < _LARGEST for value in (dim, hidden_dim, layers, heads, kv_heads, length))
    return plausible and 0 < abs(vocab_size) < _LARGEST and dim % heads == 0 and heads % kv_heads == 0


def find_checkpoint(folder: Path) -> Path | None:
    """The one llama2.c checkpoint in `folder`, or None.

    Raises:
        CheckpointError: there are several, so the user has to name one.
    """
    found = [path for path in sorted(folder.glob("*.bin")) if is_llama2c(path)]
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(f"{folder} holds several llama2.c checkpoints ({names}): name the file you mean")
    return found[0] if found else None


def read_header(path: Path) -> Header:
    """The header of `path`, checked against the size of the file.

    Raises:
        CheckpointError: not a llama2.c checkpoint, or its size is not what the header says.
    """
    if not is_llama2c(path):
        raise CheckpointError(f"{path} is not a llama2.c checkpoint: its first 28 bytes are no header of one")
    with path.open("rb") as file:
        dim, hidden_dim, layers, heads, kv_heads, vocab_size, length = _HEADER.unpack(file.read(_HEADER.size))
    header = Header(
        dim=dim,
        hidden_dim=hidden_dim,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        vocab_size=abs(vocab_size),
        train_length=length,
        tied=vocab_size > 0,
    )
    size = path.stat().st_size
    if size != header.file_size:
        raise CheckpointError(
            f"{path} is truncated or corrupt: {size} bytes where its header asks for {header.file_size}; copy it again"
        )
    return header


def _half_split(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of a q or k projection from interleaved pairs (2i, 2i + 1) to Hugging Face's pairs (i, i + D/2)."""
    rows, dim = weight.shape
    return weight.view(rows // head_dim, head_dim // 2, 2, dim).transpose(1, 2).reshape(rows, dim)


def _read_weights(path: Path, header: Header) -> dict[str, Tensor]:
    values = np.fromfile(path, dtype="<f4", offset=_HEADER.size)
    weights, start = {}, 0
    for name, shape in header.shapes().items():
        end = start + math.prod(shape)
        weights[name] = torch.from_numpy(values[start:end].reshape(shape))
        start = end
    return weights


def _state_dict(weights: dict[str, Tensor], header: Header) -> dict[str, Tensor]:
    state = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norm"]}
    state["lm_head.weight"] = weights["embedding"] if header.tied else weights["lm_head"]
    per_layer = [name for name in weights if name not in {"embedding", "norm", "cos", "sin", "lm_head"}]
    for layer in range(header.layers):
        for name in per_layer:
            weight = weights[name][layer]
            if name in {"self_attn.q_proj", "self_attn.k_proj"}:
                weight = _half_split(weight, header.head_dim)
            state[f"model.layers.{layer}.{name}.weight"] = weight
    return state


def llama2c_config(header: Header) -> LlamaConfig:
    """The Hugging Face config of a checkpoint with this header."""
    return LlamaConfig(
        hidden_size=header.dim,
        intermediate_size=header.hidden_dim,
        num_hidden_layers=header.layers,
        num_attention_heads=header.heads,
        num_key_value_heads=header.kv_heads,
        vocab_size=header.vocab_size,
        max_position_embeddings=header.train_length,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=header.tied,
        bos_token_id=_BOS,
        eos_token_id=_EOS,
        dtype=torch.float32,
    )


def load_llama2c(path: Path) -> LlamaForCausalLM:
    """The checkpoint at `path` as a float32 Hugging Face Llama on the CPU.

    Raises:
        CheckpointError: not a llama2.c checkpoint, truncated, or corrupt.
    """
    header = read_header(path)
    model = LlamaForCausalLM(llama2c_config(header))
    model.load_state_dict(_state_dict(_read_weights(path, header), header))
    model.generation_config.eos_token_id = [_BOS, _EOS]  # run.c stops at BOS, which parted the training texts
    return model.eval()
