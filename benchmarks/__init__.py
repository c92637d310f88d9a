"""Benchmarks: each module answers one question, and `bench` runs them all."""
