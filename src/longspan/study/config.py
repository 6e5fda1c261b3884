"""The settings of a study: one training run shared by all arms, what differs between them, and what is measured."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from longspan.errors import ConfigError, LongspanError
from longspan.registry import format_methods, parse_methods
from longspan.study.evaluate_settings import EvaluateSettings
from longspan.train.config import RunConfig
from longspan.train.settings import Length, Settings

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
"""Names of studies and arms are also names of folders."""

OWN_TO_ARMS = ("name", "seed", "methods")
"""Settings of a run that the study gives, one arm and seed after the other."""
EQUAL_FOR_ALL = (*OWN_TO_ARMS, "data", "threads")
"""Settings of a run that no arm may change: the arms would no longer be compared on equal terms."""
OWN_ARRANGEMENT = ("data.packing",)
"""But for these, which leave what is read as it is: packed against plain rows of conversations may be the question."""
WINDOWS = ("train_length", "target_length")
"""Nor these, unless the arms go on from a trained model: then short windows against long ones, at equal tokens, may be
the very question."""


class Arm(Settings):
    """One way to make the model; all arms share initial weights, data order and steps."""

    methods: str = "rope"
    """Methods it is trained with."""
    extensions: list[str] | None = None
    """What is put on it afterwards; null takes the study's list."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of the run that differ in this arm, by dotted name: `optimizer.learning_rate: 1e-3`."""

    @field_validator("methods")
    @classmethod
    def _canonical_methods(cls, value: str) -> str:
        return _canonical(value)

    @field_validator("extensions")
    @classmethod
    def _canonical_extensions(cls, value: list[str] | None) -> list[str] | None:
        return None if value is None else _extensions(value)

    @field_validator("set")
    @classmethod
    def _fair(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value:
            if key.split(".")[0] in EQUAL_FOR_ALL and key not in OWN_ARRANGEMENT:
                raise ValueError(f"'{key}' must be equal for all arms; set it under 'run'")
        return value


class StudyConfig(Settings):
    """Methods x lengths x seeds on equal terms."""

    name: Name
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(default_factory=lambda: [0])
    """A model is trained for each; initial weights and data order follow from it."""
    run: dict[str, Any]
    """A run as `longspan train` reads it, without name, seed and methods; equal for all arms.

    `{seed}` in `model.from` and `distill.from` stands for the seed, so that each seed goes on from a model of its own.
    """
    arms: Annotated[dict[Name, Arm], Field(min_length=1)]
    extensions: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["none"])
    """What is put on each trained arm, aimed at each length afresh; `none` measures it as it was trained."""
    lengths: Annotated[list[Length], Field(min_length=1)]
    """Tokens in the window when measured."""
    evaluate: EvaluateSettings

    @classmethod
    def from_yaml(cls, path: Path | str, overrides: Iterable[str] = ()) -> Self:
        """The study in the file `path`; see `Settings.from_yaml`. `${NAME}` in a value takes an environment variable.

        Raises:
            ConfigError: as there, or a variable that is not set.
        """
        study = super().from_yaml(path, overrides)
        study.check_runs(str(path))
        return study

    @field_validator("seeds", "lengths")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"{value} names one twice; leave it out")
        return value

    @field_validator("lengths")
    @classmethod
    def _ascending(cls, value: list[int]) -> list[int]:
        return sorted(value)

    @field_validator("extensions")
    @classmethod
    def _canonical_extensions(cls, value: list[str]) -> list[str]:
        return _extensions(value)

    @field_validator("run")
    @classmethod
    def _shared(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in OWN_TO_ARMS:
            if key in value:
                raise ValueError(f"'{key}' does not belong here: the study gives it, by arm and seed")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        model = self.run.get("model")
        goes_on = isinstance(model, dict) and model.get("from") is not None
        for name, arm in self.arms.items():
            for key in WINDOWS:
                if key in arm.set and not goes_on:
                    raise ValueError(f"arm '{name}': '{key}' must be equal for all arms; set it under 'run'")
        if all(arm.extensions is not None for arm in self.arms.values()) and "extensions" in self.model_fields_set:
            raise ValueError("'extensions' has no effect when every arm has its own; leave it out")
        passkey = self.evaluate.passkey
        if passkey is None:
            return self
        measured = self.lengths_by_task()["passkey"]
        if not measured:
            raise ValueError(f"'evaluate.passkey.max_length' {passkey.max_length} is below every length; raise it")
        if isinstance(passkey.trials, dict) and min(passkey.trials) > measured[0]:
            raise ValueError(f"'evaluate.passkey.trials' says nothing about {measured[0]} tokens; add it")
        return self

    def check_runs(self, where: str) -> None:
        """Make sure that every arm can be trained and every extension be put on it, before anything is trained.

        Raises:
            ConfigError: the settings of a run cannot be used, methods exclude each other, or the gate is unmeasured.
        """
        from longspan.equation import fill_slots

        for name in self.arms:
            run = self.run_config(name, where=where)
            for extension in self.extensions_of(name):
                try:
                    fill_slots(parse_methods(self.methods_in_force(name, extension)))
                except LongspanError as error:
                    raise ConfigError(f"{where}: arm '{name}' with extension '{extension}': {error}") from error
            passkey = self.evaluate.passkey
            measured = self.lengths_by_task().get("passkey", [])
            if passkey is not None and passkey.gate is not None and run.train_length not in measured:
                raise ConfigError(
                    f"{where}: 'evaluate.passkey.gate' needs the training length {run.train_length} among 'lengths'; "
                    "add it or set gate to null"
                )

    def run_config(self, arm: str, seed: int | None = None, *, where: str = "study", **more: Any) -> RunConfig:
        """The run that trains `arm` with `seed`; `more` are settings of the run by dotted name (`data.cache`).

        Args:
            seed: None takes the first of the study.

        Raises:
            ConfigError: settings that cannot be used, with the arm's name.
        """
        seed = self.seeds[0] if seed is None else seed
        values = copy.deepcopy(self.run)
        for key, value in {**self.arms[arm].set, **more}.items():
            _put(values, key, value)
        for group in ("model", "distill"):
            settings = values.get(group)
            if isinstance(settings, dict) and isinstance(settings.get("from"), str):
                settings["from"] = settings["from"].replace("{seed}", str(seed))
        values |= {"name": f"{self.name}/{arm}-{seed}", "seed": seed, "methods": self.arms[arm].methods}
        return RunConfig.parse(values, f"{where}, run of arm '{arm}'")

    def methods_in_force(self, arm: str, extension: str = "none") -> str:
        """Methods of the trained arm and of the extension together, as records spell them.

        An arm that was trained for a longer window is extended again: what lengthened it makes room for its like.
        """
        from longspan.surgery import methods_that_stay

        trained, added = (parse_methods(text) for text in (self.arms[arm].methods, extension))
        again = self.run_config(arm).target_length is not None
        return format_methods([*methods_that_stay(trained, added, again=again), *added])

    def extensions_of(self, arm: str) -> list[str]:
        """Extensions put on `arm`, in the order given."""
        own = self.arms[arm].extensions
        return self.extensions if own is None else own

    def lengths_by_task(self) -> dict[str, list[int]]:
        """Lengths at which each task that is on is measured."""
        lengths: dict[str, list[int]] = {}
        if self.evaluate.perplexity is not None:
            lengths["perplexity"] = self.lengths
        if self.evaluate.position is not None:
            lengths["position"] = [self.evaluate.position.length or self.lengths[-1]]
        if self.evaluate.passkey is not None:
            longest = self.evaluate.passkey.max_length or self.lengths[-1]
            lengths["passkey"] = [length for length in self.lengths if length <= longest]
        return lengths

    def forward_tokens(self, task: str, length: int) -> int:
        """Tokens the model reads to measure `task` at `length` once, about."""
        evaluate = self.evaluate
        if task == "perplexity":
            assert evaluate.perplexity is not None
            stride = evaluate.perplexity.stride or min(length // 4, 512)
            windows = math.ceil((evaluate.perplexity.max_targets or self.lengths[-1]) / stride)
            return evaluate.perplexity.documents * windows * length
        if task == "position":
            assert evaluate.position is not None
            return evaluate.position.documents * length
        assert evaluate.passkey is not None
        return evaluate.passkey.depths * evaluate.passkey.trials_at(length) * length


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    for part in outer:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"'{key}' cannot be set: '{part}' is a single value and holds no keys")
        values = inner
    values[last] = value


def _canonical(text: str) -> str:
    try:
        return format_methods(parse_methods(text))
    except LongspanError as error:
        raise ValueError(str(error)) from error


def _extensions(texts: list[str]) -> list[str]:
    """Extensions in their canonical spelling; plain is `none` here, since it adds nothing."""
    found = ["none" if _canonical(text) == "rope" else _canonical(text) for text in texts]
    if len(set(found)) < len(found):
        raise ValueError("an extension is named twice; leave it out")
    return found
