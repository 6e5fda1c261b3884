"""Pure mathematics, one file a method, a folder a slot. Discovered by `longspan.registry`; there is no list to edit."""
