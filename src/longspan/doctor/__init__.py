"""The doctor: proof that a change of a model took effect and broke nothing; random tokens, no data, bounded memory."""

import sys
import types

from longspan.doctor.battery import doctor
from longspan.doctor.registry import CHECKS
from longspan.doctor.report import Check, Report

__all__ = ["CHECKS", "Check", "Report", "doctor"]


class _Room(types.ModuleType):
    """`longspan.doctor` is this package as soon as it is imported, whatever the name stood for before: so it is called
    like the function of its name."""

    __call__ = staticmethod(doctor)


sys.modules[__name__].__class__ = _Room
