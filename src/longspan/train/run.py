"""One training run in a folder: prepared, trained, saved; skipped if it is done, taken up where it stopped."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import ValidationError
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from longspan import surgery
from longspan.data.mixture import MixtureDataset
from longspan.errors import ConfigError, DataError
from longspan.files import alone_in, write_json, write_text
from longspan.models import load_model, torch_device
from longspan.records import append_records, read_records
from longspan.registry import format_methods, methods_to_json, parse_methods
from longspan.train import states
from longspan.train.callbacks import Interruption, LossRecords, ProgressBar, train_record
from longspan.train.config import RunConfig, changed_keys
from longspan.train.distill import Teacher
from longspan.train.prepare import Prepared, input_hashes, prepare
from longspan.train.sizes import build_plain_model, install_methods
from longspan.train.stages import Stages
from longspan.train.trainer import STATE_FOLDER, RunTrainer

RUN_FILE, PLAN_FILE, DATA_FILE, RECORDS_FILE = "run.yaml", "plan.json", "data.json", "records.jsonl"
CHECKPOINT = "checkpoint"


def train(config: RunConfig, out: Path | str, *, progress: bool = True) -> Path:
    """Train as `config` says in the folder `out`; returns `out/checkpoint`, a Hugging Face folder with tokenizer.

    A run that is done is left as it is if text, tokenizer and model are still what it read; one that was stopped or
    killed goes on from its last saved state to the same weights as without the stop (same machine, same `threads`).
    Beside the checkpoint the folder gets `run.yaml`, `plan.json`, `data.json` and `records.jsonl` (task `train`).

    Raises:
        ConfigError: `out` holds a run with other settings, or is in use.
        DataError, CheckpointError, MethodError: text, tokenizer, model or methods cannot be used, or one of the first
            three has changed since the run began.
        TrainingError: the loss is not a number; the state before that step is kept.
        StorageError: the disk is full; the last good state is kept.
        KeyboardInterrupt: after Ctrl-C; the state is saved first.
    """
    out = Path(out)
    with alone_in(out):
        checkpoint = out / CHECKPOINT
        _check_begun(config, out)
        write_text(out / RUN_FILE, config.to_yaml())
        if checkpoint.is_dir():
            if progress:
                _say(f"{out} is already done")
            return checkpoint
        states.remove_leftovers(out)
        states.remove_leftovers(out / STATE_FOLDER)
        _train(config, out, progress)
        if config.total_steps:  # more than twice the size of the model, and of no further use
            shutil.rmtree(out / STATE_FOLDER)
        return checkpoint


def _train(config: RunConfig, out: Path, progress: bool) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = torch_device(config.device)
    prepared = prepare(config, Path(config.data.cache) if config.data.cache else out / "data", progress=progress)
    state = _last_state(config, out)
    _keep_data(config, prepared, out, begun=state is not None)
    model, plan = _make_model(config, prepared, begun=state is not None)
    write_json(out / PLAN_FILE, plan)
    if config.total_steps:
        _take_steps(config, prepared, model, state, out, device, progress)
    else:
        write_text(out / RECORDS_FILE, "")
    with states.writing_folder(out / CHECKPOINT) as part, _no_bars():
        model.save_pretrained(part)
        prepared.tokenizer.save_pretrained(part)


def _take_steps(
    config: RunConfig,
    prepared: Prepared,
    model: PreTrainedModel,
    state: Path | None,
    out: Path,
    device: torch.device,
    progress: bool,
) -> None:
    """Train `model` in place, from `state` on."""
    method = format_methods(surgery.current_methods(model))
    teacher = None
    if config.distill is not None:
        teacher = Teacher.load(config.distill, prepared.tokenizer, model, config.train_length, device)
    bar, interruption = ProgressBar(config, shown=progress), Interruption()
    callbacks = [bar, LossRecords(config, method, out / RECORDS_FILE), interruption, Stages(config, model)]
    dataset = _windows(config, prepared, config.total_steps * config.batch_tokens // config.train_length)
    trainer = RunTrainer(
        config=config, model=model, dataset=dataset, out=out, device=device, callbacks=callbacks, teacher=teacher
    )
    with contextlib.closing(bar), interruption:
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    step = trainer.state.global_step
    if step < config.total_steps:
        assert interruption.asked
        raise KeyboardInterrupt(
            f"interrupted at step {step} of {config.total_steps}; {out} keeps the state: run the same again to go on"
        )
    append_records(out / RECORDS_FILE, [train_record(config, method, "seconds", round(trainer.seconds, 3), step)])


def _windows(config: RunConfig, prepared: Prepared, size: int) -> MixtureDataset:
    """The first `size` windows of the run."""
    return MixtureDataset(
        prepared.tokens, prepared.tokenizer, config.train_length, config.data.mixture, config.seed, size
    )


def _make_model(config: RunConfig, prepared: Prepared, *, begun: bool) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model before its first step, with its methods, and what `plan.json` says about them.

    Where the run has `begun`, weights will come from its state.
    """
    tokenizer, wanted = prepared.tokenizer, config.model
    if wanted.from_ is None:
        assert wanted.family is not None
        assert wanted.size is not None
        assert wanted.base is not None
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        model = build_plain_model(
            wanted.family,
            wanted.size,
            len(tokenizer),
            config.train_length,
            wanted.base,
            config.seed,
            rotary_pct=wanted.rotary_pct,
            token_ids=ids,
        )
        patch = install_methods(model, config.methods, config.train_length)
    else:
        model = load_model(wanted.from_, device="cpu", dtype="float32")
        if len(tokenizer) > model.config.vocab_size:
            raise DataError(
                f"the tokenizer has {len(tokenizer)} tokens and {wanted.from_} only {model.config.vocab_size}: "
                "leave data.tokenizer out to take the model's own"
            )
        patch = _patch(config, prepared, model, begun=begun)
    if config.train_length > surgery.target_length(model):
        raise ConfigError(
            f"train_length {config.train_length} is longer than the model's window of"
            f" {surgery.target_length(model)} tokens: set target_length and a method"
        )
    return model, _plan_values(model, patch)


