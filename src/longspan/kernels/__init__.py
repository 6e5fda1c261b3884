"""Fast forms of the equation. Each has the signature of `longspan.reference.reference_attention`."""
