"""One way in for every model: a Hugging Face folder, one saved by longspan, a llama2.c checkpoint, a hub name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from longspan.errors import CheckpointError, ConfigError
from longspan.files import file_hash, value_hash
from longspan.models.config_file import check_config, read_json
from longspan.models.llama2c import find_checkpoint, llama2c_config, load_llama2c, read_header
from longspan.models.own_code import runs_own_code, tokenizer_runs_own_code
from longspan.models.vocabulary import find_vocabulary, load_vocabulary

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_device(device: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` names here; `auto` is the accelerator if there is one.

    Raises:
        ConfigError: another name, or an accelerator that is not there.
    """
    if device not in {"auto", "cpu", "cuda"}:
        raise ConfigError(f"unknown device '{device}': write auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no CUDA device here; use --device cpu")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if use_cuda else "cpu")


def _torch_dtype(dtype: str | None) -> torch.dtype | None:
    if dtype is None:
        return None
    if dtype not in _DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}': write {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def load(name_or_folder: str | Path, *, trust_remote_code: bool = False, **kwargs: Any) -> PreTrainedModel:
    """The model at a folder or name, extended by longspan or plain, with the keywords of `from_pretrained`.

    Args:
        name_or_folder: as for `load_model`.
        trust_remote_code: run the code that a model brings; without it such a model is refused.

    Raises:
        CheckpointError, MethodError: as `load_model`.
        ConfigError: keywords that a llama2.c checkpoint does not take.
    """
    checkpoint = _llama2c_checkpoint(Path(name_or_folder))
    if checkpoint is None:
        return _from_pretrained(name_or_folder, trust_remote_code, **kwargs)
    if kwargs:
        raise ConfigError(f"{checkpoint} is a llama2.c checkpoint, which takes no {', '.join(kwargs)}: leave it out")
    return load_llama2c(checkpoint)


