"""Slot tau: methods that scale all logits of a query."""
