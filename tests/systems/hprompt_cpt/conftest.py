"""Tiny masked and causal models, batches, and a stream of three domains of made-up words."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from longspan.data.positions import IGNORED
from longspan.systems.hprompt_cpt.config import CptConfig
from longspan.systems.hprompt_cpt.windows import Batch
from longspan.train import sizes

VOCAB, WINDOW, LENGTH = 40, 24, 12
_SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 1,
}
_ENDS = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 0)
TINY = sizes.Size(layers=1, width=16, heads=2, intermediate=24, tied=True)


def make_backbone(kind: str, **settings: Any) -> PreTrainedModel:
    """A random roberta (learned positions), modernbert (rotary, masked) or llama (rotary, causal)."""
    shape = {**_SHAPE, "vocab_size": VOCAB, "max_position_embeddings": WINDOW, **settings}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel
        if kind == "roberta":
            still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
            model = RobertaForMaskedLM(RobertaConfig(**{**shape, "max_position_embeddings": WINDOW + 2}, **still))
        elif kind == "modernbert":
            model = ModernBertForMaskedLM(ModernBertConfig(**shape, **_ENDS, global_attn_every_n_layers=1))
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2))
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.2)
    return model.float().eval()


@pytest.fixture
def backbone() -> Callable[..., PreTrainedModel]:
    """backbone("roberta") is a tiny random model."""
    return make_backbone


def make_batch(rows: int = 3, length: int = LENGTH, seed: int = 0) -> Batch:
    """Random tokens, a third of them to predict."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCAB, (rows, length), generator=generator)
    chosen = torch.rand(rows, length, generator=generator) < 0.4
    chosen[:, -2] = True
    return Batch(ids.masked_fill(chosen, 3), torch.ones_like(ids, dtype=torch.bool), ids.masked_fill(~chosen, IGNORED))


@pytest.fixture
def batch() -> Batch:
    """Three full windows."""
    return make_batch()


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base.txt`, and for domains a, b and c a labelled train and test file; c alone has other words."""
    folder = tmp_path_factory.mktemp("domains")
    for place, name in enumerate("abc"):
        source = random.Random(place)
        words = ["".join(source.choices("abcdefghij", k=source.randint(2, 5))) for _ in range(30)]
        for part, count in (("train", 60), ("test", 20)):
            rows = []
            for _ in range(count):
                label = source.randint(0, 1)
                rows.append({"text": " ".join(source.choices(words[15 * label :][:15], k=12)), "label": f"l{label}"})
            (folder / f"{name}-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "base.txt").write_text(" ".join(random.Random(9).choices(["the", "sea", "was", "calm"], k=800)))
    return folder


@pytest.fixture
def cpt_config(texts: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CptConfig]:
    """cpt_config(arms={...}) is a valid tiny run with those settings changed."""
    monkeypatch.setitem(sizes.SIZES, "tiny", TINY)
    labelled = {name: {part: str(texts / f"{name}-{part}.jsonl") for part in ("train", "test")} for name in "ab"}
    base: dict[str, Any] = {
        "name": "tiny",
        "model": {"size": "tiny", "vocab_size": 300},
        "length": 12,
        "base": {"text": str(texts / "base.txt"), "steps": 2, "rows": 2},
        "domains": {**labelled, "c": {"text": str(texts / "c-train.jsonl")}},
        "arms": {"sequential": {}},
        "pretrain": {"steps": 4, "rows": 2, "save_every": 2, "log_every": 2},
        "finetune": {"steps": 2, "rows": 4},
        "device": "cpu",
        "threads": 1,
    }

    def make(**changes: object) -> CptConfig:
        return CptConfig.parse({**base, **changes}, "test")

    return make
