"""Write a model as a folder that other tools load, or refuse what a format cannot say."""

from __future__ import annotations

import copy
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from longspan import surgery
from longspan.equation import Method, initial_parameters
from longspan.errors import CheckpointError, ConfigError, DataError, StorageError
from longspan.export import vllm
from longspan.export.card import model_card
from longspan.export.remote import MODULE, auto_map, modeling_source
from longspan.export.rope_types import InexpressibleError, plain_config, rope_type, with_default_rope
from longspan.files import replacing, replacing_folder
from longspan.models import has_tokenizer, load_model, load_tokenizer
from longspan.records import Record, read_records
from longspan.registry import format_methods, methods_to_json

Format = Literal["hf", "vllm", "gguf"]
GGUF_SUFFIX = ".gguf"
"""A place to write to that ends so is one file, not a folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    out: Path
    to: Format
    methods: tuple[Method, ...]
    original_length: int
    target_length: int
    code: bool
    """Whether the folder needs longspan, by a modeling file; else transformers alone loads it."""
    reason: str | None
    """Why it needs longspan."""
    rope_type: str
    """Of config.json; of a GGUF file `base`, `linear`, `yarn` or, with a factor for each pair, `factors`."""
    max_length: int
    """Tokens that the target grants by its own rules."""


@dataclass(frozen=True, slots=True)
class _Form:
    """How a folder says what the methods do."""

    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    reason: str | None = None
    """Why it takes code; None if the config says it all."""


def export(
    folder: str | Path,
    out: str | Path,
    *,
    to: Format = "hf",
    records: str | Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    dtype: str | None = None,
) -> Exported:
    """Write the model at `folder` to the new folder `out`, or to the file `out` if its name ends in `.gguf`.

    Args:
        folder: saved by longspan, or a plain Hugging Face folder; it is only read.
        to: `hf`, for transformers without longspan where its rope types can say what the methods do, else with a
            modeling file that imports longspan; `vllm`, with lengths as vLLM reads them; `gguf`, one file for
            llama.cpp, which stands in `out` as `model.gguf` if that is a folder.
        records: a records.jsonl, or a folder with one, for the model card; None takes that of `folder` if it has one.
        overwrite: replace `out`.
        device, dtype: as `load_model`; a dtype converts the weights.

    Raises:
        ConfigError: `out` exists, an unknown format, or `gguf` without the package of that name.
        MethodError, FamilyError: the format cannot say what the methods do.
        CheckpointError: `folder` is no model folder, damaged, or has an adapter beside the model.
        DataError: `records` holds none of these methods, or llama.cpp cuts text otherwise than the tokenizer.
        StorageError: the disk is full or the place cannot be written; nothing is left behind.
    """
    folder, out = Path(folder), Path(out)
    if to not in get_args(Format):
        raise ConfigError(f"unknown format '{to}': choose from {', '.join(get_args(Format))}")
    if to == "gguf":
        _check_gguf(out, records)
    _check_out(folder, out, overwrite)
    model = load_model(folder, device=device, dtype=dtype)
    if getattr(model, "_hf_peft_config_loaded", False):  # it would be saved without the model
        raise CheckpointError(f"{folder} has an adapter beside the model: merge it by peft's merge_and_unload first")
    plan = surgery.plan(model, ())
    tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
    if to == "gguf":
        return _export_gguf(model, plan, tokenizer, out, _records(folder, records, plan.methods))
    form = _form(model, plan, to)
    result = _result(out, to, plan, form, tokenizer)
    text = _card(result, plan, _records(folder, records, plan.methods))
    try:
        with replacing_folder(out) as part:
            _write(model, form, plan, part)
            if tokenizer is not None:
                tokenizer.save_pretrained(part)
            (part / "README.md").write_text(text, encoding="utf-8")
    except SafetensorError as error:  # how safetensors reports a full disk
        raise StorageError(f"cannot write {out}: {error}; free some space or choose another place") from error
    return result


def _check_out(folder: Path, out: Path, overwrite: bool) -> None:
    """Refuse a place that is taken, before anything is loaded.

    Raises:
        ConfigError: it is taken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise ConfigError(f"{out} exists: choose another --out, or replace it with --overwrite")
    if out.resolve() == folder.resolve():
        raise ConfigError(f"{out} is the model itself: choose another --out")


