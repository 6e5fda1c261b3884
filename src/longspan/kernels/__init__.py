"""Fast forms of the equation. Each has the signature of `longspan.equation.reference_attention`."""
