"""Methods that surgery is tested with: every one that is found, at settings that make a difference."""

from __future__ import annotations

METHODS = (
    "pi",
    "ntk",
    "dynamic_ntk(factor=4.0)",
    "yarn",
    "yarn(ramp='turns')",
    "llama3",
    "base_change",
    "log_n",
    "alibi",
    "pope",
    "pope(width='half')",
    "coca",
    "coca(form='slack')",
    "coca(form='strict', gate='softplus')",
    "coca+dynamic_ntk(factor=4.0)",
    "pope+yarn",
    "rope",
)
GROWING = ("dynamic_ntk(factor=4.0)", "coca+dynamic_ntk(factor=4.0)")
"""Methods whose frequencies follow the length."""
