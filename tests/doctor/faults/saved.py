"""What leaves the process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from conftest import TRAIN_LENGTH
from doctor.faults.fault import TARGET, fault
from doctor.faults.tools import by_transformers


def edit_saved_config(monkeypatch: Any, model: Any, edit: Callable[[dict[str, Any]], None]) -> None:
    save = type(model).save_pretrained

    def saved(self: Any, folder: Path, **kwargs: Any) -> None:
        save(self, folder, **kwargs)
        path = Path(folder) / "config.json"
        config = json.loads(path.read_text())
        edit(config)
        path.write_text(json.dumps(config))

    monkeypatch.setattr(type(model), "save_pretrained", saved)


@fault("coca+yarn", "save_and_load", "plain_reload")
def method_lost_when_saved(model: Any, monkeypatch: Any) -> None:
    """config.json names the plain model, so that it loads without the method and without a word."""

    def edit(config: dict[str, Any]) -> None:
        del config["longspan"]
        config["model_type"] = "llama"

    edit_saved_config(monkeypatch, model, edit)


@fault("yarn", "plain_reload")
def saved_under_a_plain_type(model: Any, monkeypatch: Any) -> None:
    """The methods are in config.json, under a model_type by which transformers ignores them."""
    edit_saved_config(monkeypatch, model, lambda config: config.update(model_type="llama"))


@fault("yarn", "save_and_load")
def settings_lost_when_saved(model: Any, monkeypatch: Any) -> None:
    """The method is saved without its settings and comes back with the defaults of another version."""
    edit_saved_config(monkeypatch, model, lambda config: config["longspan"]["methods"][0].update(beta_fast=16.0))


@fault("pope", "save_and_load")
def learned_tensors_lost_when_saved(model: Any, monkeypatch: Any) -> None:
    """What the feature has learned is not in the file and starts afresh."""
    for name, parameter in model.named_parameters():
        if name.endswith("phase"):
            parameter.data.fill_(-1.0)
    save = type(model).save_pretrained

    def saved(self: Any, folder: Path, **kwargs: Any) -> None:
        weights = {name: value for name, value in self.state_dict().items() if not name.endswith("phase")}
        save(self, folder, state_dict=weights, **kwargs)

    monkeypatch.setattr(type(model), "save_pretrained", saved)


@fault("yarn", "server_length")
def length_not_updated(model: Any, _: Any) -> None:
    """max_position_embeddings is still the original length: servers refuse longer inputs."""
    model.config.max_position_embeddings = TRAIN_LENGTH


@fault("", "server_length", against=True)
def length_multiplied_twice(model: Any, _: Any) -> PreTrainedModel:
    """max_position_embeddings is the target of a type that vLLM multiplies by its factor once more."""
    return by_transformers(model, TARGET, rope_type="linear", rope_theta=10000.0, factor=4.0)
