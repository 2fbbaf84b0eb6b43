"""Docks beside *MLB-Seg*: curves and weight maps."""
