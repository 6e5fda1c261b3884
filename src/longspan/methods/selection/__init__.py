"""Methods that choose which keys a query sees (slot S)."""
