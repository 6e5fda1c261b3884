"""The model that all arms begin with, and its tokenizer: made new, or read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaForMaskedLM,
)

from longspan.data.text import read_documents
from longspan.data.tokenizer import tokenizer_hash, train_tokenizer
from longspan.errors import CheckpointError, DataError
from longspan.files import replacing_folder, value_hash
from longspan.models import load_masked_model, load_model, load_tokenizer
from longspan.systems.hprompt_cpt.config import CptConfig
from longspan.systems.hprompt_cpt.domains import texts
from longspan.train.sizes import find_size, initialise

MASK = "<mask>"


def make_tokenizer(config: CptConfig, folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of the model named, or one learned from the base text and all domains, kept below `folder`.

    Raises:
        CheckpointError: the model named is masked, and its tokenizer has no mask token.
        DataError: text is missing, unreadable or empty.
    """
    if config.model.from_ is not None:
        tokenizer = load_tokenizer(config.model.from_)
        if not config.model.causal and tokenizer.mask_token_id is None:
            raise CheckpointError(f"{config.model.from_}: its tokenizer has no mask token; set model.kind to causal")
        return tokenizer
    assert config.base is not None
    assert config.model.vocab_size is not None
    learned = [document.text for document in read_documents(config.base.text, field=config.base.field)]
    for domain in config.domains.values():
        learned += texts(domain)
    place = folder / f"tokenizer-{value_hash([learned, config.model.vocab_size])}"
    if not place.is_dir():
        with replacing_folder(place) as part:
            tokenizer = train_tokenizer(learned, config.model.vocab_size, part / "plain")
            shutil.rmtree(part / "plain")
            tokenizer.add_special_tokens({"mask_token": MASK})
            tokenizer.save_pretrained(part)
    return load_tokenizer(place)


def new_model(config: CptConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A model with random weights whose window holds the text and the longest prompt. It has no dropout."""
    assert config.model.size is not None
    shape, window = find_size(config.model.size), config.length + config.longest_prompt
    pad = tokenizer.pad_token_id
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": window,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": pad,
    }
    model: PreTrainedModel
    if config.model.family == "roberta":
        # its positions begin behind that of padding
        places = {**shared, "max_position_embeddings": window + pad + 1, "intermediate_size": 4 * shape.width}
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        model = RobertaForMaskedLM(RobertaConfig(**places, **still, type_vocab_size=1))
    elif config.model.family == "modernbert":
        ends = {"cls_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.eos_token_id}
        model = ModernBertForMaskedLM(ModernBertConfig(**shared, **ends))
    else:
        model = LlamaForCausalLM(LlamaConfig(**shared, tie_word_embeddings=True, initializer_range=shape.width**-0.5))
    initialise(model, seed)
    return model


def load_backbone(
    folder: str | Path, *, causal: bool, tokenizer: PreTrainedTokenizerBase | None = None
) -> PreTrainedModel:
    """The model in `folder`, on the processor, float32.

    Raises:
        CheckpointError: it cannot be read.
        DataError: the tokenizer saved beside it is not the `tokenizer` of the run.
    """
    if tokenizer is not None and tokenizer_hash(load_tokenizer(folder)) != tokenizer_hash(tokenizer):
        raise DataError(
            f"{folder} was trained with another tokenizer than this run has: stages must share one; begin anew"
        )
    if causal:
        return load_model(folder, device="cpu", dtype="float32")
    return load_masked_model(folder, device="cpu")
