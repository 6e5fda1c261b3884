"""Apply a plan to a model in place, and undo it to the bit."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from longspan.equation import Method
from longspan.errors import MethodError
from longspan.surgery.install import install, restore_attribute
from longspan.surgery.plan import Plan, plan
from longspan.surgery.saved import patched_classes


class Patch:
    """A change made to a model: its plan, and the way back. As a context manager it is undone at the end."""

    def __init__(self, model: PreTrainedModel, plan: Plan):
        self.model = model
        self.plan = plan
        self._undo: list[Callable[[], None]] = []
        try:
            self._apply()
        except BaseException:
            self._unwind()
            raise

    def undo(self) -> None:
        """Restore every bit of what the model was before; patches come off in the opposite order of their making."""
        if not self._undo:
            return
        if getattr(self.model, "_longspan_patch", None) is not self:
            raise MethodError("a later patch is still on the model: undo that one first")
        self._unwind()

    def set_values(self, values: Iterable[tuple[nn.Parameter, Tensor]]) -> None:
        """Give parameters of the model other values, which go with the patch when it is undone."""
        for parameter, value in values:
            self._undo.append(functools.partial(setattr, parameter, "data", parameter.data))
            parameter.data = value.to(parameter)

    def _unwind(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _apply(self) -> None:
        model, plan = self.model, self.plan
        install(model, plan, self._undo)
        config_class, model_class = patched_classes(plan.family)
        self._set_config(config_class)
        self._undo.append(functools.partial(setattr, model, "__class__", type(model)))
        model.__class__ = model_class
        self._undo.append(restore_attribute(model, "_longspan_patch"))
        object.__setattr__(model, "_longspan_patch", self)

    def _set_config(self, config_class: type[PreTrainedConfig]) -> None:
        """Give the model a config of its own: another model may have been built from the same object."""
        before = self.model.config
        config = copy.deepcopy(before)
        config.__class__ = config_class
        for name in ("auto_map", "model_type"):  # code without these methods; the plain type, as config.json had it
            vars(config).pop(name, None)
        config.longspan = self.plan.saved()
        config.max_position_embeddings = self.plan.window.target_length
        for module in self.model.modules():
            if getattr(module, "config", None) is before:
                self._undo.append(functools.partial(setattr, module, "config", before))
                module.config = config

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __deepcopy__(self, memo: dict[int, object]) -> None:
        """A copied model stays patched but has no way back: the way back belongs to the original."""
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """The same for a model sent to another process."""
        return (type(None), ())


def extend(
    model: PreTrainedModel,
    methods: Sequence[Method] | Method | str,
    *,
    target_length: int | str | None = None,
    original_length: int | str | None = None,
    again: bool = False,
) -> Patch:
    """Apply methods to a model in place, beside those that it was trained with.

    Args:
        model: a causal language model of a supported family, plain or patched.
        methods: methods, or their spelling such as `coca+yarn`.
        target_length: tokens the model shall read; needed by methods that act through the factor.
        original_length: tokens it was trained on; read from the config if not given.
        again: extend a model that is extended already. A new method takes the place of an old frequency or scale in
            the same slot, the other methods stay, and the factor counts from the original length, not from the old
            target.

    Raises:
        MethodError, FamilyError, LengthError: as `plan`; the model is untouched then.
    """
    lengths = {"target_length": target_length, "original_length": original_length}
    return Patch(model, plan(model, methods, **lengths, again=again))
