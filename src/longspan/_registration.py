"""Teach transformers' auto classes about patched models the first time that they look for a config, not before.

`import longspan` must stay light, and `AutoModelForCausalLM.from_pretrained(patched)` must work in whichever order the
two packages were imported. Registering needs the families' own modules, which transformers loads in circles, so even
the moment when the auto classes appear is too early: their first `from_pretrained` is the first safe one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

WAITS_FOR = "transformers.models.auto.configuration_auto"


def install() -> None:
    """Register before the first use of `AutoConfig.from_pretrained`, which every auto class calls."""
    if WAITS_FOR in sys.modules:
        _prepare(sys.modules[WAITS_FOR])
    else:
        sys.meta_path.insert(0, _Finder())


def _prepare(module: types.ModuleType) -> None:
    auto_config = module.AutoConfig
    original = auto_config.__dict__["from_pretrained"]

    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        auto_config.from_pretrained = original
        import longspan.surgery
        import longspan.systems.discrec.model  # both register

        assert longspan.surgery
        return auto_config.from_pretrained(*args, **kwargs)

    auto_config.from_pretrained = classmethod(from_pretrained)


class _Finder(importlib.abc.MetaPathFinder):
    """Watches for one module and prepares it once it is loaded; every other import passes by."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != WAITS_FOR:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Runs the module's own loader, then prepares the module."""

    def __init__(self, loader: importlib.abc.Loader):
        self.loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        self.loader.exec_module(module)
        _prepare(module)
