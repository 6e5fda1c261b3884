"""Surgery on Hugging Face models: plan what changes, apply it in place, undo it to the bit, save and load it."""

from longspan.surgery.again import methods_that_stay
from longspan.surgery.bounded_cache import BoundedCache
from longspan.surgery.cache import CollinearCache
from longspan.surgery.patch import Patch, extend
from longspan.surgery.plan import Change, Plan, current_methods, is_extended, original_length, plan, target_length
from longspan.surgery.rotary import placed
from longspan.surgery.saved import register
from longspan.surgery.start import FIT_WINDOWS, STARTS, Start, convert

__all__ = [
    "FIT_WINDOWS",
    "STARTS",
    "BoundedCache",
    "Change",
    "CollinearCache",
    "Patch",
    "Plan",
    "Start",
    "convert",
    "current_methods",
    "extend",
    "is_extended",
    "methods_that_stay",
    "original_length",
    "placed",
    "plan",
    "register",
    "target_length",
]

register()
