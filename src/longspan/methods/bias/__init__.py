"""Slot b: methods that add a number to a logit."""
