"""Measurements: speed against others, and survival under kills."""
