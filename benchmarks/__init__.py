"""Benchmarks of accuracy and speed: ``python -m benchmarks.NAME``. Tests do not import them."""
