"""Apply a plan to a model in place, and undo it to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from transformers import PreTrainedModel

from longspan.equation import Method
from longspan.registry import methods_to_json
from longspan.surgery.install import install, restore_attribute
from longspan.surgery.plan import Plan, plan
from longspan.surgery.saved import patched_classes


class Patch:
    """A change made to a model: its plan, and the way back. As a context manager it is undone at the end."""

    def __init__(self, model: PreTrainedModel, plan: Plan):
        self.model = model
        self.plan = plan
        self._undo: list[Callable[[], None]] = []
        self._apply()

    def undo(self) -> None:
        """Restore every bit of what the model was before; patches come off in the opposite order of their making."""
        if not self._undo:
            return
        current = getattr(self.model, "_longspan_patch", None)
        assert current is self, "undo the patches that were applied later first"
        while self._undo:
            self._undo.pop()()

    def _apply(self) -> None:
        model, plan = self.model, self.plan
        install(model, plan, self._undo)
        config_class, model_class = patched_classes(plan.family)
        config = model.config
        saved = {
            "methods": methods_to_json(plan.methods),
            "original_length": plan.window.original_length,
            "target_length": plan.window.target_length,
        }
        self._set(config, "longspan", saved)
        self._set(config, "max_position_embeddings", plan.window.target_length)
        self._set_class(config, config_class)
        self._set_class(model, model_class)
        self._set(model, "_longspan_patch", self)

    def _set(self, target: object, name: str, value: object) -> None:
        self._undo.append(restore_attribute(target, name))
        object.__setattr__(target, name, value)  # neither a config's validation nor a module's registration is wanted

    def _set_class(self, target: object, kind: type) -> None:
        before = type(target)
        self._undo.append(lambda: setattr(target, "__class__", before))
        target.__class__ = kind

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def __deepcopy__(self, memo: dict[int, object]) -> None:
        """A copied model stays patched but has no way back: the way back belongs to the original."""
        return None


def extend(
    model: PreTrainedModel,
    methods: Sequence[Method] | str,
    *,
    target_length: int | None = None,
    original_length: int | None = None,
) -> Patch:
    """Apply methods to a model in place, on top of those already applied.

    Args:
        model: a causal language model of a supported family, plain or patched.
        methods: methods, or their spelling such as `coca+yarn`.
        target_length: tokens the model shall read; needed by methods that act through the factor.
        original_length: tokens it was trained on; read from the config if not given.

    Raises:
        MethodError, FamilyError, LengthError: as `plan`; the model is untouched then.
    """
    return Patch(model, plan(model, methods, target_length=target_length, original_length=original_length))