def load_model(
    name_or_folder: str | Path,
    *,
    device: str = "auto",
    dtype: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """The causal language model at a folder or name, in evaluation mode.

    Args:
        name_or_folder: a Hugging Face folder (plain, or saved by longspan: its methods come back into force), a
            llama2.c checkpoint or its folder, or a hub name (only this asks the network).
        device: auto, cpu or cuda.
        dtype: float32, bfloat16 or float16; None keeps the checkpoint's own.
        trust_remote_code: run the code that a model brings; without it such a model is refused.

    Raises:
        CheckpointError: missing, truncated, corrupt, not a language model, weights that are pickled, or code that is
            not trusted.
        ConfigError: no such device or dtype.
        MethodError: saved by longspan with a method that is not installed here.
    """
    where, kind = torch_device(device), _torch_dtype(dtype)
    path = Path(name_or_folder)
    checkpoint = _llama2c_checkpoint(path)
    if checkpoint is not None:
        model: PreTrainedModel = load_llama2c(checkpoint)
        return model.to(device=where, dtype=kind or model.dtype)
    model = _from_pretrained(name_or_folder, trust_remote_code, dtype=kind if kind is not None else "auto")
    return model.to(where).eval()


def load_masked_model(name_or_folder: str | Path, *, device: str = "auto") -> PreTrainedModel:
    """The masked language model at a Hugging Face folder or hub name, float32, in evaluation mode.

    Raises:
        CheckpointError: as `load_model`.
        ConfigError: no such device.
    """
    model = _from_pretrained(name_or_folder, False, AutoModelForMaskedLM, dtype=torch.float32)
    return model.to(torch_device(device)).eval()


def load_outline(name_or_folder: str | Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model without its weights (tensors on torch's `meta` device): shapes, sizes and names, read in no time.

    Raises:
        CheckpointError, MethodError: as `load_model`.
    """
    path = Path(name_or_folder)
    checkpoint = _llama2c_checkpoint(path)
    config: PreTrainedConfig
    trusted = False
    if checkpoint is not None:
        config = llama2c_config(read_header(checkpoint))
    else:
        if path.is_dir():
            check_config(path)
        else:
            _check_hub_name(name_or_folder)
        with _checkpoint_errors(name_or_folder, "model", local=path.is_dir()):
            trusted = runs_own_code(name_or_folder, trusted=trust_remote_code)
            config = AutoConfig.from_pretrained(
                str(name_or_folder), local_files_only=path.is_dir(), trust_remote_code=trusted
            )
    with torch.device("meta"), _checkpoint_errors(name_or_folder, "model", local=path.is_dir()):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trusted).eval()


def has_tokenizer(name_or_folder: str | Path) -> bool:
    """Whether a tokenizer lies with the model; a hub name is taken to have one."""
    path = Path(name_or_folder)
    if _llama2c_checkpoint(path) is not None:
        return find_vocabulary(path if path.is_dir() else path.parent) is not None
    return not path.is_dir() or any((path / name).is_file() for name in _TOKENIZER_FILES)


def load_tokenizer(name_or_folder: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that belongs to the model at a folder or name (as in `load_model`).

    Raises:
        CheckpointError: there is none, it is corrupt, or it brings code that is not trusted.
    """
    path = Path(name_or_folder)
    if _llama2c_checkpoint(path) is not None:
        folder = path if path.is_dir() else path.parent
        vocabulary = find_vocabulary(folder)
        if vocabulary is None:
            raise CheckpointError(f"{folder} holds no vocabulary: put llama2.c's tokenizer.bin or tok512.bin there")
        return load_vocabulary(vocabulary)
    if path.is_dir():
        if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            check_config(path)  # which names the class of some tokenizers
        _check_tokenizer(path)
    else:
        _check_hub_name(name_or_folder)
    with _checkpoint_errors(name_or_folder, "tokenizer", local=path.is_dir()):
        trusted = tokenizer_runs_own_code(name_or_folder, trusted=trust_remote_code)
        return AutoTokenizer.from_pretrained(
            str(name_or_folder), local_files_only=path.is_dir(), trust_remote_code=trusted
        )


def _llama2c_checkpoint(path: Path) -> Path | None:
    if path.is_file():
        return path
    if path.is_dir() and not (path / "config.json").exists():
        return find_checkpoint(path)
    return None


def _check_hub_name(name: str | Path) -> None:
    if isinstance(name, Path) or not _HUB_NAME.fullmatch(name):
        raise CheckpointError(f"{name} does not exist: give a model folder, a llama2.c checkpoint, or a hub name")


def _check_folder(folder: Path) -> None:
    check_config(folder)
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{folder} holds pickled weights, which can run code when read: convert them to safetensors first"
        )
    raise CheckpointError(f"{folder} holds no weights: model.safetensors is missing")


def _check_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    if not path.is_file():
        if has_tokenizer(folder):
            return
        raise CheckpointError(f"{folder} holds no tokenizer: tokenizer.json is missing")
    read_json(path)
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise CheckpointError(f"{path} is corrupt: {_first_line(error)}; copy it again") from error


def _from_pretrained(
    name: str | Path, trust_remote_code: bool, auto_class: Any = AutoModelForCausalLM, **kwargs: Any
) -> PreTrainedModel:
    local = Path(name).is_dir()
    if local:
        _check_folder(Path(name))
    else:
        _check_hub_name(name)
    with _checkpoint_errors(name, "model", local=local):
        settings = {"use_safetensors": True, "local_files_only": local, **kwargs}
        settings["trust_remote_code"] = runs_own_code(name, trusted=trust_remote_code)
        model, info = auto_class.from_pretrained(str(name), **settings, output_loading_info=True)
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would start these from random values and go on
        raise CheckpointError(f"{name} lacks {len(missing)} of the model's weights ({missing[0]}, ...): copy it again")
    return model


@contextlib.contextmanager
def _checkpoint_errors(name: str | Path, part: str, *, local: bool) -> Iterator[None]:
    """Turn the many ways in which libraries refuse a checkpoint into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except SafetensorError as error:
        raise CheckpointError(f"{name}: a safetensors file is truncated or corrupt ({_first_line(error)})") from error
    except StrictDataclassError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{name}: config.json cannot be used ({reason}): correct it there") from error
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        if local:
            raise CheckpointError(f"{name}: the {part} cannot be read ({_first_line(error)})") from error
        raise CheckpointError(
            f"{name} is neither a folder here nor a {part} that the hub gives ({_first_line(error)})"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def fingerprint(name_or_folder: str | Path) -> str | None:
    """A hash of a model's config and weights on disk; None for a hub name."""
    path = Path(name_or_folder)
    checkpoint = _llama2c_checkpoint(path)
    if checkpoint is not None:
        return file_hash(checkpoint)[:12]
    if not path.is_dir():
        return None
    files = [path / "config.json", *sorted(path.glob("*.safetensors"))]
    return value_hash({file.name: file_hash(file) for file in files})
