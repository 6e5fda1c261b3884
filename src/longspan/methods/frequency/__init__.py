"""Slot omega: methods that change how fast each pair turns."""
