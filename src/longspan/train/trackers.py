"""Where a run's numbers go besides `records.jsonl`: TensorBoard, wandb or trackio, by the Trainer's own callbacks."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from transformers import TrainerCallback

from longspan.errors import ConfigError

TENSORBOARD_FOLDER = "tensorboard"


def check_trackers(names: Sequence[str]) -> None:
    """Make sure that every tracker is installed, before anything is prepared.

    Raises:
        ConfigError: one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"'report_to' names {name}, which is not installed: pip install {name}, or leave it out")


def trackers(names: Sequence[str], out: Path) -> list[TrainerCallback]:
    """Callbacks that pass on what the Trainer logs; TensorBoard's files go to `out/tensorboard`.

    wandb and trackio read their own environment variables (WANDB_PROJECT, WANDB_MODE, TRACKIO_PROJECT, ...).
    """
    return [_tracker(name, out) for name in names]


def _tracker(name: str, out: Path) -> TrainerCallback:
    from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback

    if name == "tensorboard":
        callback = TensorBoardCallback()
        # the Trainer's own place is the folder of the states, which is removed when a run is done
        callback.logging_dir = str(out / TENSORBOARD_FOLDER)
        return callback
    return {"wandb": WandbCallback, "trackio": TrackioCallback}[name]()
