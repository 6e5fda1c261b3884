"""Folders whose methods no plain model has: a modeling file of a few lines that takes the classes from longspan."""

from __future__ import annotations

import functools
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from longspan.surgery.families import FAMILIES, Family
from longspan.surgery.saved import install_saved, patched_classes

MODULE = "modeling_longspan"
"""Name of the modeling file."""

_SOURCE = '''"""The classes of this model. Its attention is made by the package longspan, which must be installed."""

try:
    from longspan.export.remote import classes_of
except ImportError as error:
    raise ImportError("this model's attention is made by the package longspan: install it, then load again") from error

_Config, _Decoder, _CausalLM = classes_of("{model_type}")


class Longspan{prefix}Config(_Config):
    pass


class Longspan{prefix}Model(_Decoder):
    config_class = Longspan{prefix}Config


class Longspan{prefix}ForCausalLM(_CausalLM):
    config_class = Longspan{prefix}Config
'''


def modeling_source(family: Family) -> str:
    """The text of the modeling file."""
    return _SOURCE.format(model_type=family.model_type, prefix=family.class_prefix)


def auto_map(family: Family) -> dict[str, str]:
    """What config.json says of the modeling file. vLLM wants the config first."""
    start = f"{MODULE}.Longspan{family.class_prefix}"
    return {"AutoConfig": f"{start}Config", "AutoModel": f"{start}Model", "AutoModelForCausalLM": f"{start}ForCausalLM"}


def classes_of(model_type: str) -> tuple[type[PreTrainedConfig], type[PreTrainedModel], type[PreTrainedModel]]:
    """Config, decoder and causal language model of a family, with the methods that the config names.

    Args:
        model_type: transformers' own, such as `llama`.
    """
    family = FAMILIES[model_type]
    config_class, model_class = patched_classes(family)
    return config_class, decoder_class(family), model_class


@functools.cache
def decoder_class(family: Family) -> type[PreTrainedModel]:
    """The patched model without its head, which is what vLLM builds."""
    plain: type[PreTrainedModel] = MODEL_MAPPING[family.config_class]

    def build(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        plain.__init__(self, config, *args, **kwargs)
        install_saved(self, family)

    return type(
        f"Longspan{family.class_prefix}Model",
        (plain,),
        {
            "__init__": build,
            "config_class": patched_classes(family)[0],
            "__module__": __name__,
            "__doc__": "A decoder that applies the methods in its config.",
        },
    )
