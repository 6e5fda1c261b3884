"""A planted fault, and the list of all of them."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import PreTrainedModel

import longspan as ls
from conftest import TRAIN_LENGTH, make_model

TARGET = 4 * TRAIN_LENGTH
Sabotage = Callable[[Any, pytest.MonkeyPatch], PreTrainedModel | None]


@dataclass(frozen=True)
class Fault:
    """One planted fault, the healthy model it is planted in, and the checks that must find it."""

    name: str
    sabotage: Sabotage
    methods: str
    caught_by: tuple[str, ...]
    family: str
    against: bool
    settings: dict[str, Any]

    @property
    def text(self) -> str:
        """What goes wrong, in one line."""
        return (inspect.getdoc(self.sabotage) or "").partition("\n")[0]

    @contextlib.contextmanager
    def planted(self) -> Iterator[tuple[PreTrainedModel, PreTrainedModel | None]]:
        """The sick model, and the plain one to compare it with where the fault needs that."""
        model = make_model(self.family, **self.settings)
        against = copy.deepcopy(model) if self.against else None
        if self.methods:
            ls.extend(model, self.methods, target_length=TARGET)
        with pytest.MonkeyPatch.context() as monkeypatch:
            yield self.sabotage(model, monkeypatch) or model, against


FAULTS: dict[str, Fault] = {}


def fault(
    methods: str, *caught_by: str, family: str = "llama", against: bool = False, **settings: Any
) -> Callable[[Sabotage], Sabotage]:
    """Register a fault of models extended by `methods` (none: a plain one), which these checks must find."""

    def register(sabotage: Any) -> Sabotage:
        name = sabotage.__name__
        FAULTS[name] = Fault(name, sabotage, methods, caught_by, family, against, settings)
        return sabotage

    return register
