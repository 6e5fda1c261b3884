"""Whole systems of sibling papers, built on the same slots."""
