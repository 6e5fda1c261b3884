"""One training run in a folder: prepared, trained, saved; skipped if it is done, taken up where it stopped."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from pydantic import ValidationError
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from longspan import surgery
from longspan.errors import ConfigError, DataError
from longspan.files import alone_in, write_json, write_text
from longspan.models import torch_device
from longspan.processes import Processes, lost_workers
from longspan.records import Record, append_records, read_records
from longspan.registry import format_methods
from longspan.train import snapshot, states
from longspan.train.arguments import STATE_FOLDER
from longspan.train.callbacks import Interruption, LossRecords, ProgressBar, TokensSeen, train_record
from longspan.train.config import RunConfig, changed_keys
from longspan.train.cost import PeakMemory, cost_records
from longspan.train.distill import Teacher
from longspan.train.lora import add_lora, learning_tensors, save_adapter
from longspan.train.model import make_model
from longspan.train.parallel import check_model, join
from longspan.train.positions import check_reach, placer_of
from longspan.train.prepare import Prepared, input_hashes, prepare
from longspan.train.preserve import Agreement
from longspan.train.stages import Stages
from longspan.train.trackers import check_trackers, trackers
from longspan.train.trainer import RunTrainer

if TYPE_CHECKING:
    from peft import PeftModel

RUN_FILE, PLAN_FILE, DATA_FILE, RECORDS_FILE = "run.yaml", "plan.json", "data.json", "records.jsonl"
CHECKPOINT, ADAPTER = "checkpoint", "adapter"


def train(config: RunConfig, out: Path | str, *, progress: bool = True) -> Path:
    """Train as `config` says in the folder `out`; returns `out/checkpoint`, a Hugging Face folder with tokenizer.

    A run that is done is left as it is if text, tokenizer and model are still what it read; one that was stopped or
    killed goes on from its last saved state to the same weights as without the stop (same machine, same `threads`).
    Beside the checkpoint the folder gets `run.yaml`, `plan.json`, `data.json` and `records.jsonl` (task `train`), and
    with `lora` the `adapter` by itself, which the checkpoint has merged into its weights.

    Raises:
        ConfigError: `out` holds a run with other settings, or is in use; a tracker is not installed.
        DataError, CheckpointError, MethodError: text, tokenizer, model or methods cannot be used, or one of the first
            three has changed since the run began.
        TrainingError: the loss is not a number; the state before that step is kept.
        StorageError: the disk is full; the last good state is kept.
        KeyboardInterrupt: after Ctrl-C; the state is saved first.
    """
    out = Path(out)
    device = torch_device(config.device)
    check_trackers(config.report_to)
    processes = join(config, device)
    with contextlib.ExitStack() as held:
        checkpoint = out / CHECKPOINT
        with processes.together():
            if processes.first:
                held.enter_context(alone_in(out))
                _begin(config, out)
        if processes.any(processes.first and checkpoint.is_dir()):
            if processes.first:
                _drop_states(out)  # a run killed at its very end still has them
                if progress:
                    _say(f"{out} is already done")
            return checkpoint
        _train(config, out, device, processes, progress and processes.first)
        if processes.first:
            _drop_states(out)
        return checkpoint


def _drop_states(out: Path) -> None:
    """Remove the states of a run that is done: more than twice the size of the model, and of no further use."""
    if (out / STATE_FOLDER).is_dir():
        shutil.rmtree(out / STATE_FOLDER)


def _begin(config: RunConfig, out: Path) -> None:
    """Make sure that this run belongs into the folder, and have nothing there that a killed one left half done."""
    _check_begun(config, out)
    write_text(out / RUN_FILE, config.to_yaml())
    states.remove_leftovers(out, RUN_FILE, PLAN_FILE, DATA_FILE, RECORDS_FILE)
    states.remove_leftovers(out / STATE_FOLDER)


def _prepare(config: RunConfig, out: Path, processes: Processes, progress: bool) -> tuple[Prepared, Path | None]:
    """What the run reads, and the state it goes on from: found by the first process, then read by the others."""
    folder = Path(config.data.cache) if config.data.cache else out / "data"
    step = 0
    with processes.together():
        if processes.first:
            prepared = prepare(config, folder, progress=progress)
            settled = prepared.settled(config)
            state = _last_state(settled, out, prepared.tokens_seen(settled))
            _keep_data(settled, prepared, out, begun=state is not None)
            step = 0 if state is None else states.state_step(state)
    with processes.together():
        if not processes.first:
            if not (out / DATA_FILE).exists():
                raise ConfigError(f"{out} must be on a file system that all machines of the run share: choose another")
            prepared = prepare(config, folder, progress=False)
    step = int(processes.gather(step)[0])
    return prepared, states.state_folder(out / STATE_FOLDER, step) if step else None


def _train(config: RunConfig, out: Path, device: torch.device, processes: Processes, progress: bool) -> None:
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    prepared, state = _prepare(config, out, processes, progress)
    memory = PeakMemory(device)
    for note in prepared.notes if progress else ():
        _say(note)
    config = prepared.settled(config)
    with processes.together():
        model, plan = make_model(config, prepared, begun=state is not None)
        check_model(config, model)
        adapted = None if config.lora is None else add_lora(model, config.lora, config.seed)
        if processes.first:
            write_json(out / PLAN_FILE, plan | ({} if adapted is None else {"learning": learning_tensors(adapted)}))
    records = []
    if config.total_steps:
        seconds = _take_steps(config, prepared, model, adapted, state, out, device, processes, progress)
        records = cost_records(seconds, config.total_steps, memory.bytes(), processes)
    weights = snapshot.model_tensors(adapted or model) if config.parallel.fsdp else None  # gathered by all
    with processes.together():
        if processes.first:
            append_records(out / RECORDS_FILE, records)
            if adapted is not None:
                if weights is not None:
                    assert config.lora is not None  # adapters are merged into whole weights only
                    adapted = add_lora(make_model(config, prepared, begun=True)[0], config.lora, config.seed)
                    adapted.load_state_dict(weights, strict=False)  # tied weights stand under one of their names only
                    weights = None
                with states.writing_folder(out / ADAPTER) as part:
                    save_adapter(adapted, part, extended=bool(plan["changes"]))
                model = adapted.merge_and_unload()
            with states.writing_folder(out / CHECKPOINT) as part, _no_bars():
                model.save_pretrained(part, state_dict=weights)
                prepared.tokenizer.save_pretrained(part)


def _take_steps(
    config: RunConfig,
    prepared: Prepared,
    model: PreTrainedModel,
    adapted: PeftModel | None,
    state: Path | None,
    out: Path,
    device: torch.device,
    processes: Processes,
    progress: bool,
) -> Record:
    """Train `model`, or what is `adapted` in it, in place from `state` on; the record of the time that it took."""
    placer, seen = placer_of(model, config), prepared.tokens_seen(config)
    dataset, method = prepared.dataset(config, placer), format_methods(surgery.current_methods(model))
    bar, interruption = ProgressBar(config.name, seen=seen, shown=progress), Interruption(processes)
    records = LossRecords(config, seen, method, out / RECORDS_FILE, processes)
    with processes.together():
        teacher = None
        if config.distill is not None:
            teacher = Teacher.load(config.distill, prepared.tokenizer, model, config.train_length, device)
        preserved = None
        if config.preserve is not None:
            assert config.model.from_ is not None
            preserved = Agreement.load(config.preserve, config.model.from_, config.train_length, device)
        trainer = RunTrainer(
            config=config,
            model=adapted or model,
            dataset=dataset,
            out=out,
            device=device,
            callbacks=[bar, records, interruption, Stages(config, model), *trackers(config.report_to, out)],
            processes=processes,
            teacher=teacher,
            preserved=preserved,
        )
        if placer is not None:
            check_reach(model, dataset)
    with contextlib.closing(bar), interruption, lost_workers():
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    step = trainer.state.global_step
    if step < config.total_steps:
        assert interruption.asked
        with processes.together():
            raise KeyboardInterrupt(
                f"interrupted at step {step} of {config.total_steps}; {out} keeps the state:"
                " run the same again to go on"
            )
    return train_record(config, method, "seconds", round(trainer.seconds, 3), step, seen(step))


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
    data = config.data
    named = {"data.tokenizer": data.tokenizer, "data.template": data.template, "model.from": config.model.from_}
    named |= {"data.text": data.text, "data.conversations": data.conversations}
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


def _last_state(config: RunConfig, out: Path, tokens_seen: TokensSeen) -> Path | None:
    """The state to go on from; what was done after it is removed, since it will be done again."""
    state, warnings = states.newest_state(out / STATE_FOLDER)
    for warning in warnings:
        _say(warning)
    states.drop_damaged(out / STATE_FOLDER, state)
    seen = 0 if state is None else tokens_seen(states.state_step(state))
    records = out / RECORDS_FILE
    if records.exists():
        kept = [
            record
            for record in read_records(records)
            if record.task != "train" or (record.metric in ("loss", "skipped") and (record.n or 0) <= seen)
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
