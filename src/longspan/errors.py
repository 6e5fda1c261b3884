"""One tree of errors: every mistake a user can make is a `LongspanError` with one clear line."""

from __future__ import annotations


class LongspanError(Exception):
    """The user's mistake, in one line: what is wrong, where, and what to do about it."""

    exit_code = 2


class ConfigError(LongspanError):
    """A YAML file or a command-line value that cannot be used."""


class LengthError(LongspanError):
    """A length that cannot be read, or lengths that contradict each other."""


class MethodError(LongspanError):
    """An unknown method, an impossible setting of one, or two methods on one slot."""


class FamilyError(LongspanError):
    """A model whose family is not supported, or a method that this family cannot take."""


class DataError(LongspanError):
    """Text, token files or tokenizers that are missing, empty, unreadable or too short."""


class CheckpointError(LongspanError):
    """A model folder that is missing, truncated, corrupt or of another kind."""


class StorageError(LongspanError):
    """The disk is full or a place cannot be written; nothing half-written is left behind."""


class TrainingError(LongspanError):
    """Training cannot go on (the loss is not a number, say); the last good state is kept."""

    exit_code = 1
