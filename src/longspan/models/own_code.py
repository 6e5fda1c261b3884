"""Models that bring code of their own (`auto_map`): it is named, and runs only if the user trusts it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from longspan.errors import CheckpointError
from longspan.surgery.families import PREFIX


def runs_own_code(name: str | Path, *, trusted: bool) -> bool:
    """Whether loading the model at a folder or hub name shall run code that comes with it.

    A folder that longspan exported brings code for processes without longspan; here it loads by its model_type.

    Raises:
        CheckpointError: it would run code, and is not trusted; the message names the file.
    """
    config = _model_config(name)
    if str(config.get("model_type")).startswith(PREFIX):
        return False
    references = _auto_map(config)
    known = config.get("model_type") in CONFIG_MAPPING_NAMES
    return _decide(name, [references.get(key) for key in ("AutoConfig", "AutoModelForCausalLM")], trusted, known)


def tokenizer_runs_own_code(name: str | Path, *, trusted: bool) -> bool:
    """The same for the tokenizer, whose code is named in tokenizer_config.json or config.json."""
    references = []
    for config in (get_tokenizer_config(str(name), local_files_only=Path(name).is_dir()), _model_config(name)):
        found = config.get("auto_map") if isinstance(config.get("auto_map"), list) else _auto_map(config)
        references.append(found.get("AutoTokenizer") if isinstance(found, Mapping) else found)
    return _decide(name, references, trusted, known=False)


def _decide(name: str | Path, references: list[Any], trusted: bool, known: bool) -> bool:
    files = _files(references)
    if files and not trusted:
        without = "; or remove auto_map from config.json to take transformers' own model" if known else ""
        raise CheckpointError(
            f"{name} brings code of its own ({', '.join(files)}), which would run: read it, then give "
            f"--trust-remote-code (trust_remote_code=True){without}"
        )
    return bool(files)


def _files(references: list[Any]) -> list[str]:
    """Files that references such as `repository--module.Class` lead to; a tokenizer has a pair of them."""
    flat = [one for some in references for one in (some if isinstance(some, list | tuple) else [some]) if one]
    found = [repository.replace("--", "/") + place for repository, place in map(_place, map(str, flat))]
    return list(dict.fromkeys(found))


def _place(reference: str) -> tuple[str, str]:
    repository, separator, name = reference.rpartition("--")
    return repository + separator, f"{name.rpartition('.')[0]}.py"


def _auto_map(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("auto_map")
    return found if isinstance(found, Mapping) else {}


def _model_config(name: str | Path) -> Mapping[str, Any]:
    """config.json as it stands; empty where a folder has none, as that of a tokenizer."""
    path = Path(name)
    if path.is_dir():
        file = path / "config.json"
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    else:
        found, _ = PreTrainedConfig.get_config_dict(str(name))
    return found if isinstance(found, Mapping) else {}
