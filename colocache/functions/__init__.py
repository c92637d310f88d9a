"""Decorated functions: how a call becomes a key, and what a decorated function can do."""
