"""Runs of a study, each in a folder of its own: trained, saved; skipped if done, taken up where they stopped."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import set_seed

from longspan.errors import CheckpointError, ConfigError, DataError
from longspan.files import alone_in, write_text
from longspan.models import torch_device
from longspan.records import Record, append_records
from longspan.systems.discrec.model import DiscRec
from longspan.systems.discrec.prepare import Prepared
from longspan.systems.discrec.rows import Rows, Samples
from longspan.systems.discrec.settings import StudySettings
from longspan.systems.discrec.trainer import BEST, STATES, RecommendationTrainer
from longspan.train.config import changed_keys
from longspan.train.exact import train_on
from longspan.train.states import remove_leftovers

RUN_FILE, CHECKPOINT, RECORDS_FILE = "run.yaml", "checkpoint", "records.jsonl"
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,
    yaml.YAMLError,
    SafetensorError,
    StrictDataclassError,
)
"""What reading a damaged run raises."""


def train_study(
    settings: StudySettings, out: Path, *, arms: Sequence[str] | None = None, progress: bool = True
) -> list[Path]:
    """Train every arm, or those named, with every seed; returns the folders `out/ARM-SEED`, each with `checkpoint`.

    Called again after a stop or a kill, it goes on from there to the same weights.

    Raises:
        ConfigError: there is no such arm; a folder holds a run with other settings or on other data, or is in use.
        DataError: the prepared data cannot be used.
        TrainingError: a loss is no number.
        KeyboardInterrupt: after Ctrl-C; the state is saved first.
    """
    unknown = next((arm for arm in arms or () if arm not in settings.arms), None)
    if unknown is not None:
        raise ConfigError(f"the study has no arm '{unknown}': its arms are {', '.join(settings.arms)}")
    data = Prepared.read(Path(settings.data))
    device = torch_device(settings.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    folders = []
    for seed in settings.seeds:
        for arm in arms or settings.arms:
            folders.append(out / f"{arm}-{seed}")
            with alone_in(folders[-1]):
                _train(settings, arm, seed, data, folders[-1], device, progress)
    return folders


def find_runs(folder: Path) -> list[Path]:
    """The trained runs in `folder`, or `folder` itself if it is one.

    Raises:
        CheckpointError: there is none.
    """
    found = sorted(path.parent for path in [*folder.glob(f"{CHECKPOINT}/"), *folder.glob(f"*/{CHECKPOINT}/")])
    if not found:
        raise CheckpointError(f"{folder} holds no trained run: make one by `longspan discrec train`")
    return found


def read_run(folder: Path, device: torch.device) -> tuple[dict[str, Any], Prepared, DiscRec]:
    """What a run was trained by, its data, and its model ready for use.

    Raises:
        CheckpointError: the folder is no run, or its model and its data do not belong together.
        DataError: the data is not where it was.
    """
    try:
        values = yaml.safe_load((folder / RUN_FILE).read_text(encoding="utf-8"))
        data, fingerprint = Path(values["data"]), values["fingerprint"]
        model, loading = DiscRec.from_pretrained(folder / CHECKPOINT, local_files_only=True, output_loading_info=True)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder} is no run that can be read ({reason:.200}): train it anew") from error
    if loading["missing_keys"] or loading["unexpected_keys"]:
        raise CheckpointError(f"{folder / CHECKPOINT} lacks weights or has those of another model: train it anew")
    prepared = Prepared.read(data)
    check_model(model, prepared)
    if prepared.fingerprint != fingerprint:
        raise CheckpointError(f"{data} is not what {folder} was trained on: prepare it as it was, or train anew")
    return values, prepared, model.to(device).eval()


def check_model(model: DiscRec, data: Prepared) -> None:
    """Refuse items that the model has no tokens or positions for.

    Raises:
        CheckpointError: levels or codebooks differ.
    """
    config, ids = model.config, data.ids
    if (config.codes_per_item, config.codebook_size) != (ids.levels, ids.codebook_size):
        raise CheckpointError(
            f"the model has {config.codes_per_item} levels of {config.codebook_size} codes and the data"
            f" {ids.levels} of {ids.codebook_size}: prepare data with the same"
        )


def rows_of(model: DiscRec, data: Prepared) -> Rows:
    """How the model reads items."""
    return Rows(data.ids, model.config.history, model.config.left_padding)


def _train(
    settings: StudySettings, arm: str, seed: int, data: Prepared, out: Path, device: torch.device, progress: bool
) -> None:
    _begin(settings, arm, seed, data, out)
    if (out / CHECKPOINT).is_dir():
        shutil.rmtree(out / STATES, ignore_errors=True)  # a run killed at its very end still has them
        return
    set_seed(seed)
    model = DiscRec(settings.model_config_of(arm, data))
    rows, interactions = rows_of(model, data), data.interactions
    learned = Samples(interactions, rows, interactions.training_samples())
    validation = Samples(interactions, rows, _drawn(interactions.held_out("validation"), settings, seed))
    trainer = RecommendationTrainer(settings, seed, model, learned, validation, out, device)
    train_on(trainer, out.name, progress=progress)
    (out / RECORDS_FILE).unlink(missing_ok=True)
    append_records(out / RECORDS_FILE, _records(settings, arm, seed, trainer))
    (out / BEST).rename(out / CHECKPOINT)
    shutil.rmtree(out / STATES)


def _begin(settings: StudySettings, arm: str, seed: int, data: Prepared, out: Path) -> None:
    """Make sure that this run belongs into the folder."""
    decisive = settings.decisive(arm, seed) | {"fingerprint": data.fingerprint}
    path = out / RUN_FILE
    if path.exists():
        try:
            before = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} is damaged: remove {out} or choose another --out") from error
        changed = changed_keys({key: value for key, value in before.items() if key not in _PLACES}, decisive)
        if changed:
            raise ConfigError(
                f"{out} holds a run with other settings ({', '.join(changed)}): choose another --out or remove it"
            )
    places = dict(zip(_PLACES, (settings.name, arm, settings.data), strict=True))
    write_text(path, yaml.safe_dump({**places, **decisive}, sort_keys=False))
    remove_leftovers(out, RUN_FILE, RECORDS_FILE)
    remove_leftovers(out / STATES)


_PLACES = ("study", "arm_name", "data")


def _drawn(places: list[tuple[int, int]], settings: StudySettings, seed: int) -> list[tuple[int, int]]:
    """The users whose loss chooses the model."""
    wanted = settings.validation_users
    if wanted is None:
        return places
    if wanted > len(places):
        raise DataError(f"validation_users is {wanted}, and there are {len(places)} users: set fewer, or none")
    order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))
    return [places[place] for place in sorted(order[:wanted].tolist())]


def _records(settings: StudySettings, arm: str, seed: int, trainer: RecommendationTrainer) -> list[Record]:
    """Both losses after each epoch: n is the samples learned, depth the share of the run."""
    return [
        Record(
            run=settings.name,
            method=arm,
            model=f"{arm}-{seed}",
            task="train",
            metric=metric,
            value=value,
            n=step * settings.batch,
            depth=step / trainer.steps,
            seed=seed,
        )
        for step, trained, validated in trainer.losses
        for metric, value in (("loss", trained), ("validation_loss", validated))
    ]
