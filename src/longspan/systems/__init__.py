"""Whole systems built on the library's slots: each uses what lies below it and adds no case of its own there."""
