"""Surgery on Hugging Face models: plan what changes, apply it in place, undo it to the bit, save and load it."""

from longspan.surgery.cache import CollinearCache
from longspan.surgery.patch import Patch, extend
from longspan.surgery.plan import Change, Plan, current_methods, original_length, plan, target_length
from longspan.surgery.saved import load, register

__all__ = [
    "Change",
    "CollinearCache",
    "Patch",
    "Plan",
    "current_methods",
    "extend",
    "load",
    "original_length",
    "plan",
    "register",
    "target_length",
]

register()
