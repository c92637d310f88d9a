"""How values become bytes and are read again."""