def _check_gguf(out: Path, records: str | Path | None) -> None:
    """Refuse what is missing for a GGUF file, before anything is loaded.

    Raises:
        ConfigError: the package gguf is not installed, or records are given and there is no card to hold them.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError("a GGUF file needs the package gguf: pip install 'longspan[gguf]'")
    if out.suffix == GGUF_SUFFIX and records is not None:
        raise ConfigError(f"{out} is one file without a model card, so records have no place: name a folder, or none")


def _export_gguf(
    model: PreTrainedModel,
    plan: surgery.Plan,
    tokenizer: PreTrainedTokenizerBase | None,
    out: Path,
    records: list[Record],
) -> Exported:
    """Write the model as one file, in a folder with a model card or alone."""
    from longspan.export.gguf import gguf_card, gguf_file  # whose package is optional

    file = gguf_file(model, plan, tokenizer)
    if out.suffix == GGUF_SUFFIX:
        with replacing(out) as part:
            file.write(part, out.stem)
    else:
        with replacing_folder(out) as part:
            file.write(part / f"model{GGUF_SUFFIX}", out.name)
            (part / "README.md").write_text(gguf_card(file, out.name, records), encoding="utf-8")
    return Exported(
        out=out,
        to="gguf",
        methods=plan.methods,
        original_length=plan.window.original_length,
        target_length=plan.window.target_length,
        code=False,
        reason=None,
        rope_type=file.rope.kind,
        max_length=plan.window.target_length,
    )


def _form(model: PreTrainedModel, plan: surgery.Plan, to: Format) -> _Form:
    """The plain form if there is one, else the one with code."""
    if to == "vllm":
        vllm.check_methods(plan)
    if not hasattr(model.config, "longspan"):
        return _Form(copy.deepcopy(model.config), type(model))
    try:
        adapt = (lambda config: vllm.adapted(config, plan)) if to == "vllm" else None
        return _Form(plain_config(model.config, plan, adapt), plan.family.model_class)
    except InexpressibleError as error:
        if to == "vllm":
            vllm.check_backend(plan)
        config = with_default_rope(model.config)
        config.auto_map = auto_map(plan.family)
        used = [method for method in plan.methods if not method.only_trains()]
        config.longspan = {**config.longspan, "methods": methods_to_json(used)}
        return _Form(config, type(model), str(error))


def _result(
    out: Path, to: Format, plan: surgery.Plan, form: _Form, tokenizer: PreTrainedTokenizerBase | None
) -> Exported:
    target = plan.window.target_length
    if tokenizer is not None:
        tokenizer.model_max_length = max(tokenizer.model_max_length, target)
    if to == "vllm":
        limit = None if tokenizer is None else tokenizer.model_max_length
        longest = vllm.vllm_max_length(form.config.to_dict(), limit)
    else:
        longest = target
    return Exported(
        out=out,
        to=to,
        methods=plan.methods,
        original_length=plan.window.original_length,
        target_length=target,
        code=form.reason is not None,
        reason=form.reason,
        rope_type=rope_type(form.config),
        max_length=longest,
    )


def _write(model: PreTrainedModel, form: _Form, plan: surgery.Plan, part: Path) -> None:
    """Weights, config and modeling file. The model is dressed as what is written, which decides how experts lie."""
    model.config = form.config
    model.__class__ = form.model_class
    model.save_pretrained(part)
    if form.reason is not None:
        (part / f"{MODULE}.py").write_text(modeling_source(plan.family), encoding="utf-8")


def _records(folder: Path, records: str | Path | None, methods: tuple[Method, ...]) -> list[Record]:
    """Those measured with these methods."""
    if records is None and not (folder / "records.jsonl").is_file():
        return []
    found, spelled = read_records(Path(records or folder)), format_methods(methods)
    taken = [record for record in found if record.method == spelled]
    if records is not None and not taken:
        others = ", ".join(sorted({record.method for record in found})) or "nothing"
        raise DataError(f"{records} holds no record of {spelled}, only of {others}: give records of this model")
    return taken


def _card(result: Exported, plan: surgery.Plan, records: list[Record]) -> str:
    kind = f"rope type `{result.rope_type}`"
    how = f"transformers' own {plan.family.model_class.__name__} computes it, by {kind} in config.json."
    trust = ""
    if result.code:
        trust = ", trust_remote_code=True"
        how = (
            f"{result.reason}. So the folder has a `model_type` of its own, and `{MODULE}.py` takes the classes from "
            "the package longspan, which must be installed; transformers alone refuses the folder."
        )
    loading = (
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{result.out.name}"{trust})\n```'
    )
    return model_card(
        result.out.name,
        plan.methods,
        result.original_length,
        result.target_length,
        how=how,
        loading=loading,
        notes=_notes(result, plan),
        records=records,
    )


def _notes(result: Exported, plan: surgery.Plan) -> list[str]:
    notes = []
    trained = [method for method in result.methods if method.only_trains()]
    if trained:
        notes.append(f"`{format_methods(trained)}` acted in training only and is not part of this folder.")
    if result.code:
        notes.append("With `import longspan` before it, the same line needs no `trust_remote_code`.")
    if result.rope_type == "dynamic" and not result.code:
        notes.append(
            "transformers leaves cached keys at the base of their own time, takes one base for a whole batch and keeps "
            "a grown one until an input shorter than the trained window comes; longspan turns all keys by the current "
            "base. A fresh model's full forward is the same in both."
        )
    if result.to == "vllm":
        notes.append(f"Serve it: `{vllm.command(result.out.name, result.target_length, code=result.code)}`")
        notes.append(vllm.describe_length(result.rope_type, result.max_length))
        if result.code:
            notes.append(
                "vLLM needs longspan in its own environment, whose plug-in gives the model to vLLM's Transformers "
                "backend."
            )
        feature = plan.slots.feature
        if initial_parameters(plan.slots, 1, plan.window.rotary_dim) or (feature is not None and feature.halves_keys()):
            notes.append("Each copy of the model must fit one GPU: what its methods learned is not split over several.")
        notes.append("The lengths and classes follow vLLM's source; this export was not run in vLLM.")
    return notes
