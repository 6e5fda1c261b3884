"""Whole systems of published papers, built on the same rooms as everything else."""
