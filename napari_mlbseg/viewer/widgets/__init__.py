"""Widgets that know neither session nor viewer."""
