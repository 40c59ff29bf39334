"""Benchmarks: speed, and behaviour under kills."""
