"""Environment variables in settings, so that a committed file can name text that lies elsewhere on each machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from longspan.errors import ConfigError


def expand_variables(value: Any, where: str) -> Any:
    """`value` with `${NAME}` replaced by the environment variable NAME in every text inside it.

    Raises:
        ConfigError: the variable is not set.
    """
    if isinstance(value, Mapping):
        return {key: expand_variables(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_variables(item, where) for item in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        if not os.environ.get(match[1]):
            raise ConfigError(f"{where}: '{value}' needs the environment variable {match[1]}, which is not set; set it")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", look_up, value)
