"""What can be wrong in a config.json that transformers would read otherwise than it was meant, or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longspan.errors import CheckpointError
from longspan.surgery.families import FAMILIES, GLOBAL, PREFIX, SCALING
from longspan.surgery.rotary import LOCAL


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        CheckpointError: it is missing, cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is corrupt: {str(error).partition(chr(10))[0]}; copy it again") from error


def check_config(folder: Path) -> None:
    """Refuse a folder without a config, and a config whose rope parameters are damaged.

    transformers fills what is missing in them with a default of its own, which is another model without a word.

    Raises:
        CheckpointError: what is wrong, and where.
    """
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise CheckpointError(f"{folder} holds an adapter alone: merge it into its model (peft's merge_and_unload)")
        raise CheckpointError(f"{folder} is no model folder: it holds neither config.json nor a llama2.c checkpoint")
    config = read_json(path)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no config of a model: copy it again")
    family = FAMILIES.get(str(config.get("model_type")).removeprefix(PREFIX))
    rope = config.get("rope_parameters")
    if family is None or family.base is not None or rope is None:  # older configs say it elsewhere, or in code
        return
    place = f"{path}: rope_parameters"
    if not isinstance(rope, dict):
        raise CheckpointError(f"{place} must be a table, not {rope!r}: take them from the original model")
    for layer_type in (GLOBAL, LOCAL) if family.nested else (None,):
        part = rope if layer_type is None else rope.get(layer_type)
        if not isinstance(part, dict):
            raise CheckpointError(f"{place} has no part '{layer_type}', as {family.model_type} needs: {_FROM_ORIGINAL}")
        _check_part(place if layer_type is None else f"{place}['{layer_type}']", part, config)


_FROM_ORIGINAL = "take it from the original model"


def _check_part(place: str, rope: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    theta = rope.get("rope_theta", config.get("rope_theta"))
    if theta is None:
        raise CheckpointError(f"{place} has lost rope_theta, and a default would take its place: {_FROM_ORIGINAL}")
    if isinstance(theta, bool) or not isinstance(theta, int | float) or theta <= 1:
        raise CheckpointError(f"{place} has rope_theta {theta!r}, which must be a number above 1: {_FROM_ORIGINAL}")
    kind = rope.get("rope_type", "default")
    if kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
        raise CheckpointError(f"{place} has rope_type '{kind}', which transformers does not know: load a plain model")
    for key in SCALING[kind][1] if kind in SCALING else ():
        if rope.get(key) is None:
            raise CheckpointError(f"{place} has rope_type '{kind}' but no {key}: {_FROM_ORIGINAL}")
