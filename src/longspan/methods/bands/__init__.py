"""Slots p and S by distance: methods that move far keys nearer, or leave them out, without training."""