def _patch(config: RunConfig, prepared: Prepared, model: PreTrainedModel, *, begun: bool) -> surgery.Patch | None:
    """Put the methods of the run into a trained model, and have CoCA's t begin as the settings say."""
    methods = parse_methods(config.methods)
    if config.start is None:
        if not methods:
            return None
        return surgery.extend(model, methods, target_length=config.target_length, again=config.again)
    start = "mean" if begun else config.start
    ids = None
    if start == "fit":
        windows = _windows(config, prepared, surgery.FIT_WINDOWS)
        ids = torch.stack([windows[number]["input_ids"] for number in range(len(windows))])
    return surgery.convert(
        model,
        methods,
        start=start,
        ids=ids,
        seed=config.seed,
        target_length=config.target_length,
        again=config.again,
    )


def _plan_values(model: PreTrainedModel, patch: surgery.Patch | None) -> dict[str, Any]:
    """What `plan.json` says: the methods in force and each place that this run patched."""
    values: dict[str, Any] = {
        "family": model.config.model_type,
        "methods": methods_to_json(surgery.current_methods(model)),
        "original_length": surgery.original_length(model),
        "target_length": surgery.target_length(model),
        "changes": [],
    }
    if patch is not None:
        values |= patch.plan.to_json()
    return {**values, "parameters": sum(parameter.numel() for parameter in model.parameters())}


def has_begun(out: Path) -> bool:
    """Whether the folder `out` holds a trained model or a saved state on the way to one."""
    return (out / CHECKPOINT).is_dir() or bool(states.saved_states(out / STATE_FOLDER))


def check_settings(config: RunConfig, out: Path) -> None:
    """Make sure that a run which has begun in `out` has the settings `config`; one that has not is free to change.

    Raises:
        ConfigError: it has others, named in the message, or its `run.yaml` is damaged.
    """
    path = out / RUN_FILE
    if not has_begun(out) or not path.exists():
        return
    try:
        old = yaml.safe_load(path.read_text(encoding="utf-8"))
        changed = changed_keys(_with_new_settings(old), config.to_json())
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: remove {out} or choose another place for the run") from error
    if changed:
        raise ConfigError(
            f"{out} holds a run with other settings ({', '.join(changed)}): choose another place or remove it"
        )


def _with_new_settings(old: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run as an earlier version wrote them; those that it did not have stand at their defaults."""
    try:
        return RunConfig.model_validate(old).to_json()
    except ValidationError:
        return old


def _check_begun(config: RunConfig, out: Path) -> None:
    """Make sure that a run which has begun has these settings and read these very inputs."""
    check_settings(config, out)
    path = out / DATA_FILE
    if not has_begun(out) or not path.exists():
        return
    old, new = _read_data(path).get("inputs", {}), input_hashes(config)
    named = {"data.text": config.data.text, "data.tokenizer": config.data.tokenizer, "model.from": config.model.from_}
    named["distill.from"] = config.distill.from_ if config.distill else None
    changed = [f"{name} ({named[name]})" for name in old if new.get(name) != old[name]]
    if changed:
        raise DataError(
            f"{' and '.join(changed)} has changed since the run in {out} began: restore it or choose another place"
        )


def _keep_data(config: RunConfig, prepared: Prepared, out: Path, *, begun: bool) -> None:
    """Write `data.json`, or check that a run that goes on reads the tokens it began with."""
    path, summary = out / DATA_FILE, prepared.summary
    if begun and path.exists() and _read_data(path)["tokens_sha256"] != summary["tokens_sha256"]:
        raise DataError(f"the tokens of {out} are not those it began with: restore text and tokenizer or begin anew")
    write_json(path, {**summary, "inputs": input_hashes(config)})


def _read_data(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: remove {path.parent} or choose another place for the run") from error
    return dict(values)


def _last_state(config: RunConfig, out: Path) -> Path | None:
    """The state to go on from; what was done after it is removed, since it will be done again."""
    state, warnings = states.newest_state(out / STATE_FOLDER)
    for warning in warnings:
        _say(warning)
    states.drop_damaged(out / STATE_FOLDER, state)
    seen = 0 if state is None else states.state_step(state) * config.batch_tokens
    records = out / RECORDS_FILE
    if records.exists():
        kept = [
            record
            for record in read_records(records)
            if record.task != "train" or (record.metric == "loss" and (record.n or 0) <= seen)
        ]
        write_text(records, "".join(json.dumps(asdict(record)) + "\n" for record in kept))
    return state


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar of its own while it writes."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
