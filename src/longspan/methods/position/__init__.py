"""Slot p: where the tokens of a training window stand."""
