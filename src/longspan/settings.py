"""Settings of methods: each value is checked when a method is made, whoever makes it."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Any

from longspan.errors import MethodError


def check_settings(method: Any) -> None:
    """Hold the fields of a frozen dataclass against their annotations; whole numbers become floats where those fit.

    Raises:
        MethodError: a value of another type, not among those listed, or not finite.
    """
    hints = typing.get_type_hints(type(method))
    for field in dataclasses.fields(method):
        value = _checked(type(method).__name__, field.name, getattr(method, field.name), hints[field.name])
        object.__setattr__(method, field.name, value)


def require(holds: bool, method: object, demand: str) -> None:
    """Refuse settings of `method` that do not fit together or lie outside their range.

    Raises:
        MethodError: `holds` is false; `demand` says what should hold.
    """
    if not holds:
        raise MethodError(f"{method}: {demand}")


def _checked(owner: str, name: str, value: Any, hint: Any) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for option in options:
        if typing.get_origin(option) is typing.Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
        elif option == tuple[float, ...] and isinstance(value, list | tuple):  # JSON and the command line have lists
            return tuple(_checked(owner, name, item, float) for item in value)
        elif type(value) is option:
            return value
    wanted = " or ".join(_spelled(option) for option in options)
    raise MethodError(f"{owner}({name}={value!r}) does not fit: give {wanted}")


def _spelled(option: Any) -> str:
    if typing.get_origin(option) is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(option))
    if option == tuple[float, ...]:
        return "a list of numbers"
    return "None" if option is type(None) else f"a value of type {option.__name__}"
