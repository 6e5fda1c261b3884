"""Settings: a YAML file and `key=value` overrides, read strictly; every mistake is one line that names the key."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from longspan.errors import ConfigError, LengthError
from longspan.lengths import parse_length
from longspan.train.variables import expand_variables


def _length(value: Any) -> int:
    try:
        return parse_length(value)
    except LengthError as error:
        raise ValueError(str(error)) from error


Length = Annotated[int, BeforeValidator(_length)]
"""A number of tokens as people write it: 512, 32k, 1m (k = 1024)."""


class Settings(BaseModel):
    """A group of settings: frozen, unknown keys forbidden, read from YAML."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def from_yaml(cls, path: Path | str, overrides: Iterable[str] = ()) -> Self:
        """Settings in the file `path`, after `overrides` such as `optimizer.learning_rate=1e-3` were put in.

        Raises:
            ConfigError: the file is missing or no YAML, a key is unknown, or a value cannot be used.
        """
        return cls.parse(with_overrides(read_yaml(path), overrides), str(path))

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Settings from nested dictionaries; `where` says in an error where they stand.

        `${NAME}` in a value takes an environment variable.

        Raises:
            ConfigError: a key is unknown or missing, a value cannot be used, or a variable is not set.
        """
        try:
            return cls.model_validate(expand_variables(dict(values), where))
        except ValidationError as error:
            raise ConfigError(f"{where}: {_one_line(cls, error)}") from error

    def to_json(self) -> dict[str, Any]:
        """All settings, defaults filled in, as values that JSON and YAML can write."""
        return self.model_dump(mode="json", by_alias=True)

    def to_yaml(self) -> str:
        """All settings, defaults filled in, as YAML that `from_yaml` reads back."""
        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The settings that the file `path` names, as they stand there.

    Raises:
        ConfigError: the file is missing or no YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise ConfigError(f"cannot read {path}: {reason}; give the path of a YAML file") from error
    values = _load_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a list of settings: write one `key: value` a line")
    return values


def with_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """`values` with each `a.b=value` of `overrides` put in, its value read as YAML.

    Raises:
        ConfigError: one is of another form.
    """
    for override in overrides:
        _put(values, override)
    return values


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, except that a key written twice is an error and not a silent replacement."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' is set twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _load_yaml(text: str, where: str) -> Any:
    try:
        # a subclass of the safe loader: it makes plain values only
        return yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"{where}{place}: not valid YAML ({' '.join(problem.split())}); correct that line") from error


def _put(values: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in nested dictionaries; the value is read as YAML."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set '{override}' is not of the form key=value: write, say, optimizer.learning_rate=1e-3")
    for number, part in enumerate(parts[:-1], start=1):
        inner = values.get(part)
        if inner is None:
            inner = values[part] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"--set '{override}': '{'.'.join(parts[:number])}' is a single value and holds no keys")
        values = inner
    values[parts[-1]] = _load_yaml(text, f"--set '{override}'")


def _one_line(model: type[BaseModel], error: ValidationError) -> str:
    """The first unknown key, or else the first mistake, and how many more there are."""
    # a key that is missing may well be the one that was misspelled: unknown keys come first
    errors = sorted(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    first = errors[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        line = f"unknown key '{key}'; {_suggestion(_known_keys(model, first['loc']), str(first['loc'][-1]))}"
    elif first["type"] == "missing":
        line = f"'{key}' is missing; add it"
    else:
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:] if message.startswith("Input ") else message
        value = first["input"]
        got = f", not {value!r}" if key and not isinstance(value, dict) and first["type"] != "value_error" else ""
        line = f"'{key}': {message}{got}" if key else message
    more = len(errors) - 1
    return " ".join(line.split()) + (f" (and {more} more mistake{'s' if more > 1 else ''})" if more else "")


def _suggestion(known: list[str], key: str) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"


def _known_keys(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys of the settings group that holds the key at `place`."""
    for part in place[:-1]:
        for name, field in model.model_fields.items():
            if part == (field.alias or name):
                model = _group(field.annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _group(annotation: Any) -> type[BaseModel] | None:
    """The settings class inside an annotation such as `X`, `X | None` or `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_group(argument) for argument in typing.get_args(annotation))
    return next((group for group in found if group is not None), None)
