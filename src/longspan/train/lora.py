"""Low-rank adapters by peft on an extended model: which tensors learn, and what is written of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from longspan.errors import ConfigError
from longspan.surgery.families import family_of
from longspan.surgery.projection import HalfKeys
from longspan.train.config import LoraSettings

if TYPE_CHECKING:
    from peft import PeftModel


def add_lora(model: PreTrainedModel, settings: LoraSettings, seed: int) -> PeftModel:
    """Put adapters into `model`, in place; they learn, and with them what the settings name, and nothing else.

    Raises:
        ConfigError: peft is not installed, or a target is no linear layer of the model.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigError("'lora' needs peft: pip install 'longspan[peft]', or leave lora out") from error
    targets = _targets(model, settings.targets)
    more = _embeddings_and_norms(model) if settings.train_embeddings_and_norms else {}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=settings.dropout,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    for module in more.values():  # in place: peft's own way would hold every one of them twice
        module.requires_grad_(True)
    return adapted


def learning_tensors(model: nn.Module) -> dict[str, list[int]]:
    """Names and shapes of the tensors that learn."""
    return {name: list(weight.shape) for name, weight in model.named_parameters() if weight.requires_grad}


def save_adapter(adapted: PeftModel, folder: Path, *, extended: bool) -> None:
    """Write the adapter as peft reads it, with the embeddings and norms that learned beside it.

    Args:
        extended: whether the base on the disk lacks the methods that the adapter was trained with. Then the folder
            names no base, which would load without them, and has a config.json that tells the methods.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    base: Any = adapted.get_base_model()
    whole = _learning_modules(base)
    config: Any = adapted.peft_config["default"]
    tensors = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for name in whole:
        for part, weight in base.get_submodule(name).named_parameters():
            tensors[f"base_model.model.{name}.{part}"] = weight
    before = config.modules_to_save, config.base_model_name_or_path, config.inference_mode, config.ensure_weight_tying
    config.modules_to_save, config.inference_mode = whole or None, True
    config.ensure_weight_tying = bool(whole) and base.config.tie_word_embeddings
    if extended:
        config.base_model_name_or_path = None
        base.config.save_pretrained(folder)
    config.save_pretrained(folder)
    config.modules_to_save, config.base_model_name_or_path, config.inference_mode, config.ensure_weight_tying = before
    # peft looks for the head under its own name even where it is tied, and safetensors writes no tensor twice
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / "adapter_model.safetensors", {"format": "pt"})


def _targets(model: PreTrainedModel, wanted: list[str] | None) -> list[str]:
    """The last names of the linear layers that get an adapter."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = {name.rpartition(".")[2] for name in linear}
    if wanted is None:
        attention = family_of(model).attention_class
        sites = [name for name, module in model.named_modules() if isinstance(module, (attention, HalfKeys))]
        return sorted({name.rpartition(".")[2] for name in linear if name.rpartition(".")[0] in sites})
    for name in wanted:
        if name not in found:
            raise ConfigError(f"lora.targets: the model has no linear layer '{name}': choose from {_listed(found)}")
    return sorted(set(wanted))


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _embeddings_and_norms(model: PreTrainedModel) -> dict[str, nn.Module]:
    """By kind and not by a piece of the name, which differs between families (`norm`, `ln_f`, `wte`)."""
    embeddings = model.get_input_embeddings()
    kinds = {name: module for name, module in model.named_modules() if not list(module.children())}
    return {
        name: module
        for name, module in kinds.items()
        if module is embeddings or ("Norm" in type(module).__name__ and list(module.parameters()))
    }


def _learning_modules(base: PreTrainedModel) -> list[str]:
    """Modules that learn themselves, adapters aside; a head that is tied to the embeddings is one, too."""
    return [
        name
        for name, module in base.named_modules()
        if "lora_" not in name and any(weight.requires_grad for weight in module.parameters(recurse=False))
    ]
