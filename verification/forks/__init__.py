"""Forks at every line of every operation: see `verification.forks.forks`."""
