"""Slots phi and psi: methods that change what is rotated."""
